// Files of VB-LoRA: one bank for all layers, and logits at each; or of the logits only the largest and their shares.
//   vblora_logits_A [r, in/b, h], vblora_logits_B [out/b, r, h]; base_model.vblora_vector_bank [h, b]
//   save_only_topk_weights: …_topk_indices [.., k] and …_topk_weights [.., k − 1], the last share being what is missing to 1
import { type VbloraConfig, vblora } from '../../peft/reparameterized/vblora.ts';
import { BIAS, count1, dropout, EXCLUDE, FAN, number, TARGETS, yes } from './fields.ts';
import { asAny, same, type Table, type Tables } from './format.ts';

const FIELDS = {
  ...TARGETS,
  ...EXCLUDE,
  ...FAN,
  ...BIAS,
  r: count1(4),
  num_vectors: count1(256),
  vector_length: count1(256),
  topk: count1(2),
  save_only_topk_weights: yes(false),
  vblora_dropout: dropout,
  init_vector_bank_bound: number(0.02),
  init_logits_std: number(0.1),
} as const;
const LOGITS = { logitsA: 'vblora_logits_A', logitsB: 'vblora_logits_B' } as const;
const BANK = 'base_model.vblora_vector_bank';

/** Logits whose largest k have these shares: their logarithms, and elsewhere a number far below. */
function fromShares(indices: Table, weights: Table, vectors: number): Table {
  const k = indices.shape.at(-1)!;
  const segments = indices.data.length / k;
  const data = new Float64Array(segments * vectors).fill(-1e6);
  for (let s = 0; s < segments; s++) {
    let rest = 1;
    for (let j = 0; j < k; j++) {
      const share = j < k - 1 ? weights.data[s * (k - 1) + j]! : rest;
      rest -= share;
      data[s * vectors + indices.data[s * k + j]!] = Math.max(Math.log(share), -1e5);
    }
  }
  return { data, shape: [...indices.shape.slice(0, -1), vectors] };
}
function toShares(logits: Table, k: number): { indices: Table; weights: Table } {
  const vectors = logits.shape.at(-1)!;
  const segments = logits.data.length / vectors;
  const [indices, weights] = [new Int32Array(segments * k), new Float64Array(segments * (k - 1))];
  for (let s = 0; s < segments; s++) {
    const row = logits.data.subarray(s * vectors, (s + 1) * vectors);
    const best = Array.from(row.keys())
      .sort((a, b) => row[b]! - row[a]! || a - b)
      .slice(0, k);
    const shares = best.map((j) => Math.exp(row[j]! - row[best[0]!]!));
    const sum = shares.reduce((n, v) => n + v, 0);
    for (let j = 0; j < k; j++) {
      indices[s * k + j] = best[j]!;
      if (j < k - 1) weights[s * (k - 1) + j] = shares[j]! / sum;
    }
  }
  const shape = logits.shape.slice(0, -1);
  return { indices: { data: indices, shape: [...shape, k] }, weights: { data: weights, shape: [...shape, k - 1] } };
}

export const VBLORA = asAny<VbloraConfig, typeof FIELDS>({
  peftType: 'VBLORA',
  method: 'vblora',
  fields: FIELDS,
  on: 'linear',
  conv1d: true,
  options: (c) => () => ({
    rank: c.r ?? 4,
    vectors: c.num_vectors ?? 256,
    vectorLength: c.vector_length ?? 256,
    topK: c.topk ?? 2,
    logitsRate: 10,
    dropout: c.vblora_dropout ?? 0,
  }),
  normal: (o) => ({ ...o, logitsRate: 10 }), // how fast they learn is not in the file
  attach: (o) => vblora(o),
  config: (at) => ({
    r: same(at, 'rank', (o) => o.rank),
    num_vectors: same(at, 'vectors', (o) => o.vectors),
    vector_length: same(at, 'vectorLength', (o) => o.vectorLength),
    topk: same(at, 'topK', (o) => o.topK),
    vblora_dropout: same(at, 'dropout', (o) => o.dropout),
  }),
  decode: (get, { options }) => {
    const own: Record<string, Table> = { bank: get(BANK) };
    for (const [ours, theirs] of Object.entries(LOGITS))
      own[ours] = get.has(`${theirs}_topk_indices`)
        ? fromShares(get(`${theirs}_topk_indices`), get(`${theirs}_topk_weights`), options.vectors)
        : get(theirs);
    return own;
  },
  encode: ({ bank, ...own }, { options, config }): Tables => {
    const all: Record<string, Table> = { [BANK]: bank! };
    for (const [ours, theirs] of Object.entries(LOGITS)) {
      if (config?.save_only_topk_weights !== true) {
        all[theirs] = own[ours]!;
        continue;
      }
      const { indices, weights } = toShares(own[ours]!, options.topK);
      all[`${theirs}_topk_indices`] = indices;
      all[`${theirs}_topk_weights`] = weights;
    }
    return all;
  },
});
