// Files of AdaLoRA: lora_A [k, in], lora_B [out, k], lora_E [k, 1], without the triplets that the budget has dropped.
//   rank_pattern names the k kept of init_r; the scaling stays lora_alpha/(init_r + 1e-5). Dropped ones are rows of zeros here.
import { z } from 'zod';
import { type AdaloraConfig, adalora } from '../../peft/reparameterized/adalora.ts';
import { flag, orNull, real, whole } from './config.ts';
import { count1, number, patterns } from './fields.ts';
import { asAny, field, renamed, type Spot, same, type Table, Unsupported } from './format.ts';
import { LORA_FIELDS, refuseVariants } from './lora.ts';

const FIELDS = {
  ...LORA_FIELDS,
  target_r: count1(8),
  init_r: count1(12),
  tinit: field(whole.optional(), 0),
  tfinal: field(whole.optional(), 0),
  deltaT: count1(1),
  beta1: number(0.85),
  beta2: number(0.85),
  orth_reg_weight: number(0.5),
  total_step: field(orNull(whole), null),
  rank_pattern: field(orNull(z.record(z.string(), z.union([z.array(flag), real]))), null),
  alpha_pattern: patterns(real),
} as const;

const names = renamed({ A: 'lora_A', B: 'lora_B', E: 'lora_E' });
/** Which of the first k triplets the file has at this place; null: all. */
function kept({ config, place }: Spot<AdaloraConfig>): readonly boolean[] | null {
  const pattern = config?.rank_pattern;
  if (typeof pattern !== 'object' || pattern === null || place === null) return null;
  const list = (pattern as Readonly<Record<string, unknown>>)[`${place.module}.lora_E`];
  return Array.isArray(list) ? (list as readonly boolean[]) : null;
}
/** Rows of a table put where the mask is true, or taken from there. */
const spread = ({ data, shape: [, width = 1] }: Table, mask: readonly boolean[]): Table => {
  const out = new Float32Array(mask.length * width);
  let row = 0;
  for (const [k, on] of mask.entries()) if (on) out.set(data.subarray(row * width, ++row * width), k * width);
  return { data: out, shape: [mask.length, width] };
};
const gathered = ({ data, shape: [, width = 1] }: Table, mask: readonly boolean[]): Table => {
  const rows = [...mask.keys()].filter((k) => mask[k]);
  return { data: Float32Array.from(rows.flatMap((k) => [...data.subarray(k * width, (k + 1) * width)])), shape: [rows.length, width] };
};
export const transposed = ({ data, shape: [n = 1, m = 1] }: Table): Table => ({
  data: data.map((_, i) => data[(i % n) * m + Math.floor(i / n)]!),
  shape: [m, n],
});
const inRows =
  (f: (t: Table, mask: readonly boolean[]) => Table) =>
  ({ lora_A: A, lora_B: B, lora_E: E }: Readonly<Record<string, Table>>, mask: readonly boolean[]) => ({
    lora_A: f(A!, mask),
    lora_B: transposed(f(transposed(B!), mask)),
    lora_E: f(E!, mask),
  });

export const ADALORA = asAny<AdaloraConfig, typeof FIELDS>({
  peftType: 'ADALORA',
  method: 'adalora',
  fields: FIELDS,
  on: 'linear',
  conv1d: true,
  unsaved: ['average', 'spread', 'score', 'kept'],
  byRows: ['lora_B'],
  options: (c) => {
    refuseVariants(c);
    if (c.use_dora === true || c.use_rslora === true) throw new Unsupported('use_dora and use_rslora have no meaning for AdaLoRA');
    return () => ({
      rank: c.init_r ?? 12,
      targetRank: Math.min(c.target_r ?? 8, c.init_r ?? 12),
      alpha: c.lora_alpha ?? 8,
      dropout: c.lora_dropout ?? 0,
      tinit: c.tinit ?? 0,
      tfinal: c.tfinal ?? 0,
      deltaT: c.deltaT ?? 1,
      beta1: c.beta1 ?? 0.85,
      beta2: c.beta2 ?? 0.85,
      orthogonality: c.orth_reg_weight ?? 0.5,
    });
  },
  attach: (o) => adalora(o),
  config: (at) => ({
    init_r: same(at, 'rank', (o) => o.rank),
    target_r: same(at, 'targetRank', (o) => o.targetRank),
    lora_alpha: same(at, 'alpha', (o) => o.alpha),
    lora_dropout: same(at, 'dropout', (o) => o.dropout),
    tinit: same(at, 'tinit', (o) => o.tinit),
    tfinal: same(at, 'tfinal', (o) => o.tfinal),
    deltaT: same(at, 'deltaT', (o) => o.deltaT),
    beta1: same(at, 'beta1', (o) => o.beta1),
    beta2: same(at, 'beta2', (o) => o.beta2),
    orth_reg_weight: same(at, 'orthogonality', (o) => o.orthogonality),
    total_step: Math.max(1, same(at, 'tinit', (o) => o.tinit) + same(at, 'tfinal', (o) => o.tfinal) + 1), // the library wants a number; training anew sets its own
  }),
  decode: (get, spot) => {
    const mask = kept(spot);
    if (mask === null) return names.decode(get);
    const all = inRows(spread)({ lora_A: get('lora_A'), lora_B: get('lora_B'), lora_E: get('lora_E') }, mask);
    return { A: all.lora_A, B: all.lora_B, E: all.lora_E };
  },
  encode: (own, spot) => {
    const mask = kept(spot);
    const all = names.encode(own);
    return mask === null ? all : inRows(gathered)(all, mask);
  },
});
