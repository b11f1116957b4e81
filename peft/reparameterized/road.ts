// RoAd: a layer's output is turned and stretched pair by pair.
//   y'ᵢ = cᵢ yᵢ − sᵢ y_{i+g/2},   y'_{i+g/2} = c_{i+g/2} y_{i+g/2} + s_{i+g/2} yᵢ,   c = α cos θ, s = α sin θ,   in groups of g outputs
// Liao et al. 2024, arXiv 2409.00119, §3. RoAd₁ has one (θ, α) for a pair, RoAd₂ one for an output, RoAd₄ separate ones for c and s.
// θ = 0 and α = 1 at the start. It turns the bias too, so R W and R b are the merged weights.
import { cos, sin } from '../../core/ops/map.ts';
import { concat } from '../../core/ops/move.ts';
import { param, type Tensor } from '../../core/tensor.ts';
import { defineMethod } from '../attach.ts';

export interface RoadConfig {
  readonly variant: 1 | 2 | 4;
  readonly groupSize: number; // g, even, divides the output
}
type Road = { theta: Tensor; alpha: Tensor }; // [out/2], [out], or [2·out]: in each group those of c, then those of s

/** α f(θ) for every output, [out]; `half` 0 for the cosine's numbers and 1 for the sine's. */
function column({ theta, alpha }: Road, { variant, groupSize: g }: RoadConfig, f: (x: Tensor) => Tensor, half: 0 | 1): Tensor {
  if (variant === 4) return chosen(alpha, g, half).mul(f(chosen(theta, g, half)));
  const c = alpha.mul(f(theta));
  if (variant === 2) return c;
  const rows = c.reshape(-1, 1, g / 2);
  return concat([rows, rows], 1).reshape(-1);
}
const chosen = (v: Tensor, g: number, half: 0 | 1): Tensor =>
  v
    .reshape(-1, 2, g)
    .slice(1, half, half + 1)
    .reshape(-1);

/** R y along the last dimension. */
function turned(y: Tensor, p: Road, c: RoadConfig): Tensor {
  const pairs = y.reshape(...y.shape.slice(0, -1), -1, 2, c.groupSize / 2);
  const crossed = concat([pairs.slice(-2, 1).neg(), pairs.slice(-2, 0, 1)], -2).reshape(...y.shape);
  return y.mul(column(p, c, cos, 0)).add(crossed.mul(column(p, c, sin, 1)));
}

/** Defaults as PEFT's: RoAd₁, groups of 64. Count: out, 2·out or 4·out for each layer. */
export const road = defineMethod<'linear', RoadConfig, Road>({
  name: 'road',
  family: 'reparameterized',
  paper: 'arXiv:2409.00119',
  at: 'linear',
  defaults: { variant: 1, groupSize: 64, where: ['q', 'v'] },
  takes: { variant: [1, 2, 4] },
  check: ({ path, shape: [out] }, { groupSize: g }) => {
    if (!Number.isInteger(g) || g < 2 || g % 2 !== 0 || out! % g !== 0)
      throw new RangeError(`road: groupSize ${g} must be even and divide the ${out} outputs of ${path}`);
  },
  init: ({ shape: [out] }, { variant }) => {
    const n = (out! * variant) / 2;
    return { train: { theta: param(new Float32Array(n), [n]), alpha: param(new Float32Array(n).fill(1), [n]) } };
  },
  around: (call, p, c) => (x, ctx) => turned(call(x, ctx), p, c),
  fold: ({ weight, bias }, p, c) => ({ weight: turned(weight.T, p, c).T, bias: bias === null ? null : turned(bias, p, c) }),
  count: (sites, { variant }) => {
    const train = sites.reduce((n, { shape: [out] }) => n + out! * variant, 0);
    return { train, stored: train };
  },
  startsAsBase: () => 'close', // adds an exact zero
});
