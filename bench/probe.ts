// Running a recipe for its cost: everything is computed, one number per result is read back, which also waits for a GPU.
import type { Engine } from '../core/engine.ts';
import { schedule } from '../core/schedule.ts';
import { size, table } from '../core/shape.ts';
import type { Tensor } from '../core/tensor.ts';

export interface Probe {
  /** Computes every result once; answers one element of each. */
  run(): Promise<number[]>;
  /** Floating-point operations of one run. */
  readonly flops: number;
  /** Bytes its kernels read and write at least: every operand and every result once, four bytes each. */
  readonly bytes: number;
  close(): void;
}

/** Compiles results for repeated runs; `at` is which element is read, as row and column. */
export async function probe(engine: Engine, results: readonly Tensor[], at: readonly [number, number] = [0, 0]): Promise<Probe> {
  const outputs = Object.fromEntries(results.map((t, k) => [`r${k}`, element(t, at)]));
  const { steps } = schedule(results);
  const store = engine.store();
  const plan = await engine.compile(store, { outputs });
  return {
    run: async () => {
      const got = await plan.run();
      return results.map((_, k) => got[`r${k}`]![0]!);
    },
    flops: steps.reduce((n, s) => n + s.kernel.flops, 0),
    bytes: steps.reduce((n, s) => n + 4 * (size(s.node.shape) + operands(s.node)), 0),
    close: () => store.close(),
  };
}
const operands = (t: Tensor): number => (t.source.kind === 'apply' ? t.source.ins.reduce((n, x) => n + size(x.shape), 0) : 0);

/** One element of a tensor: a row of its table, then a column of that row, so that little is copied. */
function element(t: Tensor, [row, col]: readonly [number, number]): Tensor {
  const { rows, cols } = table(t.shape);
  if (rows * cols === 1) return t;
  return t
    .reshape(rows, cols)
    .slice(0, row, row + 1)
    .slice(1, col, col + 1);
}
