// QA-LoRA: LoRA on group means of the input, so that it merges into the zero points of a weight quantised by group.
//   y = W x + b + s·B A pool(drop(x)),   pool: means of g consecutive inputs,   A ∈ ℝ^{r×in/g}, B ∈ ℝ^{out×r}
//   with W = σ·(q − z) by group:  z' = z − s·(B A)/(g·σ)  is the merged weight; q and σ stay, z becomes a fraction
// Xu et al. 2023, arXiv 2309.14717, §3.3. A starts random, B at zero. `quantizedQaLora` packs the base too.
import { broadcastTo } from '../../core/ops/move.ts';
import { param, type Tensor } from '../../core/tensor.ts';
import { affineParts, affineWeight } from '../../quant/affine.ts';
import { defineMethod } from '../attach.ts';
import { wholeNumber } from '../check.ts';
import { checkUpdate, dropped, type Factors, scaling, type UpdateConfig } from './lora.ts';

export interface QaLoraConfig extends UpdateConfig {
  /** Inputs that are averaged: those that share a scale in the quantised weight, or a multiple of them. */
  readonly group: number;
  /** 'mean' as the authors have it; 'peft': times in/g, as Hugging Face PEFT has it. */
  readonly pool: 'mean' | 'peft';
}

/** What the mean of a group of g inputs is multiplied by. */
const gain = (c: QaLoraConfig, into: number): number => scaling(c) * (c.pool === 'peft' ? into / c.group : 1);

/** x [..., in] → means of groups [..., in/g] */
const pooled = (x: Tensor, group: number): Tensor =>
  x.reshape(...x.shape.slice(0, -1), x.shape.at(-1)! / group, group).mean([x.shape.length]);
/** t [n, m] → [n, m·times], every column `times` times in a row. */
function repeated(t: Tensor, times: number): Tensor {
  const [n, m] = t.shape as [number, number];
  return times === 1 ? t : broadcastTo(t.reshape(n, m, 1), [n, m, times]).reshape(n, m * times);
}

/** Count: r(in/g + out). */
export const qaLora = defineMethod<'linear', QaLoraConfig, Factors>({
  name: 'qaLora',
  family: 'reparameterized',
  paper: 'arXiv:2309.14717',
  at: 'linear',
  defaults: { rank: 8, alpha: 8, rankStabilized: false, dropout: 0, group: 32, pool: 'mean', where: ['q', 'v'] },
  takes: { pool: ['mean', 'peft'] },
  check: (site, c) => {
    checkUpdate('qaLora')(site, c);
    wholeNumber('qaLora', 'group', c.group);
    const [, into] = site.shape as [number, number];
    if (into % c.group !== 0)
      throw new RangeError(`qaLora: ${into} inputs of ${site.path} are not whole groups of ${c.group}; choose a group that divides them`);
  },
  init: ({ shape: [out, into] }, { rank, group }, r) => {
    const [wide, bound] = [into! / group, 1 / Math.sqrt(into! / group)];
    return {
      train: { A: param(r.uniform(rank * wide, -bound, bound), [rank, wide]), B: param(new Float32Array(out! * rank), [out!, rank]) },
    };
  },
  around:
    (call, { A, B }, c, site) =>
    (x, ctx) => {
      const means = pooled(dropped(x, c, site, ctx), c.group); // [..., in/g]
      return call(x, ctx).add(
        means
          .matmul(A.T)
          .matmul(B.T)
          .mul(gain(c, x.shape.at(-1)!)),
      );
    },
  fold: ({ weight, bias }, { A, B }, c) => {
    const change = B.matmul(A).mul(gain(c, weight.shape[1]!) / c.group); // [out, in/g], for every column of a group
    const q = affineParts(weight);
    if (q === null || c.group % q.group !== 0) return { weight: weight.add(repeated(change, c.group)), bias };
    const zeros = q.zeros.sub(repeated(change, c.group / q.group).div(q.scales));
    return { weight: affineWeight({ ...q, zeros }, q)(), bias };
  },
  byRow: true,
  count: (sites, { rank, group }) => {
    const train = sites.reduce((n, { shape: [out, into] }) => n + rank * (into! / group + out!), 0);
    return { train, stored: train };
  },
  startsAsBase: () => 'close', // adds an exact zero
});
