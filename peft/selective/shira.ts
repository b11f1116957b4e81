// SHiRA: as many entries of each weight are trained as LoRA of rank r would train: sparse, but of high rank.
//   W' = W + s·S,   S zero except for r(in + out) values at fixed places, zero at first
//   places: random; whole rows and columns with the diagonal (struct); the largest |W| (weight), |∂L/∂W| (gradient) or |W ⊙ ∂L/∂W| (snip)
// Bhardwaj et al. 2024, arXiv 2406.13175, §3. Changing the task changes r(in + out) numbers in place.
import { sparseAdd } from '../../core/ops/sparse.ts';
import type { Rng } from '../../core/rng.ts';
import { size } from '../../core/shape.ts';
import { defineMethod } from '../attach.ts';
import { wholeNumber } from '../check.ts';
import { largest, sample } from '../select.ts';
import { gradientSums } from '../sensitivity.ts';
import { type Sparse, sparseAt } from './sparse.ts';

export interface ShiraConfig {
  readonly rank: number; // r
  readonly mask: 'random' | 'struct' | 'weight' | 'gradient' | 'snip';
  readonly scale: number; // s
}
const entries = ([out, into]: readonly number[], { rank }: ShiraConfig): number => rank * (out! + into!);
/** The diagonal first, then whole rows and columns in turn, drawn at random, until k entries are taken. Which rows the authors take is not said. */
function structured([out, into]: readonly number[], k: number, r: Rng): number[] {
  const taken = new Set<number>();
  const put = (i: number, j: number): void => {
    if (taken.size < k) taken.add(i * into! + j);
  };
  for (let d = 0; d < Math.min(out!, into!); d++) put(d, d);
  const [rows, cols] = [r.split('rows').permutation(out!), r.split('cols').permutation(into!)];
  for (let n = 0; taken.size < k; n++) {
    if (rows[n] !== undefined) for (let j = 0; j < into!; j++) put(rows[n]!, j);
    if (cols[n] !== undefined) for (let i = 0; i < out!; i++) put(i, cols[n]!);
  }
  return [...taken];
}

/**
 * Defaults as PEFT's: rank 32, random places, on q and v. Gradients are of the whole loss on `batches`, so 'gradient' and 'snip' need
 * `prepare(model, { engine, batches, loss })`. Count: r(in + out) values; stored besides: a column for each, and where rows start.
 */
export const shira = defineMethod<'weight', ShiraConfig, Sparse, null, ReadonlyMap<string, Float64Array>>({
  name: 'shira',
  family: 'selective',
  paper: 'arXiv:2406.13175',
  at: 'weight',
  defaults: { rank: 32, mask: 'random', scale: 1, where: ['q.weight', 'v.weight'] },
  takes: { mask: ['random', 'struct', 'weight', 'gradient', 'snip'] },
  readsWeight: true,
  check: ({ path, shape }, c) => {
    wholeNumber('shira', 'rank', c.rank);
    if (shape.length !== 2) throw new RangeError(`shira: ${path} is a vector; SHiRA trains entries of matrices`);
    if (entries(shape, c) > size(shape))
      throw new RangeError(
        `shira: rank ${c.rank} at ${path} asks for ${entries(shape, c)} entries of ${size(shape)}; the rank must be at most ${Math.floor(size(shape) / (shape[0]! + shape[1]!))}`,
      );
  },
  prepareIf: ({ mask }) => mask === 'gradient' || mask === 'snip',
  prepare: async (sites, _, env) => {
    const sums = await gradientSums('shira', sites, env);
    return new Map(sites.map((s, k) => [s.path, sums[k]!]));
  },
  init: ({ path, shape }, c, r, { weight, prepared }) => {
    const k = entries(shape, c);
    if (c.mask === 'random') return sparseAt(sample(k, size(shape), r), shape);
    if (c.mask === 'struct') return sparseAt(structured(shape, k, r), shape);
    const w = c.mask === 'gradient' ? null : weight();
    const g = c.mask === 'weight' ? null : prepared.get(path)!;
    const score = Float64Array.from({ length: size(shape) }, (_, i) => Math.abs((w?.[i] ?? 1) * (g?.[i] ?? 1)));
    return sparseAt(largest([score], k)[0]!, shape);
  },
  around:
    (call, p, { scale }) =>
    (ctx) =>
      sparseAdd(call(ctx), p, p.values.mul(scale)),
  fold: ({ weight, bias }, p, { scale }) => ({ weight: sparseAdd(weight, p, p.values.mul(scale)), bias }),
  count: (sites, c) => {
    const train = sites.reduce((n, s) => n + entries(s.shape, c), 0);
    const rows = sites.reduce((n, { shape: [out] }) => n + out! + 1, 0);
    return { train, stored: 2 * train + rows };
  },
  startsAsBase: () => 'bitwise',
});
