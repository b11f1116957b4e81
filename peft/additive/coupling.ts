// Additive coupling of two halves, which is undone by subtracting in the other order.
//   o₁ = e₁ + F(e₂),  o₂ = e₂ + G(o₁);   undone: e₂ = o₂ − G(o₁),  e₁ = o₁ − F(e₂);   F, G: a linear layer, σ, a linear layer
// NICE: Dinh et al. 2015, arXiv 1410.8516, §3.
import { concat } from '../../core/ops/move.ts';
import type { Rng } from '../../core/rng.ts';
import { param, type Tensor } from '../../core/tensor.ts';
import { activations } from '../../nn/mlp.ts';
import { type InvertibleConfig, units } from './invertible.ts';

/** Of F and G each: W₁ [units, in], b₁, W₂ [out, units], b₂. */
export type Coupling = { readonly F: readonly Tensor[]; readonly G: readonly Tensor[] };

/** The two parts of e: ⌊d/2⌋ and the rest. */
export const parts = (d: number): readonly [number, number] => [Math.floor(d / 2), d - Math.floor(d / 2)];

export function newNet(from: number, to: number, c: InvertibleConfig, r: Rng): Tensor[] {
  const u = units(from, c);
  const last = c.init === 'zero' ? new Float32Array(to * u) : r.split('last').normal(to * u, 0.02);
  return [
    param(r.split('first').normal(u * from, 0.02), [u, from]),
    param(new Float32Array(u), [u], { decay: false }),
    param(last, [to, u]),
    param(new Float32Array(to), [to], { decay: false }),
  ];
}

const through = (x: Tensor, [w1, b1, w2, b2]: readonly Tensor[], c: InvertibleConfig): Tensor =>
  activations[c.activation](x.matmul(w1!.T).add(b1!)).matmul(w2!.T).add(b2!);

/** e [B, T, d] → o */
export function coupled(e: Tensor, { F, G }: Coupling, c: InvertibleConfig): Tensor {
  const [half] = parts(e.shape.at(-1)!);
  const o1 = e.slice(2, 0, half).add(through(e.slice(2, half), F, c));
  return concat([o1, e.slice(2, half).add(through(o1, G, c))], 2);
}

/** o [B, T, d] → e */
export function uncoupled(o: Tensor, { F, G }: Coupling, c: InvertibleConfig): Tensor {
  const [half] = parts(o.shape.at(-1)!);
  const o1 = o.slice(2, 0, half);
  const e2 = o.slice(2, half).sub(through(o1, G, c));
  return concat([o1.sub(through(e2, F, c)), e2], 2);
}
