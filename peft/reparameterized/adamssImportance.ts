// What AdaMSS's budget goes by: how much each trained number matters to the loss, and how much that varies, averaged over the steps.
//   I = |w·∂w|,   Ū ← β₂Ū + (1 − β₂)|I − Ī|,  then Ī ← β₁Ī + (1 − β₁)I
// As in PEFT 0.21 (update_and_allocate): values after the step, gradients of the step.
import { abs, where } from '../../core/ops/map.ts';
import { type Param, param, paramOf, type Tensor } from '../../core/tensor.ts';
import type { Hooks } from '../../nn/hooks.ts';
import type { Adamss } from './adamss.ts';
import type { AdamssBudget } from './adamssBudget.ts';

/** Ī = Ū = 0 of A, then of B, and all clusters going on. */
export function tallies(A: readonly Tensor[], B: readonly Tensor[]): Pick<Adamss, 'average' | 'spread' | 'on'> {
  const zeros = (): Tensor[] => [...A, ...B].map(({ shape }) => param(new Float32Array(shape[0]! * shape[1]!), shape, { active: false }));
  return { average: zeros(), spread: zeros(), on: param(new Float32Array(A.length).fill(1), [A.length], { active: false }) };
}

/** New averages; clusters that stopped get their old values back. */
export function importance(
  p: Adamss,
  b: AdamssBudget,
  { grad, prev, next }: Parameters<NonNullable<Hooks['afterStep']>>[0],
): Map<Param, Tensor> {
  const updates = new Map<Param, Tensor>();
  for (const [k, t] of [...p.A, ...p.B].entries()) {
    const on = p.on.slice(0, k % p.A.length, (k % p.A.length) + 1); // [1]
    const w = paramOf(t)!;
    const now = where(on, next(w), prev(w));
    const g = grad.get(w);
    const [average, spread] = [p.average[k]!, p.spread[k]!];
    const size = g === undefined ? now.mul(0) : abs(now.mul(g)).mul(on); // I
    updates
      .set(w, now)
      .set(paramOf(spread)!, spread.mul(b.beta2).add(abs(size.sub(average)).mul(1 - b.beta2)))
      .set(paramOf(average)!, average.mul(b.beta1).add(size.mul(1 - b.beta1)));
  }
  return updates;
}
