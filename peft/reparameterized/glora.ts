// GLoRA: one formula for scaling and shifting of weight, bias and features; each part is as rich as one likes.
//   y = (W + W ⊙ A + B) x + b + b ⊙ D + E + W C
//   A, B: low-rank [out, in] products, a number for each output, one number, or none;   C [in]: low-rank, a vector, or none
//   D, E [out]: a vector, one number, or none.   All start at 0 (low-rank ones by their first factor)
// Chavan et al. 2023, arXiv 2306.07967, eq. 10; defaults as PEFT's. Without a bias C, D and E are left out, as in PEFT. The paper
// also searches the best choice for each layer (evolution); here it is the same for all sites of an application.
import type { Tensor } from '../../core/tensor.ts';
import type { Weights } from '../../nn/layer.ts';
import { defineMethod } from '../attach.ts';
import { rankFits } from '../check.ts';
import { effective } from '../site.ts';
import { FORMS, type Form, type Glora, numbers, tensorsOf, used, value } from './gloraParts.ts';

export interface GloraConfig {
  readonly rank: number;
  readonly A: Form;
  readonly B: Form;
  readonly C: Exclude<Form, 'constant'>;
  readonly D: Exclude<Form, 'lora'>;
  readonly E: Exclude<Form, 'lora'>;
}
/** 1 + X, so that what it multiplies is counted once. */
const scale = (p: Glora, c: GloraConfig, part: 'A' | 'D'): Tensor => value(p, c, part).add(1);
/** b ⊙ (1 + D) + E + W C, or null. */
function shifted({ weight, bias }: Weights, p: Glora, c: GloraConfig): Tensor | null {
  if (bias === null) return null;
  const scaled = c.D === 'none' ? bias : bias.mul(scale(p, c, 'D').reshape(-1));
  const moved = c.E === 'none' ? scaled : scaled.add(value(p, c, 'E').reshape(-1));
  return c.C === 'none' ? moved : moved.add(weight.matmul(value(p, c, 'C')).reshape(-1));
}
/** B x: through rank r, or each output's number times the sum of x. */
const added = (x: Tensor, p: Glora, c: GloraConfig): Tensor =>
  c.B === 'lora' ? x.matmul(p.Bup.T).matmul(p.B.T) : x.sum([-1], true).mul(p.B.reshape(-1));

/** Count: for A and B r(in + out) each, for C r(in + 1), 1 for each number, out for each vector. */
export const glora = defineMethod<'linear', GloraConfig, Glora>({
  name: 'glora',
  family: 'reparameterized',
  paper: 'arXiv:2306.07967',
  at: 'linear',
  defaults: { rank: 8, A: 'lora', B: 'lora', C: 'lora', D: 'constant', E: 'constant', where: ['q', 'v'] },
  takes: { A: FORMS, B: FORMS, C: ['lora', 'vector', 'none'], D: ['vector', 'constant', 'none'], E: ['vector', 'constant', 'none'] },
  check: (site, c) => {
    rankFits('glora', site, c.rank);
    if (used(site.bias() !== null).every((part) => c[part] === 'none'))
      throw new RangeError(`glora: every part is 'none' at ${site.path}: nothing would be trained`);
  },
  init: (site, c, r) => ({ train: Object.assign({}, ...used(site.bias() !== null).map((part) => tensorsOf(part, c, site.shape, r))) }),
  around:
    (call, p, c, { path }) =>
    (x, ctx) => {
      const base = effective(call, path, ctx);
      const y = x.matmul((c.A === 'none' ? base.weight : base.weight.mul(scale(p, c, 'A'))).T);
      const shift = shifted(base, p, c);
      const moved = shift === null ? y : y.add(shift);
      return c.B === 'none' ? moved : moved.add(added(x, p, c));
    },
  fold: (base, p, c) => {
    const scaled = c.A === 'none' ? base.weight : base.weight.mul(scale(p, c, 'A'));
    return { weight: c.B === 'none' ? scaled : scaled.add(value(p, c, 'B')), bias: shifted(base, p, c) };
  },
  count: (sites, c) => {
    const train = sites.reduce((n, s) => n + numbers(s, c), 0);
    return { train, stored: train };
  },
  startsAsBase: () => 'close', // adds exact zeros
});
