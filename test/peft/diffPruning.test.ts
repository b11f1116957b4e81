// Diff pruning: the gate's distribution and derivative, its three phases, and what is left at the end.
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { float64 } from '../../core/engines/float64.ts';
import { grad } from '../../core/grad.ts';
import { rng } from '../../core/rng.ts';
import { leaf, type Param, param, paramOf, type Tensor, topological } from '../../core/tensor.ts';
import { context, stochastic } from '../../nn/context.ts';
import type { Attached, Fields, Model } from '../../nn/layer.ts';
import { nextToken } from '../../nn/losses.ts';
import { layers, trainable } from '../../nn/tree.ts';
import { adamw } from '../../optim/adamw.ts';
import { trainer } from '../../optim/trainer.ts';
import { finish, merge } from '../../peft/merge.ts';
import type { Options } from '../../peft/method.ts';
import { type DiffPruningConfig, diffPruning } from '../../peft/selective/diffPruning.ts';
import { gate, openGates } from '../../peft/selective/hardConcrete.ts';
import { pick } from '../../peft/site.ts';
import { gpt2Network, perturb, run } from '../laws/models.ts';
import { counting, frozen, type Text } from '../optim/tiny.ts';
import { affine, apart, flat, layerAt, random, rowsOf, sigmoid, trained } from './naive.ts';

const engine = float64();
const base = frozen();
const Q = 'trunk.blocks.0.attn.q';
const attachments = (m: Model): { path: string; own: Fields; attached: Attached }[] =>
  [...layers(m)].flatMap(({ path, layer: { attached, fields } }) =>
    attached === null ? [] : [{ path, own: fields[attached.field] as Fields, attached }],
  );
const state = (f: Fields, name: string): Param => paramOf(f[name] as Tensor)!;
const weightOf = async (m: Model, path: string): Promise<number[]> => [...(await engine.read(layerAt(m, 'weight', path)()))];
/** z by the formula. */
const z = (alpha: number, u = 0.5): number => Math.min(1, Math.max(0, 3 * sigmoid(Math.log(u) - Math.log(1 - u) + alpha) - 1.5));

describe('the gate', () => {
  it('is the hard concrete, u kept within [1e-4, 1 − 1e-4] (seeded)', () =>
    fc.assert(
      fc.asyncProperty(fc.integer(), async (seed) => {
        const r = rng(seed);
        const alpha = Float64Array.from(r.normal(8, 3));
        const u = Float64Array.from([0, 1e-9, 1, 0.5, ...r.uniform(4)]);
        const inside = u.map((v) => Math.min(1 - 1e-4, Math.max(1e-4, v)));
        const wanted = Array.from(alpha, (a, k) => z(a, inside[k]!));
        expect(apart(await engine.read(gate(leaf(alpha, [8]), leaf(u, [8]))), wanted)).toBeLessThan(1e-12);
      }),
      { numRuns: 30 },
    ));
  it('is closed with probability σ(log(−l/r) − α), by counting', async () => {
    const n = 20000;
    for (const a of [-1.5, -0.4, 0, 0.8, 2]) {
      const alpha = leaf(new Float64Array(n).fill(a), [n]);
      const gates = await engine.read(gate(alpha, leaf(rng(7).uniform(n), [n])));
      const p = sigmoid(-a); // log(−l/r) is 0 for l = −1.5, r = 1.5
      expect(Math.abs(gates.filter((v) => v === 0).length / n - p)).toBeLessThan(4 * Math.sqrt((p * (1 - p)) / n));
      expect((await engine.item(openGates(alpha))) / n).toBeCloseTo(1 - p, 10);
    }
  });
  it('has ∂z/∂α = (r − l)s(1 − s) inside and 0 where it is cut, for fixed u', async () => {
    const n = 60;
    const [a, u] = [Float64Array.from(rng(1).normal(n, 2)), Float64Array.from(rng(2).uniform(n, 0.01, 0.99))];
    const alpha = param(a, [n]);
    const got = await engine.read(grad(gate(alpha, leaf(u, [n])).sum(), [alpha])[0]!);
    const wanted = Array.from(a, (v, k) => {
      const s = sigmoid(Math.log(u[k]!) - Math.log(1 - u[k]!) + v);
      return 3 * s - 1.5 > 0 && 3 * s - 1.5 < 1 ? 3 * s * (1 - s) : 0;
    });
    expect(wanted.filter((v) => v === 0).length).toBeGreaterThan(10);
    expect(apart(got, wanted)).toBeLessThan(1e-12);
    const h = 1e-6;
    for (let k = 0; k < n; k++) expect(Math.abs((z(a[k]! + h, u[k]) - z(a[k]! - h, u[k])) / (2 * h) - wanted[k]!)).toBeLessThan(1e-6);
  });
});

