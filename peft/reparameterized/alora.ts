// aLoRA (activated LoRA): a LoRA that acts from a certain sequence of tokens on, so that keys and values of the text before it stay the base's.
//   y_t = W x_t + b + a_t·s·B A drop(x_t),   a_t = 1 from the start of the last invocation w₁ … w_n in the text on, 0 before it
// Greenewald et al. 2025, arXiv 2504.12397, as built in PEFT. With a cache the text is remembered (Context.seen): a token that is decoded is
// adapted when the whole invocation stands before it or ends with it. There is no one weight to merge into.
import { iota } from '../../core/ops/index.ts';
import { eq, full, ge, gt } from '../../core/ops/map.ts';
import { pad } from '../../core/ops/move.ts';
import { maxOver } from '../../core/ops/reduce.ts';
import { ShapeError } from '../../core/shape.ts';
import type { Tensor } from '../../core/tensor.ts';
import type { Context, Seen } from '../../nn/context.ts';
import { defineMethod } from '../attach.ts';
import type { Site } from '../site.ts';
import { checkUpdate, dropped, type Factors, factors, type LoraConfig, scaling, update } from './lora.ts';

export interface AloraConfig extends LoraConfig {
  readonly invocation: readonly number[]; // w
  readonly absent: 'base' | 'all'; // a text without it: none of its tokens, as PEFT has it, or all, as LoRA
}

/** Where the last invocation starts in each row, counted from 1; 0 where there is none. [B, 1] */
function lastStart({ ids, used }: Seen, w: readonly number[]): Tensor {
  const [b, t] = ids.shape as readonly [number, number];
  const places = t - w.length + 1;
  if (places < 1) return full([b, 1], 0);
  const whole = w.map((id, k) => eq(ids.slice(1, k, k + places), id)).reduce((x, y) => x.mul(y)); // [B, places]
  const real = used === null ? whole : whole.mul(used.slice(1, w.length - 1, t));
  return maxOver(real.mul(iota(places).add(1)), [1], true);
}

/** a [B, T, 1] for the tokens x [B, T, in] of this pass; null for rows that are no tokens of the text (LLaMA-Adapter's prompt passes k and v too). */
function active(x: Tensor, { invocation, absent }: AloraConfig, { path }: Site<'linear'>, ctx: Context): Tensor | null {
  if (ctx.seen === undefined)
    throw new ShapeError(`alora at ${path}: it acts on the ids of the text, which this pass does not say; run the whole model`);
  const seen = ctx.seen();
  const start = lastStart(seen, invocation);
  const [b, t] = [x.shape[0]!, x.shape[1]!];
  const rows = absent === 'all' ? full([b, 1], 1) : gt(start, 0); // [B, 1]
  if (ctx.cache?.filled) return x.shape.length === 3 ? rows.add(full([b, t], 0)).reshape(b, t, 1) : null;
  const n = seen.ids.shape[1]!;
  if (x.shape.length !== 3 || t < n) return null;
  return pad(ge(iota(n).add(1), start).mul(rows), 1, t - n, 0).reshape(b, t, 1); // a prompt in front is before the invocation
}

/** Count: r(in + out). */
export const alora = defineMethod<'linear', AloraConfig, Factors>({
  name: 'alora',
  family: 'reparameterized',
  paper: 'arXiv:2504.12397',
  at: 'linear',
  defaults: {
    rank: 32,
    alpha: 32,
    rankStabilized: false,
    dropout: 0,
    init: 'kaiming',
    invocation: [0],
    absent: 'base',
    where: ['q', 'k', 'v'],
  },
  check: (site, c) => {
    checkUpdate('alora')(site, c);
    if (site.block === null)
      throw new RangeError(
        `alora: ${site.path} is outside the blocks, where it may be given other things than tokens; choose layers of the blocks`,
      );
    if (c.invocation.length === 0 || !c.invocation.every((id) => Number.isInteger(id) && id >= 0))
      throw new RangeError(
        `alora: the invocation [${c.invocation.join(', ')}] must be one id or more; encode its text with the model's tokenizer`,
      );
  },
  init: (site, c, r) => ({ train: factors(site, c, r) }),
  around:
    (call, { A, B }, c, site) =>
    (x, ctx) => {
      const a = active(x, c, site, ctx);
      const y = call(x, ctx);
      return a === null ? y : y.add(dropped(x, c, site, ctx).matmul(A.T).matmul(B.T).mul(scaling(c)).mul(a));
    },
  byRow: true,
  count: update.count,
  startsAsBase: () => 'close', // adds an exact zero
});
