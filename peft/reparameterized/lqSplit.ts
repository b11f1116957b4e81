// A weight as a packed part and one of low rank, by turns, as LQ-LoRA does it: where data says which entries matter, these are met more closely.
//   Q₀ = 0;  for t = 1, 2, …:  L_t = best rank r of W − Q_{t−1},  Q_t = quantised W − L_t;   it ends when ‖√F ⊙ (W − L_t − Q_t)‖ grows
//   best of D₁ (W − Q) D₂, then divided by D₁ and D₂:  D₁² the means of F's rows, D₂² of its columns;   without data F = 1
// Guo et al. 2023, arXiv 2311.12023, algorithms 1 and 2, §3.3. The authors' code answers the turn that has grown, and notes that the one before is
// better; here it is the one before. A row or column without any F counts as one of a millionth of the largest.
import type { Rng } from '../../core/rng.ts';
import type { Data } from '../../core/tensor.ts';
import type { Scheme } from '../../quant/quantize.ts';
import { product, randomizedSvd, svd } from '../linalg.ts';
import { scaling, type UpdateConfig } from './lora.ts';
import { halved, minus } from './residual.ts';

export interface SplitConfig extends UpdateConfig {
  readonly iterations: number; // turns at most
  readonly power: number | null; // power iterations of a randomised factorisation; null: exact
}
export interface LqSplit {
  readonly a: Float64Array; // [r, in]
  readonly b: Float64Array; // [out, r]
  readonly kept: Float64Array; // what is packed: W − s·B A
  readonly error: number; // ‖√F ⊙ (W − s·B A − Q)‖²
}

/** √ of the means of rows and of columns of F [out, in]. */
function weightsOfSides(fisher: Data | null, out: number, into: number): readonly [Float64Array, Float64Array] {
  const [rows, cols] = [new Float64Array(out), new Float64Array(into)];
  if (fisher === null) return [rows.fill(1), cols.fill(1)];
  for (let i = 0; i < out; i++)
    for (let j = 0; j < into; j++) {
      rows[i]! += fisher[i * into + j]! / into;
      cols[j]! += fisher[i * into + j]! / out;
    }
  const root = (v: Float64Array): Float64Array => {
    const most = v.reduce((a, b) => Math.max(a, b), 0);
    return most === 0 ? v.fill(1) : v.map((m) => Math.sqrt(Math.max(m, 1e-12 * most)));
  };
  return [root(rows), root(cols)];
}

export function split(
  w: Data,
  [out, into]: readonly [number, number],
  c: SplitConfig,
  scheme: Scheme,
  fisher: Data | null,
  r: Rng,
): LqSplit {
  const [d1, d2] = weightsOfSides(fisher, out, into);
  let packed: Data = new Float64Array(w.length);
  let best: LqSplit | null = null;
  for (let t = 0; t < c.iterations; t++) {
    const left = minus(w, packed).map((v, k) => v * d1[Math.floor(k / into)]! * d2[k % into]!);
    const found = c.power === null ? svd(left, out, into, c.rank) : randomizedSvd(left, out, into, c.rank, c.power, r);
    const { a, b } = halved(found.u, found.s, found.vt, scaling(c));
    for (const k of a.keys()) a[k]! /= d2[k % into]!;
    for (const k of b.keys()) b[k]! /= d1[Math.floor(k / c.rank)]!;
    const kept = minus(
      w,
      product(b, a, out, c.rank, into).map((v) => v * scaling(c)),
    );
    packed = scheme.round(kept, [out, into]);
    const error = kept.reduce((sum, v, k) => sum + (fisher?.[k] ?? 1) * (v - packed[k]!) ** 2, 0);
    if (best !== null && error > best.error) break;
    best = { a, b, kept, error };
  }
  return best!; // there is a turn at least
}