describe('equation', () => {
  for (const group of ['none', 'row', 'tensor'] as const)
    it(`W + z ⊙ w with ${group === 'none' ? 'a gate for each entry' : `a gate for each ${group} as well`}, drawn and quiet, by hand`, async () => {
      const model = perturb(diffPruning({ where: `${Q}.weight`, group, alphaInit: 0 })(base), 3, 1);
      const { own: f } = attachments(model)[0]!;
      const read = async (name: string): Promise<number[]> => [...(await engine.read(f[name] as Tensor))];
      const [w, alpha, W] = [await read('w'), await read('alpha'), await weightOf(base, `${Q}.weight`)];
      const groups = group === 'none' ? null : await read('groupAlpha');
      expect(groups?.length ?? 0).toBe({ none: 0, row: 8, tensor: 1 }[group]);
      const of = (k: number): number => (group === 'row' ? Math.floor(k / 8) : 0);
      const x = random(1, [3, 8]);
      const bias = await weightOf(base, `${Q}.bias`);
      const byHand = (u: (k: number) => number, v: (k: number) => number, xs: number[][]): number[] =>
        flat(
          affine(
            xs,
            rowsOf(
              W.map((weight, k) => weight + w[k]! * z(alpha[k]!, u(k)) * (groups === null ? 1 : z(groups[of(k)]!, v(of(k))))),
              8,
            ),
            bias,
          ),
        );
      const xs = rowsOf(await engine.read(x), 8);
      const half = (): number => 0.5;
      expect(apart(await engine.read(layerAt(model, 'linear', Q)(x, context(3))), byHand(half, half, xs))).toBeLessThan(1e-12);

      const y = layerAt(model, 'linear', Q)(x, context(3, { draw: stochastic() }));
      const inputs = topological([y]).flatMap((t) =>
        t.source.kind === 'input' ? [{ name: t.source.name, n: t.shape.reduce((a, b) => a * b) }] : [],
      );
      expect(inputs.length).toBe(group === 'none' ? 1 : 2);
      const drawn = Object.fromEntries(inputs.map(({ name, n }, k) => [name, rng(k + 5).uniform(n, 0.01, 0.99)]));
      const fed = (part: (name: string) => boolean): Float32Array =>
        drawn[inputs.find(({ name }) => part(name))?.name ?? ''] ?? new Float32Array();
      const [u, v] = [fed((n) => !n.includes('group')), fed((n) => n.includes('group'))];
      expect(
        apart(
          await engine.read(y, drawn),
          byHand(
            (k) => u[k]!,
            (k) => v[k]!,
            xs,
          ),
        ),
      ).toBeLessThan(1e-12);
    });
  it('penalises λ times the expected number of open gates, entries and groups alike', async () => {
    const model = perturb(diffPruning({ where: [`${Q}.weight`, 'down.bias'], group: 'tensor', lambda: 0.5, alphaInit: 0 })(base), 4, 1);
    const total = attachments(model)
      .map(({ attached }) => attached.hooks.penalty!())
      .reduce((a, b) => a.add(b));
    let wanted = 0;
    for (const { own: f } of attachments(model))
      for (const name of ['alpha', 'groupAlpha']) for (const a of await engine.read(f[name] as Tensor)) wanted += 0.5 * sigmoid(a);
    expect(await engine.item(total)).toBeCloseTo(wanted, 10);
  });
  it('gives α a rate of its own and no decay', () => {
    const { own: f } = attachments(diffPruning({ alphaRate: 30 })(base))[0]!;
    expect([state(f, 'alpha').lr, state(f, 'alpha').decay, state(f, 'w').lr, state(f, 'w').decay]).toEqual([30, false, 1, true]);
    expect([state(f, 'mask').active, state(f, 'phase').active]).toEqual([false, false]);
  });
});

