// A random projection from few numbers to a whole weight, without a matrix.
//   P z = H G Π H B z / (√(LL·ΣG²)·√(D/LL)), cut to D;   H Walsh–Hadamard of LL = 2^⌈log₂ D⌉, B random signs, Π a random order, G ~ N(0, 1)
// Fastfood: Le, Sarlos & Smola 2013; as in the code of Aghajanyan et al. 2021, arXiv 2012.13255.
import { pad } from '../../core/ops/move.ts';
import { rng } from '../../core/rng.ts';
import { type Shape, size } from '../../core/shape.ts';
import { leaf, type Tensor } from '../../core/tensor.ts';
import { shuffled, walshHadamard } from '../transforms.ts';

/** P_t of a weight. Where z is longer than LL its end has no effect here, as in the authors' code. */
export function fastfood(shape: Shape, seed: number, path: string): (z: Tensor) => Tensor {
  const d = size(shape);
  const ll = 2 ** Math.ceil(Math.log2(Math.max(d, 2)));
  const r = rng(seed).split(`said ${path}`);
  const signs = r
    .split('B')
    .bernoulli(ll, 0.5)
    .map((v) => 2 * v - 1);
  const gains = r.split('G').normal(ll);
  const length = Math.sqrt(ll * gains.reduce((s, g) => s + g * g, 0)) * Math.sqrt(d / ll);
  const order = r.split('Π').permutation(ll);
  const [B, G] = [leaf(signs, [ll]), leaf(gains, [ll])];
  return (z) => {
    const [n] = z.shape as [number];
    const padded = n < ll ? pad(z, 0, 0, ll - n) : z.slice(0, 0, ll);
    const mixed = walshHadamard(shuffled(walshHadamard(padded.mul(B)), order).mul(G));
    return mixed
      .slice(0, 0, d)
      .mul(1 / length)
      .reshape(...shape);
  };
}
