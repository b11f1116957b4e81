// DVoRA: DoRA whose direction is moved by VeRA instead of LoRA: two short vectors and the lengths are trained.
//   W' = diag(m/n) V,   V = W + λ_b ⊙ B (λ_d ⊙ A),   n = sg(‖V‖ by output row),   m starts as ‖W‖ by row;   A, B frozen, shared by all layers
// Liu et al. 2024, arXiv 2402.09353, §5.4. λ_b = 0 and λ_d = 0.1 at the start, as VeRA's. AdapterHub's module of this name trains whole matrices in
// the place of the two vectors; here they are vectors, as both papers have them.
import { div } from '../../core/ops/map.ts';
import { param, type Tensor } from '../../core/tensor.ts';
import { defineMethod } from '../attach.ts';
import { wholeNumber } from '../check.ts';
import { rowLengths } from '../linalg.ts';
import { effective } from '../site.ts';
import { movedLengths, type NormConfig, stretch } from './dora.ts';
import { cut, largest, shared, type Vera, type VeraConfig } from './vera.ts';

/** λ_b ⊙ B (λ_d ⊙ A), [out, in] */
function change(p: Vera, shape: readonly number[]): Tensor {
  const { a, b } = cut(p, shape);
  return b.mul(p.lambdaD).matmul(a).mul(p.lambdaB.reshape(-1, 1));
}

/** Count: r + 2·out for each layer; stored besides, once: A and B. */
export const dvora = defineMethod<'linear', Omit<VeraConfig, 'dropout'> & NormConfig, Vera & { m: Tensor }, Pick<Vera, 'A' | 'B'>>({
  name: 'dvora',
  family: 'reparameterized',
  paper: 'arXiv:2402.09353',
  at: 'linear',
  defaults: { rank: 256, dInitial: 0.1, norm: 'constant', where: ['q', 'v'] },
  takes: { norm: ['constant', 'differentiated'] },
  readsWeight: true,
  check: (_, { rank }) => wholeNumber('dvora', 'rank', rank),
  shared: (sites, { rank }, r) => shared(sites, rank, r),
  init: ({ shape: [out, into] }, { rank, dInitial }, _, given) => ({
    train: {
      lambdaB: param(new Float32Array(out!), [out!]),
      lambdaD: param(new Float32Array(rank).fill(dInitial), [rank]),
      m: param(rowLengths(given.weight(), out!, into!), [out!], { decay: false }),
    },
    fixed: given.shared,
  }),
  around: (call, p, c, site) => (x, ctx) => {
    const { weight, bias } = effective(call, site.path, ctx);
    const { a, b } = cut(p, site.shape);
    const moved = (): Tensor => movedLengths(weight, a.mul(p.lambdaD.reshape(-1, 1)), b.mul(p.lambdaB.reshape(-1, 1)));
    const k = c.norm === 'constant' ? stretch(weight.add(change(p, site.shape)), p.m) : div(p.m, moved()); // [out]
    const y = call(x, ctx);
    const straight = bias === null ? y : y.sub(bias); // W x
    const turned = x.matmul(a.T).mul(p.lambdaD).matmul(b.T).mul(p.lambdaB);
    return y.add(k.sub(1).mul(straight)).add(k.mul(turned));
  },
  fold: ({ weight, bias }, p) => {
    const v = weight.add(change(p, weight.shape));
    return { weight: stretch(v, p.m).reshape(-1, 1).mul(v), bias };
  },
  count: (sites, { rank }) => {
    const train = sites.reduce((n, { shape: [out] }) => n + rank + 2 * out!, 0);
    const { out, into } = largest(sites);
    return { train, stored: train + rank * (out + into) };
  },
  startsAsBase: () => 'close', // m/n = 1 up to rounding
});
