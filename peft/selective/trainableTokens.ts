// Trainable tokens: a few rows of the embedding are trained (new tokens, or old ones to be learned anew), and the others stay.
//   E' = E with row t_i replaced by r_i,   r_i = E_{t_i} at the start;   where the head is tied to the embedding, the head too
// Hugging Face PEFT's TRAINABLE_TOKENS. Rows are replaced and not added to, so that they mean the same over an embedding whose new rows
// were drawn otherwise. Merging writes the rows. Count: n·d.
import { gather } from '../../core/ops/index.ts';
import { where } from '../../core/ops/map.ts';
import { leaf, param, type Tensor } from '../../core/tensor.ts';
import { defineMethod } from '../attach.ts';

export interface TrainableTokensConfig {
  readonly tokens: readonly number[]; // t, each once
  readonly init: 'row' | 'normal'; // r_i as the table has it, or N(0, 1)
}

/** w [V, d] with the rows of `tokens` from rows [n, d]. */
function replaced(w: Tensor, rows: Tensor, tokens: readonly number[]): Tensor {
  const [isToken, from] = [new Uint8Array(w.shape[0]!), new Int32Array(w.shape[0]!)];
  for (const [k, t] of tokens.entries()) {
    isToken[t] = 1;
    from[t] = k;
  }
  return where(leaf(isToken, [w.shape[0]!, 1]), gather(rows, leaf(from, [w.shape[0]!])), w);
}

/** By default the embedding, and with it the head that shares its table. For a head with a table of its own add `'head.weight'`. */
export const trainableTokens = defineMethod<'weight', TrainableTokensConfig, { rows: Tensor }>({
  name: 'trainableTokens',
  family: 'selective',
  paper: 'https://huggingface.co/docs/peft/package_reference/trainable_tokens',
  at: 'weight',
  defaults: { tokens: [0], init: 'row', where: 'embed.weight' },
  takes: { init: ['row', 'normal'] },
  followsTied: true,
  readsWeight: true,
  check: ({ path, shape }, { tokens }) => {
    if (shape.length !== 2) throw new RangeError(`trainableTokens: ${path} is no table of rows; attach it to an embedding`);
    if (tokens.length === 0) throw new RangeError(`trainableTokens: no tokens given for ${path}; name at least one`);
    const bad = tokens.find((t, k) => !Number.isInteger(t) || t < 0 || t >= shape[0]! || tokens.indexOf(t) !== k);
    if (bad !== undefined)
      throw new RangeError(`trainableTokens: token ${bad} is not one of 0 … ${shape[0]! - 1} at ${path}, or is named twice`);
  },
  init: ({ shape: [, d] }, { tokens, init }, r, { weight }) => {
    const n = tokens.length * d!;
    const w = init === 'row' ? weight() : null;
    const values = w === null ? r.normal(n) : Float64Array.from({ length: n }, (_, k) => w[tokens[Math.floor(k / d!)]! * d! + (k % d!)]!);
    return { train: { rows: param(values, [tokens.length, d!]) } };
  },
  around:
    (call, { rows }, { tokens }) =>
    (ctx) =>
      replaced(call(ctx), rows, tokens),
  fold: ({ weight, bias }, { rows }, { tokens }) => ({ weight: replaced(weight, rows, tokens), bias }),
  count: (sites, { tokens }) => {
    const train = sites.reduce((n, { shape: [, d] }) => n + tokens.length * d!, 0);
    return { train, stored: train };
  },
  startsAsBase: ({ init }) => (init === 'row' ? 'bitwise' : 'no'),
});
