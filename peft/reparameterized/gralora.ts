// GraLoRA: the weight is cut into k × k blocks, and each block has a LoRA of its own of rank r/k.
//   y_j = (W x + b)_j + s Σᵢ B_ji A_ji drop(x)_i,   i, j = 1 … k,   A_ji ∈ ℝ^{r/k × in/k}, B_ji ∈ ℝ^{out/k × r/k},   s = α/(r + h)
//   and, as `hybrid`, a plain LoRA of rank h over the whole weight, with the same s
// Jung et al. 2025, arXiv 2505.20355, §3. The count is LoRA's, the rank up to k·r. B = 0.
import { param, type Tensor } from '../../core/tensor.ts';
import { defineMethod } from '../attach.ts';
import { checkUpdate, dropped, factors, type UpdateConfig } from './lora.ts';

export interface GraloraConfig extends Omit<UpdateConfig, 'rankStabilized'> {
  readonly blocks: number; // k, divides the rank and both sides
  readonly hybrid: number; // h
}
/** A [k of the input, k of the output, r/k, in/k], B [k of the output, out/k, k of the input · r/k]; the plain LoRA's where h > 0. */
type Gralora = { A: Tensor; B: Tensor; wholeA: Tensor; wholeB: Tensor };
const scale = ({ alpha, rank, hybrid }: GraloraConfig): number => alpha / (rank + hybrid);

/** Count: (r + h)(in + out) for each layer. */
export const gralora = defineMethod<'linear', GraloraConfig, Gralora>({
  name: 'gralora',
  family: 'reparameterized',
  paper: 'arXiv:2505.20355',
  at: 'linear',
  defaults: { rank: 32, alpha: 64, blocks: 2, hybrid: 0, dropout: 0, where: ['q', 'v'] },
  check: (site, c) => {
    checkUpdate('gralora')(site, { ...c, rankStabilized: false });
    if (!Number.isInteger(c.blocks) || c.blocks < 1 || [...site.shape, c.rank].some((n) => n % c.blocks !== 0))
      throw new RangeError(
        `gralora: blocks ${c.blocks} must divide the rank ${c.rank} and both sides of [${site.shape.join(', ')}] at ${site.path}`,
      );
    if (!Number.isInteger(c.hybrid) || c.hybrid < 0 || c.hybrid > Math.min(...site.shape))
      throw new RangeError(`gralora: hybrid ${c.hybrid} at ${site.path} must be a whole number from 0 to ${Math.min(...site.shape)}`);
  },
  init: (site, { rank, blocks: k, hybrid }, r) => {
    const [out, into] = site.shape as [number, number];
    const a = Math.sqrt(1 / (into / k)); // Kaiming uniform over one block's inputs
    const plain = hybrid === 0 ? null : factors(site, { rank: hybrid, init: 'kaiming' }, r.split('whole'));
    return {
      train: {
        A: param(r.uniform(rank * into, -a, a), [k, k, rank / k, into / k]),
        B: param(new Float32Array(out * rank), [k, out / k, rank]),
        ...(plain === null ? {} : { wholeA: plain.A, wholeB: plain.B }),
      },
    };
  },
  around: (call, { A, B, wholeA, wholeB }, c, site) => {
    const [k, q] = [c.blocks, c.rank / c.blocks];
    return (x, ctx) => {
      const input = dropped(x, c, site, ctx);
      const lead = x.shape.slice(0, -1);
      const n = lead.reduce((a, b) => a * b, 1);
      const inner = input
        .reshape(n, k, -1)
        .permute(1, 0, 2)
        .matmul(A.reshape(k, c.rank, -1).T); // [k in, n, k out · r/k]
      const turned = inner.reshape(k, n, k, q).permute(2, 1, 0, 3).reshape(k, n, c.rank); // [k out, n, k in · r/k]
      const y = turned
        .matmul(B.T)
        .permute(1, 0, 2)
        .reshape(...lead, -1);
      const whole = c.hybrid === 0 ? y : y.add(input.matmul(wholeA.T).matmul(wholeB.T));
      return call(x, ctx).add(whole.mul(scale(c)));
    };
  },
  fold: ({ weight, bias }, { A, B, wholeA, wholeB }, c) => {
    const [k, q] = [c.blocks, c.rank / c.blocks];
    const pairs = B.reshape(k, -1, k, q)
      .permute(0, 2, 1, 3)
      .matmul(A.permute(1, 0, 2, 3)); // [k out, k in, out/k, in/k]
    const blocks = pairs.permute(0, 2, 1, 3).reshape(...weight.shape);
    return { weight: weight.add((c.hybrid === 0 ? blocks : blocks.add(wholeB.matmul(wholeA))).mul(scale(c))), bias };
  },
  count: (sites, { rank, hybrid }) => {
    const train = sites.reduce((n, { shape: [out, into] }) => n + (rank + hybrid) * (out! + into!), 0);
    return { train, stored: train };
  },
  startsAsBase: () => 'close', // adds an exact zero
});
