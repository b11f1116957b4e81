// Diff pruning: a sparse difference to every weight, sparse because each entry has a gate that learns to close.
//   W' = W + z ⊙ w,   z = min(1, max(0, s̄)),   s̄ = s(r − l) + l,   s = σ(log u − log(1 − u) + α),   u ~ U(0, 1)
//   loss + λ Σ P(z ≠ 0),   P(z ≠ 0) = σ(α − log(−l/r));   with groups z is the product of the entry's gate and its group's
// Three phases: random gates; then the ρN largest |z w| of all weights together are kept, the rest goes to 0; then w alone is
// tuned on that mask. Guo et al. 2021, arXiv 2012.07463, §3. Without a draw u = ½, the median gate.
import { clamp, log, sigmoid, where } from '../../core/ops/map.ts';
import { type Shape, size } from '../../core/shape.ts';
import { type Data, type Param, param, paramOf, type Tensor } from '../../core/tensor.ts';
import type { Context } from '../../nn/context.ts';
import { defineMethod } from '../attach.ts';
import { between } from '../check.ts';
import { largest } from '../select.ts';

export interface DiffPruningConfig {
  readonly density: number; // ρ, share of all entries that differ in the end
  readonly lambda: number; // weight of the expected number of open gates
  readonly alphaInit: number; // gates start open: σ(5) = 0.993
  readonly alphaRate: number; // of α, times the optimizer's rate (the authors: 0.1 in all)
  readonly gates: number; // share of the steps with random gates
  readonly group: 'none' | 'row' | 'tensor'; // a further gate for each row or each weight ("structured")
}
/** `mask` and `phase` (0 gates, 1 mask) are buffers; `finish` leaves w alone, holding z ⊙ w. */
type Diff = { w: Tensor; alpha?: Tensor; groupAlpha?: Tensor; mask?: Tensor; phase?: Tensor };

export const [LOW, HIGH] = [-1.5, 1.5] as const;
/** log u − log(1 − u), u kept away from its ends; 0 without a draw. */
const logit = (u: Tensor | null): Tensor | number => {
  if (u === null) return 0;
  const safe = clamp(u, 1e-4, 1 - 1e-4);
  return log(safe).sub(log(safe.neg().add(1)));
};
/** z of a gate [shape of α]. */
export const gate = (alpha: Tensor, u: Tensor | null): Tensor =>
  clamp(
    sigmoid(alpha.add(logit(u)))
      .mul(HIGH - LOW)
      .add(LOW),
    0,
    1,
  ); // prettier-ignore
/** P(z ≠ 0), summed. */
export const openGates = (alpha: Tensor): Tensor => sigmoid(alpha.sub(Math.log(-LOW / HIGH))).sum();

/** z ⊙ w. */
function difference({ w, alpha, groupAlpha, mask, phase }: Diff, field: string, ctx?: Context): Tensor {
  if (!alpha || !mask || !phase) return w;
  const draw = (name: string, t: Tensor): Tensor | null => ctx?.draw.uniform(name, t.shape) ?? null;
  const z = gate(alpha, draw(field, alpha));
  const both = groupAlpha === undefined ? z : z.mul(gate(groupAlpha, draw(`${field} group`, groupAlpha)));
  return w.mul(where(phase, mask, both));
}
const groupsOf = (shape: Shape, { group }: DiffPruningConfig): Shape =>
  group === 'row' && shape.length > 1 ? [...shape.slice(0, -1), 1] : [1];

