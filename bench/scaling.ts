// How a LoRA step's cost grows with batch, length and depth, around workload W2; batch and depth must grow in a straight line.
import { columns } from '../core/columns.ts';
import type { Engine } from '../core/engine.ts';
import { nextToken } from '../nn/losses.ts';
import { adamw } from '../optim/adamw.ts';
import { trainer } from '../optim/trainer.ts';
import { build, rate, type Sizes, tokens, workloads } from './workloads.ts';

export type Axis = 'batch' | 'length' | 'depth';
export interface Point {
  readonly axis: Axis;
  readonly n: number;
  readonly ms: number; // the least of several steps
  readonly tokensPerSecond: number;
}
/** ms = fixed + each·n, and how far the farthest point lies from it, as a part of its own cost. */
export interface Line {
  readonly fixed: number;
  readonly each: number;
  readonly off: number;
}
/** How far from a straight line is still one. */
export const LINEAR = 0.15;

const field = { batch: 'B', length: 'T', depth: 'L' } as const;
const AXES: Readonly<Record<Axis, readonly number[]>> = { batch: [1, 2, 4, 8, 16], length: [32, 64, 128, 256], depth: [1, 2, 4, 8] };
const QUICK: Readonly<Record<Axis, readonly number[]>> = { batch: [1, 2, 4, 8], length: [32, 64, 128], depth: [1, 2, 4] };

const sizesAt = (base: Sizes, axis: Axis, n: number): Sizes => ({ ...base, [field[axis]]: n });

/** The straight line nearest to the points, distances measured as parts of each point's own cost. Needs three points. */
export function line(points: readonly { readonly n: number; readonly ms: number }[]): Line {
  if (points.length < 3) throw new RangeError(`line: ${points.length} points are always on a line; measure three or more`);
  let [w, wn, wnn, wy, wny] = [0, 0, 0, 0, 0];
  for (const { n, ms } of points) {
    const weight = 1 / ms ** 2;
    w += weight;
    wn += weight * n;
    wnn += weight * n * n;
    wy += weight * ms;
    wny += weight * n * ms;
  }
  const each = (w * wny - wn * wy) / (w * wnn - wn * wn);
  const fixed = (wy - each * wn) / w;
  return { fixed, each, off: Math.max(...points.map(({ n, ms }) => Math.abs(fixed + each * n - ms) / ms)) };
}

/** Measures every point: all points in turn, `rounds` times, so that a slow moment of the machine falls on all alike. */
export async function scaling(engine: Engine, quick: boolean, say: (line: string) => void): Promise<Point[]> {
  const axes = quick ? QUICK : AXES;
  const rounds = quick ? 2 : 4;
  const base: Sizes = { ...workloads.W2.sizes, ...(quick ? { B: 4, T: 64 } : {}) };
  const places = (Object.keys(axes) as Axis[]).flatMap((axis) => axes[axis].map((n) => ({ axis, n })));
  const best = new Map<string, number>();
  for (let round = 1; round <= rounds; round++)
    for (const { axis, n } of places) {
      const sizes = sizesAt(base, axis, n);
      await using t = await trainer(build(sizes, 'lora'), {
        engine,
        loss: nextToken,
        optimizer: adamw({ lr: rate.lora, weightDecay: 0.01 }),
      });
      const b = tokens(sizes);
      await t.step(b);
      for (let k = 0; k < 3; k++) {
        const began = performance.now();
        await t.step(b);
        const ms = performance.now() - began;
        best.set(`${axis} ${n}`, Math.min(ms, best.get(`${axis} ${n}`) ?? ms));
      }
      say(`round ${round}/${rounds}  ${axis} ${n}`);
    }
  return places.map(({ axis, n }) => {
    const { B, T } = sizesAt(base, axis, n);
    const ms = best.get(`${axis} ${n}`)!;
    return { axis, n, ms, tokensPerSecond: ((B * T) / ms) * 1e3 };
  });
}

/** The lines that must be straight. */
export const lines = (points: readonly Point[]): { readonly axis: Axis; readonly line: Line }[] =>
  (['batch', 'depth'] as const).map((axis) => ({ axis, line: line(points.filter((p) => p.axis === axis)) }));

export function scalingTable(points: readonly Point[]): string {
  const rows = points.map((p) => [p.axis, `${p.n}`, p.ms.toFixed(1), p.tokensPerSecond.toFixed(0)]);
  const said = lines(points).map(
    ({ axis, line: { fixed, each, off } }) =>
      `${axis}: ${fixed.toFixed(1)} ms + ${each.toFixed(2)} ms for each, off by at most ${(100 * off).toFixed(0)} %: ${off <= LINEAR ? 'linear' : `NOT LINEAR within ${100 * LINEAR} %`}`,
  );
  return `${columns(['', 'n', 'ms a step', 'tokens/s'], rows)}\n\n${said.join('\n')}\n(length is not expected to be linear: attention grows with its square)`;
}
