// What a method must do on the simd engine: output, loss and all gradients as on float64, attached and merged.
import { afterAll, describe, expect, it } from 'vitest';
import { float64 } from '../../core/engines/float64.ts';
import { simd } from '../../core/engines/simd.ts';
import type { Numbers } from '../../core/store.ts';
import type { Tensor } from '../../core/tensor.ts';
import { methods } from '../../peft/all.ts';
import { merge } from '../../peft/merge.ts';
import { gradients } from './graph.ts';
import { caseOf, mergeable } from './methodCase.ts';
import { networks, run, TOKENS } from './models.ts';

const seed = Number(process.env.TINYPEFT_SEED ?? 1);
const oracle = float64();
const engine = await simd({ threads: 2 });

/** Float32's 6e-8 through two blocks and back, on values of order 1; relative to the largest value, or to 1e-3 of the largest gradient. */
const BOUND = 1e-4;
/**
 * A gradient that is 0 by theory (a key bias's, which softmax does not feel) is a sum over the batch's tokens that cancels: double precision says
 * so by a value far below all others, and float32 leaves a unit in the last place of each term, which is at most as the largest gradient.
 */
const [ZERO, CANCELLED] = [1e-12, 2 * TOKENS * 2 ** -24];
const largest = (xs: Numbers): number => Array.from(xs).reduce((m, v) => Math.max(m, Math.abs(v)), 0);

/** One test per pair that `chosen` keeps (the method's place in the list, the network's). */
export function methodsOnSimd(chosen: (method: number, network: number) => boolean): void {
  afterAll(() => engine.close());
  describe('methods on simd', () => {
    for (const [m, method] of methods.entries())
      for (const [n, net] of networks(seed).entries()) {
        if (method.unfit[net.name] !== undefined || !chosen(m, n)) continue;
        it(`${method.name} on ${net.name} (seed ${seed})`, async () => {
          const c = await caseOf(method, net, seed, oracle);
          const { output, loss } = run(net, c.model);
          const merged = mergeable(c.method) ? [run(net, merge(c.model)).output] : [];
          const roots: readonly Tensor[] = [output, loss, ...merged, ...gradients(loss, c.model)];
          const program = { outputs: Object.fromEntries(roots.map((t, k) => [`${k}`, t])) };
          const values = async (e: typeof engine): Promise<Numbers[]> => {
            const got = await (await e.compile(e.store(), program)).run();
            return roots.map((_, k) => got[`${k}`]!);
          };
          const [want, have] = [await values(oracle), await values(engine)];
          const slope = Math.max(...want.slice(2 + merged.length).map(largest));
          for (const [k, w] of want.entries()) {
            const gradient = k >= 2 + merged.length;
            const bound =
              gradient && largest(w) < ZERO * slope ? CANCELLED * slope : BOUND * Math.max(largest(w), gradient ? slope / 1000 : 0);
            for (const [i, v] of w.entries()) expect(Math.abs(v - have[k]![i]!), `result ${k}[${i}]`).toBeLessThanOrEqual(bound);
          }
        });
      }
  });
}
