// The laws an engine must keep: every op, forward and backward, agrees with the float64 engine within its rounding bound.
import fc from 'fast-check';
import { afterAll, describe, expect, it } from 'vitest';
import type { Engine } from '../../core/engine.ts';
import { float64 } from '../../core/engines/float64.ts';
import { pullback } from '../../core/grad.ts';
import { rng } from '../../core/rng.ts';
import { size } from '../../core/shape.ts';
import { leaf, type Tensor } from '../../core/tensor.ts';
import type { Case, Instance } from './arbitraries.ts';
import { cases } from './cases.ts';
import { largest } from './naive.ts';

/** The unit roundoff of float32. */
const U = 2 ** -24;

export interface Bound {
  /** Allowed error in roundings per step of a case's depth: 1 for exact IEEE float32 arithmetic. */
  readonly roundings: number;
  /** Instances per op. */
  readonly runs: number;
  /** Cases not run, each with the reason; an unknown name is an error. */
  readonly skip?: Readonly<Record<string, string>>;
}

/** Largest |f32 − f64| that rounding explains, for one instance. */
export const allowed = (i: Instance, y64: ArrayLike<number>, roundings: number): number => roundings * U * i.depth * magnitude(i, y64);
function magnitude(i: Instance, y: ArrayLike<number>): number {
  const xs = i.operands.map(({ shape, data }) => ({ shape, data }));
  if (i.scale !== undefined) return Math.max(1e-30, i.scale(xs, { shape: [], data: Float64Array.from(y) }));
  return Math.max(1, largest(y), ...i.operands.map((o) => largest(o.data)));
}

/** Forward value, then Σ w·∂y/∂x for every real operand, with the same w on every engine. */
function recipes(i: Instance): { y: Tensor; grads: Tensor[] } {
  const xs = i.operands.map((o) => leaf(o.data, o.shape));
  const y = i.apply(xs);
  const w = leaf(Float64Array.from(rng(7).uniform(size(y.shape), -1, 1)), y.shape);
  return {
    y,
    grads: pullback(
      y,
      w,
      xs.filter((_, k) => i.operands[k]!.kind === 'real'),
    ),
  };
}

/** Declares the tests. `open` is called once, before the first. */
export function opLaws(name: string, open: () => Promise<Engine>, bound: Bound): void {
  describe(`ops on ${name}`, () => {
    const oracle = float64();
    const opened: Engine[] = [];
    const engine = async (): Promise<Engine> => {
      const e = opened[0] ?? (await open());
      if (opened.length === 0) opened.push(e);
      return e;
    };
    afterAll(async () => {
      for (const e of opened) await e.close();
    });
    it('skips only what exists', () => {
      for (const k of Object.keys(bound.skip ?? {})) expect(cases.map((c) => c.name)).toContain(k);
    });
    for (const c of cases) {
      const reason = bound.skip?.[c.name];
      if (reason !== undefined) it.skip(`${c.name}: ${reason}`, () => {});
      else it(c.name, async () => agrees(c, await engine(), oracle, bound));
    }
  });
}

async function agrees(c: Case, engine: Engine, oracle: Engine, bound: Bound): Promise<void> {
  await fc.assert(
    fc.asyncProperty(c.of, async (i) => {
      const { y, grads } = recipes(i);
      // one plan per engine: outputs y, g0, g1, …
      const outputs = Object.fromEntries([['y', y] as const, ...grads.map((g, k) => [`g${k}`, g] as const)]);
      const [a, b] = [engine.store(), oracle.store()];
      const got = await (await engine.compile(a, { outputs })).run();
      const want = await (await oracle.compile(b, { outputs })).run();
      a.close();
      b.close();
      for (const k of Object.keys(outputs)) {
        const [f32, f64] = [got[k]!, want[k]!];
        expect(f32.length, `${k}: length of the table`).toBe(f64.length);
        // A gradient is a short chain of ops after the forward: it gets the same bound, eight steps longer, on its own magnitude.
        const limit =
          k === 'y'
            ? allowed(i, f64, bound.roundings)
            : bound.roundings * U * (i.depth + 16) * Math.max(1, largest(f64), magnitude(i, want.y!)) ** 2;
        for (let e = 0; e < f64.length; e++)
          if (!(Math.abs(f32[e]! - f64[e]!) <= limit))
            expect.fail(`${c.name} ${k}[${e}]: ${f32[e]} should be ${f64[e]} within ${limit}\noperands ${i.label}`);
      }
    }),
    { numRuns: bound.runs },
  );
}
