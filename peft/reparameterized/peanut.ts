// PEANuT: the update is a small network's function of the weight itself.
//   W' = W + s·B f(A W),   A ∈ ℝ^{r×out} Kaiming, B ∈ ℝ^{out×r} = 0;   deeper: h ← f(Eᵢ h) for the n encoders, then
//   h ← f(Dᵢ h) + (what went into encoder n − i) for the decoders, Eᵢ and Dᵢ ∈ ℝ^{r×r},   f = relu
// arXiv 2410.01870, as built in PEFT. It stands on the weight, whose columns are what the network reads.
import { relu } from '../../core/ops/map.ts';
import type { Rng } from '../../core/rng.ts';
import { param, type Tensor } from '../../core/tensor.ts';
import { defineMethod } from '../attach.ts';
import { rankFits } from '../check.ts';

export interface PeanutConfig {
  readonly rank: number;
  readonly depth: number; // n, encoders and as many decoders
  readonly scale: number; // s
}
type Peanut = { A: Tensor; B: Tensor; encoders: readonly Tensor[]; decoders: readonly Tensor[] };

function changed(w: Tensor, { A, B, encoders, decoders }: Peanut, { scale }: PeanutConfig): Tensor {
  const heights = [relu(A.matmul(w))]; // [r, in]
  for (const e of encoders) heights.push(relu(e.matmul(heights.at(-1)!)));
  let h = heights.pop()!;
  for (const d of decoders) h = relu(d.matmul(h)).add(heights.pop()!);
  return w.add(B.matmul(h).mul(scale));
}
const kaiming = (r: Rng, rows: number, cols: number): Tensor =>
  param(r.uniform(rows * cols, -1 / Math.sqrt(cols), 1 / Math.sqrt(cols)), [rows, cols]);

/** Defaults as PEFT's: rank 32, no further layers, s = 1. Count: 2r·out + 2n·r² for each layer. */
export const peanut = defineMethod<'weight', PeanutConfig, Peanut>({
  name: 'peanut',
  family: 'reparameterized',
  paper: 'arXiv:2410.01870',
  at: 'weight',
  defaults: { rank: 32, depth: 0, scale: 1, where: ['q.weight', 'v.weight'] },
  check: (site, { rank, depth }) => {
    if (site.shape.length !== 2) throw new RangeError(`peanut: ${site.path} is a vector; PEANuT changes matrices`);
    rankFits('peanut', site, rank);
    if (!Number.isInteger(depth) || depth < 0) throw new RangeError(`peanut: depth ${depth} must be a whole number, 0 or more`);
  },
  init: ({ shape: [out] }, { rank, depth }, r) => {
    const squares = (name: string): Tensor[] => Array.from({ length: depth }, (_, k) => kaiming(r.split(`${name}${k}`), rank, rank));
    return {
      train: {
        A: kaiming(r.split('A'), rank, out!),
        B: param(new Float32Array(out! * rank), [out!, rank]),
        encoders: squares('E'),
        decoders: squares('D'),
      },
    };
  },
  around: (call, p, c) => (ctx) => changed(call(ctx), p, c),
  fold: ({ weight, bias }, p, c) => ({ weight: changed(weight, p, c), bias }),
  count: (sites, { rank, depth }) => {
    const train = sites.reduce((n, { shape: [out] }) => n + 2 * rank * out! + 2 * depth * rank ** 2, 0);
    return { train, stored: train };
  },
  startsAsBase: () => 'close', // adds an exact zero
});