describe('three phases', () => {
  const options: Options<DiffPruningConfig> = {
    density: 0.1,
    gates: 0.5,
    lambda: 1e-4,
    alphaInit: 1,
    alphaRate: 20,
    where: /\bblocks\.1\./,
  };
  const start = (more: Options<DiffPruningConfig> = {}, total = 8) =>
    trainer<Model, Text>(diffPruning({ ...options, ...more })(base), {
      engine,
      loss: nextToken,
      optimizer: adamw({ lr: 5e-3, weightDecay: 0.05 }),
      total,
    });
  const N = [...layers(base)].filter(({ path, layer }) => layer.kind === 'weight' && path.includes('blocks.1.')).length;
  const masksOf = (m: Model): number[][] => attachments(m).map(({ own: f }) => [...state(f, 'mask').value]);
  const entries = async (m: Model): Promise<{ path: string; before: number[]; after: number[]; mask: number[] }[]> => {
    const [merged, masks, paths] = [merge(m), masksOf(m), attachments(m).map(({ path }) => path)];
    const both = paths.flatMap((path, k) => [
      [`before${k}`, layerAt(base, 'weight', path)()] as const,
      [`after${k}`, layerAt(merged, 'weight', path)()] as const,
    ]);
    const got = await (await engine.compile(engine.store(), { outputs: Object.fromEntries(both) })).run();
    return paths.map((path, k) => ({ path, before: [...got[`before${k}`]!], after: [...got[`after${k}`]!], mask: masks[k]! }));
  };
  for (const group of ['none', 'row'] as const)
    it(`ends with exactly ρN entries changed, all others bit for bit the base (groups: ${group})`, async () => {
      await using t = await start({ group });
      const penalties: number[] = [];
      const masks: string[] = [];
      for (let k = 0; k < 8; k++) {
        penalties.push((await t.step(counting(k))).penalty);
        masks.push(masksOf(await t.model()).join());
      }
      const done = await entries(await t.model());
      expect(done.length).toBe(N);
      const size = done.reduce((n, e) => n + e.mask.length, 0);
      const on = done.reduce((n, e) => n + e.mask.filter((v) => v === 1).length, 0);
      expect(on).toBe(Math.round(0.1 * size));
      for (const { path, before, after, mask } of done)
        expect(
          after.map((v, k) => !Object.is(v, before[k])),
          path,
        ).toEqual(mask.map((v) => v === 1));
      expect(penalties.slice(0, 4).every((p) => p > 0)).toBe(true); // while gates are drawn
      expect(penalties.slice(4).every((p) => p === 0)).toBe(true);
      expect(new Set(masks.slice(0, 3)).size).toBe(1); // nothing is chosen before half of the steps
      expect(masks[3]).not.toBe(masks[2]);
      expect(new Set(masks.slice(3)).size).toBe(1); // and the choice stays
    });
  it('keeps the largest |z w|, at the values the gates gave them, and tunes on from there', async () => {
    await using t = await start({}, 4); // projects after the second step
    await t.step(counting(0));
    await using without = await start({ gates: 0.7 }, 4); // the same first two steps, projected after the third
    for (let k = 0; k < 2; k++) await without.step(counting(k));
    const free = await entries(await without.model());
    await t.step(counting(1));
    const projected = await entries(await t.model());
    const size = (e: (typeof free)[number], k: number): number => Math.abs(e.after[k]! - e.before[k]!);
    const [kept, dropped] = [1, 0].map((m) => projected.flatMap((e, s) => e.mask.flatMap((v, k) => (v === m ? [size(free[s]!, k)] : []))));
    expect(Math.min(...kept!)).toBeGreaterThanOrEqual(Math.max(...dropped!) - 1e-9); // up to the rounding of W + z w
    for (const [s, e] of projected.entries())
      for (const [k, v] of e.mask.entries()) if (v === 1) expect(Math.abs(e.after[k]! - free[s]!.after[k]!)).toBeLessThan(1e-9);
    await t.step(counting(2));
    const tuned = await entries(await t.model());
    expect(tuned.some((e, s) => e.after.some((v, k) => v !== projected[s]!.after[k]))).toBe(true);
  });
  it('draws in the first phase only for training: quiet passes agree, and after the projection the draw changes nothing', async () => {
    await using t = await start();
    const twice = async (): Promise<[boolean, boolean]> => {
      const m = await t.model();
      const ids = leaf([1, 2, 3, 4], [1, 4]);
      const loss = nextToken(m, { ids, targets: ids }, context(4, { draw: stochastic() }));
      const plan = await engine.compile(engine.store(), { outputs: { loss } });
      const quiet = nextToken(m, { ids, targets: ids }, context(4));
      return [
        (await plan.run({}, 1)).loss[0] === (await plan.run({}, 2)).loss[0],
        (await engine.item(quiet)) === (await plan.run({}, 1)).loss[0],
      ];
    };
    for (let k = 0; k < 3; k++) await t.step(counting(k));
    expect(await twice()).toEqual([false, false]);
    for (let k = 3; k < 5; k++) await t.step(counting(k));
    expect(await twice()).toEqual([true, true]);
  });
  it('resumes bit for bit across the projection', async () => {
    await using a = await start();
    for (let k = 0; k < 3; k++) await a.step(counting(k));
    await using b = await start();
    await b.load(await a.state());
    for (let k = 3; k < 6; k++) for (const t of [a, b]) await t.step(counting(k));
    expect((await b.state()).values).toEqual((await a.state()).values);
  });
  it('finished, holds the difference alone, with the same outputs, and steers nothing', async () => {
    await using t = await start();
    for (let k = 0; k < 5; k++) await t.step(counting(k));
    const m = await t.model();
    const done = finish(m);
    const [one] = attachments(done);
    expect([Object.keys(one!.own), Object.keys(one!.attached.hooks)]).toEqual([['w'], []]);
    expect(trainable(done).size).toBe(0);
    for (const { path, after } of await entries(m)) expect(await weightOf(done, path)).toEqual(after);
  });
  it('refuses, before the first step, totals its phases do not fit', async () => {
    const at = attachments(diffPruning(options)(base));
    const controller = at[0]!.attached.application.control!(at);
    expect(() => controller.begin!(1)).toThrow(/diffPruning: of 1 steps, gates 0\.5 leaves none to tune on the mask/);
    expect(() => controller.begin!(Number.POSITIVE_INFINITY)).toThrow(/tell the trainer its total/);
    expect(() => controller.begin!(2)).not.toThrow();
  });
});

it('on a tied weight is one difference with one draw for both its uses; naming one side is refused', async () => {
  const net = gpt2Network(1); // the head is the embedding
  const both = ['embed.weight', 'head.weight'];
  const model = diffPruning({ where: both })(net.base);
  expect(diffPruning.method.count(pick(net.base, 'weight', both, ''), diffPruning.method.defaults).train).toBe(trained(model));
  const { loss } = run(net, model, stochastic());
  const drawn = new Set(topological([loss]).flatMap((t) => (t.source.kind === 'input' ? [t.source.name] : [])));
  expect([...drawn].length).toBe(1);
  for (const where of both) expect(() => diffPruning({ where })(net.base)).toThrow(/shares its weight with .* \(tied\).* name both/);
});

it('refuses settings that cannot work', () => {
  for (const density of [0, 2]) expect(() => diffPruning({ density })(base)).toThrow(/diffPruning: density/);
  for (const gates of [0, 1]) expect(() => diffPruning({ gates })(base)).toThrow(/diffPruning: gates/);
});
