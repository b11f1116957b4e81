// Diff pruning: a sparse difference to every weight, sparse because each entry has a gate that learns to close.
//   W' = W + z ⊙ w,   z = min(1, max(0, s̄)),   s̄ = s(r − l) + l,   s = σ(log u − log(1 − u) + α),   u ~ U(0, 1)
//   loss + λ Σ P(z ≠ 0),   P(z ≠ 0) = σ(α − log(−l/r));   with groups z is the product of the entry's gate and its group's
// Three phases: random gates; the ρN largest |z w| kept, the rest 0; w alone tuned on that mask (diffPruningPhases.ts).
// Guo et al. 2021, arXiv 2012.07463, §3. Without a draw u = ½, the median gate.
import { add, where } from '../../core/ops/map.ts';
import { within } from '../../core/scope.ts';
import { type Shape, size } from '../../core/shape.ts';
import { param, type Tensor } from '../../core/tensor.ts';
import type { Context } from '../../nn/context.ts';
import { defineMethod } from '../attach.ts';
import { between } from '../check.ts';
import { phases } from './diffPruningPhases.ts';
import { gate, openGates } from './hardConcrete.ts';

export interface DiffPruningConfig {
  readonly density: number; // ρ, share of all entries that differ in the end
  readonly lambda: number; // weight of the expected number of open gates
  readonly alphaInit: number; // gates start open: σ(5) = 0.993
  readonly alphaRate: number; // of α, times the optimizer's rate (the authors: 0.1 in all)
  readonly gates: number; // share of the steps with random gates
  readonly group: 'none' | 'row' | 'tensor'; // a further gate for each row or each weight ("structured")
}

/** `mask` and `phase` (0: gates, 1: mask) are buffers. Finished, w alone is left, and holds z ⊙ w. */
export type Diff = { w: Tensor; alpha?: Tensor; groupAlpha?: Tensor; mask?: Tensor; phase?: Tensor };

/** z ⊙ w, with the mask in the place of z once there is one. */
function difference({ w, alpha, groupAlpha, mask, phase }: Diff, field: string, ctx?: Context): Tensor {
  if (!alpha || !mask || !phase) return w;
  const z = (a: Tensor, name: string): Tensor => gate(a, ctx?.draw.uniform(name, a.shape) ?? null);
  const all = groupAlpha === undefined ? z(alpha, field) : z(alpha, field).mul(z(groupAlpha, `${field} group`));
  return w.mul(where(phase, mask, all));
}

const groups = (shape: Shape, { group }: DiffPruningConfig): Shape =>
  group === 'row' && shape.length > 1 ? [...shape.slice(0, -1), 1] : [1];

export const diffPruning = defineMethod<'weight', DiffPruningConfig, Diff>({
  name: 'diffPruning',
  family: 'selective',
  paper: 'arXiv:2012.07463',
  at: 'weight',
  defaults: { density: 0.005, lambda: 1.25e-7, alphaInit: 5, alphaRate: 100, gates: 0.5, group: 'none', where: /\bblocks\./ },
  takes: { group: ['none', 'row', 'tensor'] },
  check: (_, c) => {
    between('diffPruning', 'density', c.density, Number.MIN_VALUE, 1, true);
    between('diffPruning', 'gates', c.gates, Number.MIN_VALUE, 1);
    for (const name of ['lambda', 'alphaRate'] as const) between('diffPruning', name, c[name], 0, Number.MAX_VALUE);
  },
  init: ({ shape }, c) => {
    const logits = (s: Shape): Tensor => param(new Float32Array(size(s)).fill(c.alphaInit), s, { lr: c.alphaRate, decay: false });
    const buffer = (s: Shape): Tensor => param(new Float32Array(size(s)), s, { active: false });
    const group = c.group === 'none' ? {} : { groupAlpha: logits(groups(shape, c)) };
    return {
      train: { w: param(new Float32Array(size(shape)), shape), alpha: logits(shape), ...group },
      buffer: { mask: buffer(shape), phase: buffer([1]) },
    };
  },
  around:
    (call, p, _, { field, path }) =>
    (ctx) =>
      call(ctx).add(within({ path }, () => difference(p, field, ctx))), // a tied weight draws once, wherever it is used
  fold: ({ weight, bias }, p, _, { field }) => ({ weight: weight.add(difference(p, field)), bias }),
  hooks: ({ alpha, groupAlpha, phase }, { lambda }) => ({
    penalty: () => [alpha!, ...(groupAlpha ? [groupAlpha] : [])].map(openGates).reduce(add).mul(phase!.neg().add(1)).mul(lambda).sum(),
  }),
  control: phases,
  finish: (p) => ({ w: difference(p, '') }),
  count: (sites, c) => {
    const n = sites.reduce((sum, { shape }) => sum + size(shape), 0);
    const grouped = c.group === 'none' ? 0 : sites.reduce((sum, { shape }) => sum + size(groups(shape, c)), 0);
    return { train: 2 * n + grouped, stored: n }; // w and α; z ⊙ w, of which ρn are not zero
  },
  startsAsBase: () => 'close', // adds an exact zero
});