export const diffPruning = defineMethod<'weight', DiffPruningConfig, Diff>({
  name: 'diffPruning',
  family: 'selective',
  paper: 'arXiv:2012.07463',
  at: 'weight',
  defaults: { density: 0.005, lambda: 1.25e-7, alphaInit: 5, alphaRate: 100, gates: 0.5, group: 'none', where: /\bblocks\./ },
  check: (_, c) => {
    between('diffPruning', 'density', c.density, Number.MIN_VALUE, 1, true);
    between('diffPruning', 'gates', c.gates, Number.MIN_VALUE, 1);
  },
  init: ({ shape }, c) => {
    const logits = (s: Shape): Tensor => param(new Float32Array(size(s)).fill(c.alphaInit), s, { lr: c.alphaRate, decay: false });
    const buffer = (s: Shape): Tensor => param(new Float32Array(size(s)), s, { active: false });
    const groupAlpha = c.group === 'none' ? {} : { groupAlpha: logits(groupsOf(shape, c)) };
    return {
      train: { w: param(new Float32Array(size(shape)), shape), alpha: logits(shape), ...groupAlpha },
      buffer: { mask: buffer(shape), phase: buffer([1]) },
    };
  },
  around:
    (call, p, _, { field }) =>
    (ctx) =>
      call(ctx).add(difference(p, field, ctx)),
  fold: ({ weight, bias }, p) => ({ weight: weight.add(difference(p, '')), bias }),
  hooks: ({ alpha, groupAlpha, phase }, { lambda }) => {
    if (!alpha || !phase) return {};
    const groups = groupAlpha === undefined ? 0 : openGates(groupAlpha);
    return { penalty: () => openGates(alpha).add(groups).mul(phase.neg().add(1)).mul(lambda).sum() };
  },
  control: (at, c) => {
    const live = at.flatMap(({ own: p }) => {
      const [w, mask, phase] = [p.w, p.mask, p.phase].map((t) => (t === undefined ? null : paramOf(t)));
      return w && mask && phase && p.alpha
        ? [{ w, mask, phase, gates: [p.alpha, p.groupAlpha].flatMap((t) => (t && paramOf(t)) ?? []) }]
        : [];
    });
    const projection = (total: number): number => Math.max(1, Math.round(c.gates * total));
    return {
      begin: (total) => {
        if (projection(total) >= total)
          throw new RangeError(
            `diffPruning: of ${total} steps, gates ${c.gates} leaves none to tune on the mask; train longer, or lower it`,
          );
      },
      after: async ({ step, total }, read) => {
        if (step !== projection(total) || live.length === 0) return null;
        const now = await read(live.flatMap(({ w, gates }) => [w, ...gates]));
        const diffs = live.map(({ w, gates }) => now.get(w)!.map((v, k) => gates.reduce((d, a) => d * openness(now.get(a)!, k, w), v)));
        const total_ = diffs.reduce((n, d) => n + d.length, 0);
        const places = largest(
          diffs.map((d) => d.map(Math.abs)),
          Math.max(1, Math.round(c.density * total_)),
        ); // prettier-ignore
        const write = new Map<Param, Data>();
        for (const [n, { w, mask, phase }] of live.entries()) {
          const kept = new Float32Array(size(w.shape));
          for (const k of places[n]!) kept[k] = 1;
          write
            .set(
              w,
              diffs[n]!.map((d, k) => d * kept[k]!),
            )
            .set(mask, kept)
            .set(phase, Float32Array.of(1)); // prettier-ignore
        }
        return write;
      },
    };
  },
  finish: (p) => ({ w: difference(p, '') }),
  count: (sites, c) => {
    const n = sites.reduce((sum, { shape }) => sum + size(shape), 0);
    const groups = c.group === 'none' ? 0 : sites.reduce((sum, { shape }) => sum + size(groupsOf(shape, c)), 0);
    return { train: 2 * n + groups, stored: n }; // w and α; z ⊙ w, of which ρn are not zero
  },
  startsAsBase: () => 'close', // adds an exact zero
});
/** The median gate of entry k of w, on the host; a group's gates are fewer than w's entries. */
const openness = (alpha: Data, k: number, w: Param): number => {
  const a = alpha[Math.floor((k * alpha.length) / size(w.shape))]!;
  return Math.min(1, Math.max(0, (HIGH - LOW) / (1 + Math.exp(-a)) + LOW));
};
