// Poly: every row mixes the skills for its task, head by head; what training draws; and what cannot be merged.
import { expect, test } from 'vitest';
import { float64 } from '../../core/engines/float64.ts';
import { leaf } from '../../core/tensor.ts';
import { context, quiet } from '../../nn/context.ts';
import { merge } from '../../peft/merge.ts';
import { poly } from '../../peft/reparameterized/poly.ts';
import { llamaNetwork, perturb, WIDTH } from '../laws/models.ts';
import { apart, layerAt, own, random, rowsOf, sigmoid } from './naive.ts';

const engine = float64();
const { base } = llamaNetwork(1);
const [at, tokens, r, S, Q] = ['trunk.blocks.1.attn.v', 3, 2, 3, 2];
const x = random(3, [2, tokens, WIDTH]);

/** What is added to row `row` of the batch, from z [Q·S]: (1/r) x A B with both mixed head by head. */
function added(p: Record<string, number[][]>, rows: number[][], z: readonly number[], out: number): number[][] {
  const [A, B] = [p['poly.A']!.flat(), p['poly.B']!.flat()];
  const share = (q: number, s: number): number => z[q * S + s]! / z.slice(q * S, (q + 1) * S).reduce((a, b) => a + b);
  const mixed = (t: number[], q: number, n: number, k: number): number =>
    [0, 1, 2].reduce((sum, s) => sum + share(q, s) * t[(q * S + s) * n + k]!, 0);
  const [wi, wo] = [WIDTH / Q, out / Q];
  return rows.map((row) => {
    const low = Array.from({ length: r }, (_, j) =>
      row.reduce((sum, v, i) => sum + v * mixed(A, Math.floor(i / wi), wi * r, (i % wi) * r + j), 0),
    );
    return Array.from({ length: out }, (_, o) =>
      low.reduce((sum, v, j) => sum + (v * mixed(B, Math.floor(o / wo), r * wo, j * wo + (o % wo))) / r, 0),
    );
  });
}

test('each row has the update of its task; drawn shares are relaxed coins, another for each row', async () => {
  const model = perturb(poly({ rank: r, skills: S, tasks: 2, splits: Q })(base), 2);
  const p = await own(engine, model, at);
  const rows = rowsOf(await engine.read(x), WIDTH);
  const bare = await engine.read(layerAt(base, 'linear', at)(x, context(tokens)));
  const out = bare.length / rows.length;
  const task = [1, 0];
  const u = [0.1, 0.9, 0.4, 0.6, 0.2, 0.8, 0.3, 0.7, 0.5, 0.25, 0.75, 0.05];
  const draw = { ...quiet, uniform: () => leaf(u, [2, Q, S]) };
  for (const [ctx, noise] of [
    [context(tokens), () => 0],
    [context(tokens, { draw }), (k: number) => Math.log(Math.fround(u[k]!) / (1 - Math.fround(u[k]!)))],
  ] as const) {
    const expected = task.flatMap((t, row) =>
      added(
        p,
        rows.slice(row * tokens, (row + 1) * tokens),
        p['poly.logits']![t]!.map((l, k) => sigmoid(l + noise(row * Q * S + k))),
        out,
      ).flat(),
    );
    const got = await engine.read(layerAt(model, 'linear', at)(x, ctx), { task });
    expect(
      apart(
        got,
        expected.map((v, k) => v + bare[k]!),
      ),
    ).toBeLessThan(1e-6);
  }
});

test('counts S·r(in + out) + tasks·Q·S: LLaMA-7B’s q and v', () => {
  const sites = Array.from({ length: 64 }, () => ({ shape: [4096, 4096] }) as never);
  const c = { rank: 8, skills: 4, tasks: 10, splits: 2 };
  expect(poly.method.count(sites, c).train).toBe(64 * (4 * 8 * 8192 + 80));
});

test('refused: merging several tasks, splits that do not divide, no skills', () => {
  expect(() => merge(poly({ rank: 2, tasks: 3 })(base))).toThrow(/poly at .*each of 3 tasks/);
  expect(() => poly({ rank: 2, splits: 3 })(base)).toThrow(/3 splits do not divide/);
  expect(() => poly({ skills: 0 })(base)).toThrow(/poly: skills 0/);
});
