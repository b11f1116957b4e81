// The phases of diff pruning: random gates; then the ρN largest |z w| of all weights together are kept, the rest goes to 0; then w alone is
// tuned on that mask.
// Guo et al. 2021, arXiv 2012.07463, §3.
import { size } from '../../core/shape.ts';
import { type Data, type Param, paramOf } from '../../core/tensor.ts';
import type { Controller } from '../../nn/hooks.ts';
import { largest } from '../select.ts';
import type { Diff, DiffPruningConfig } from './diffPruning.ts';
import { medianGate } from './hardConcrete.ts';

const alphas = ({ alpha, groupAlpha }: Diff): Param[] => [alpha, groupAlpha].flatMap((t) => (t === undefined ? [] : (paramOf(t) ?? [])));

/** Ends the gates after their share of the steps. Without a draw u = ½, the median gate. */
export function phases(at: readonly { readonly own: Diff }[], c: DiffPruningConfig): Controller {
  const projection = (total: number): number => Math.max(1, Math.round(c.gates * total));
  return {
    begin: (total) => {
      if (!Number.isFinite(total))
        throw new RangeError('diffPruning: its phases depend on how many steps there will be; tell the trainer its total');
      if (projection(total) >= total)
        throw new RangeError(`diffPruning: of ${total} steps, gates ${c.gates} leaves none to tune on the mask; train longer, or lower it`);
    },
    after: async ({ step, total }, read) => {
      if (step !== projection(total) || at.length === 0) return null;
      const live = at.map(({ own }) => ({
        w: paramOf(own.w)!,
        mask: paramOf(own.mask!)!,
        phase: paramOf(own.phase!)!,
        alphas: alphas(own),
      }));
      const now = await read(live.flatMap((p) => [p.w, ...p.alphas]));
      const diffs = live.map((p) => p.alphas.reduce((d, a) => d.map((v, k) => v * medianGate(now.get(a)!, k, d.length)), now.get(p.w)!));
      const kept = Math.max(1, Math.round(c.density * diffs.reduce((n, d) => n + d.length, 0)));
      const places = largest(
        diffs.map((d) => d.map(Math.abs)),
        kept,
      );
      const write = new Map<Param, Data>();
      for (const [n, { w, mask, phase }] of live.entries()) {
        const on = new Float32Array(size(w.shape));
        for (const k of places[n]!) on[k] = 1;
        const left = diffs[n]!.map((d, k) => d * on[k]!); // z ⊙ w, so that tuning starts where the gates ended
        write.set(w, left).set(mask, on).set(phase, Float32Array.of(1));
      }
      return write;
    },
  };
}
