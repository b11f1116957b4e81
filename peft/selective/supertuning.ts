// Super-Tuning: the largest entries of each weight are trained, and nothing else. With a LoRA beside it: compose it with `lora` (Supra).
//   W' = W + S,   S zero except at the ⌊(1 − σ)·in·out⌋ places of largest (or smallest) |W|,   σ the sparsity,   0 at the start
// arXiv 2607.09287, as built in PEFT. Choosing needs the weight only, no data.
import { sparseAdd } from '../../core/ops/sparse.ts';
import { size } from '../../core/shape.ts';
import { defineMethod } from '../attach.ts';
import { between } from '../check.ts';
import { largest } from '../select.ts';
import { type Sparse, sparseAt } from './sparse.ts';

export interface SupertuningConfig {
  readonly sparsity: number; // σ
  readonly select: 'largest' | 'smallest';
}
const entries = (shape: readonly number[], { sparsity }: SupertuningConfig): number => Math.floor(size(shape) * (1 - sparsity) + 1e-9);

/** Count: the entries; stored besides: a column for each, and where rows start. */
export const supertuning = defineMethod<'weight', SupertuningConfig, Sparse>({
  name: 'supertuning',
  family: 'selective',
  paper: 'arXiv:2607.09287',
  at: 'weight',
  defaults: { sparsity: 0.99, select: 'largest', where: ['q.weight', 'v.weight'] },
  takes: { select: ['largest', 'smallest'] },
  readsWeight: true,
  check: ({ path, shape }, c) => {
    between('supertuning', 'sparsity', c.sparsity, 0, 1);
    if (entries(shape, c) < 1)
      throw new RangeError(`supertuning: a sparsity of ${c.sparsity} leaves no entry of the ${size(shape)} at ${path} to train; lower it`);
  },
  init: ({ shape }, c, _, { weight }) => {
    const score = Float64Array.from(weight(), (v) => (c.select === 'largest' ? Math.abs(v) : -Math.abs(v)));
    return sparseAt(largest([score], entries(shape, c))[0]!, shape);
  },
  around: (call, p) => (ctx) => sparseAdd(call(ctx), p, p.values),
  fold: ({ weight, bias }, p) => ({ weight: sparseAdd(weight, p, p.values), bias }),
  count: (sites, c) => {
    const train = sites.reduce((n, s) => n + entries(s.shape, c), 0);
    return { train, stored: 2 * train + sites.reduce((n, { shape }) => n + size(shape.slice(0, -1)) + 1, 0) };
  },
  startsAsBase: () => 'bitwise',
});
