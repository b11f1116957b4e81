// What initialisations share that take LoRA's first factors out of the weight: the base keeps W − s·B A, so that nothing has changed yet.
import { isBlank } from '../../core/blank.ts';
import { type Data, leaf, param } from '../../core/tensor.ts';
import { replaceable } from '../check.ts';
import { product } from '../linalg.ts';
import type { Brought } from '../method.ts';
import type { Site } from '../site.ts';
import { checkUpdate, type Factors, scaling, type UpdateConfig } from './lora.ts';

export const minus = (w: Data, d: Data): Float64Array => Float64Array.from(w, (v, k) => v - d[k]!);

/** A [r, in] and B [out, r] to train, and the weight without s·B A. */
export function takenOut(w: Data, a: Float64Array, b: Float64Array, site: Site<'linear'>, c: UpdateConfig): Brought<Factors> {
  const [out, into] = site.shape as [number, number];
  const taken = (): Float64Array => product(b, a, out, c.rank, into).map((v) => v * scaling(c));
  const rest = isBlank(w) ? w : minus(w, taken()); // of a network without numbers there is nothing to take
  return { train: { A: param(a, [c.rank, into]), B: param(b, [out, c.rank]) }, base: leaf(rest, [out, into]) };
}

/** A = √(S/s) Vᵀ and B = U √(S/s), so that s·B A = U S Vᵀ; s the scaling. */
export function halved(u: Data, s: Data, vt: Data, scale: number): { a: Float64Array; b: Float64Array } {
  const rank = s.length;
  const [root, into] = [Float64Array.from(s, (v) => Math.sqrt(v / scale)), vt.length / rank];
  return {
    a: Float64Array.from(vt, (v, k) => v * root[Math.floor(k / into)]!),
    b: Float64Array.from(u, (v, k) => v * root[k % rank]!),
  };
}

/** LoRA's refusals, and that of a weight with a method on it. */
export const checkTaken =
  (method: string) =>
  (site: Site<'linear'>, c: UpdateConfig): void => {
    checkUpdate(method)(site, c);
    replaceable(site.layer);
  };
