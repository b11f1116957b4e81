// Every method that Hugging Face PEFT has too, against it: logits, loss, the gradient of every trained tensor, and three AdamW steps.
import { expect, test } from 'vitest';
import { float64 } from '../../core/engines/float64.ts';
import { grad } from '../../core/grad.ts';
import { crossEntropy } from '../../core/ops/fused.ts';
import { here } from '../../core/scope.ts';
import { type Shape, size } from '../../core/shape.ts';
import { input, paramOf, stateOf, type Tensor } from '../../core/tensor.ts';
import { type Context, context, type Draw, quiet } from '../../nn/context.ts';
import { withValues } from '../../nn/freeze.ts';
import type { Model } from '../../nn/layer.ts';
import { layers, tensors, trainable } from '../../nn/tree.ts';
import { adamw } from '../../optim/adamw.ts';
import { trainer } from '../../optim/trainer.ts';
import { huggingFace } from '../names.ts';
import { fixture, off, type Table } from './fixtures.ts';
import { type Part, type Recorded, cases as shared } from './hfPeftCases.ts';
import { joined } from './hfPeftJoined.ts';
import { rest } from './hfPeftRest.ts';
import { updates } from './hfPeftUpdates.ts';
import { variants } from './hfPeftVariants.ts';
import { networks } from './networks.ts';

const TOLERANCE = 1e-7; // tensors are float32 numbers, everything else is computed in double precision on both sides
const engine = float64();
/** What went in is written as the shortest text of a float32 number. */
const exactly = (t: Table | undefined, part: Part): Table | undefined =>
  t === undefined || part !== 'tensors' ? t : { ...t, data: t.data.map(Math.fround) };

/** Random numbers are fed, by the names that ours are drawn under. */
const byName = (name: string, shape: Shape): Tensor => input(`${here().path}.${name}`, shape);
const fed: Draw = { bernoulli: byName, uniform: byName, normal: byName };

const cases = { ...shared, ...updates, ...rest, ...variants, ...joined };

test.each(Object.keys(cases))('%s', async (title) => {
  const c = cases[title]!;
  const n = networks[c.network];
  const f = fixture<{ readonly cases: Readonly<Record<string, Recorded>> }>(`peft-${c.group}`).cases[title]!;
  const numbers = (path: string, part: Part): readonly number[] => c.from(path, (name) => exactly(f[part][name], part), part);
  const fresh = await c.make(n, f);
  const model = withValues(fresh, new Map([...trainable(fresh)].map(([p, path]) => [p, Float64Array.from(numbers(path, 'tensors'))])));
  const all = [...trainable(model)];
  const feed = { ...c.feed, ...c.draws?.(f) };
  const scalars = (tables: Readonly<Record<string, Table>>): number => Object.values(tables).reduce((sum, t) => sum + size(t.shape), 0);
  expect(all.reduce((sum, [p]) => sum + size(p.shape), 0)).toBe(scalars(f.tensors)); // all of theirs, and nothing else

  const aux: Tensor[] = [];
  const pass = (report: Context['aux']): Context => context(n.tokens, { draw: c.training ? fed : quiet, aux: report });
  const measure = c.measure?.(n) ?? ((m: Model, ctx: Context): Tensor => crossEntropy(m(n.batch, ctx), n.targets));
  const loss = measure(
    model,
    pass((_, l) => aux.push(l)),
  );
  const penalties = [...layers(model)].flatMap(({ layer: l }) => l.attached?.hooks.penalty?.() ?? []);
  const whole = [...penalties, ...aux].reduce((s, p) => s.add(p), loss);
  const grads = grad(
    whole,
    all.map(([p]) => stateOf(p)),
  );
  const logits = model(
    n.batch,
    pass(() => {}),
  );
  const outputs: Record<string, Tensor> = { logits, whole, ...Object.fromEntries(grads.map((g, k) => [all[k]![1], g])) };
  const got = await (await engine.compile(engine.store(), { outputs })).run(feed);
  expect(off(got.logits!, f.logits), 'logits').toBeLessThan(TOLERANCE);
  expect(Math.abs(got.whole![0]! - f.loss), 'loss').toBeLessThan(TOLERANCE);
  const compare = (path: string, values: ArrayLike<number>, part: Part): void => {
    const wanted = numbers(path, part);
    expect(off(values, { shape: [], data: wanted }), `${part} of ${path}`).toBeLessThan(TOLERANCE);
  };
  for (const [, path] of all) compare(path, got[path]!, 'grads');
  expect(Math.max(...all.flatMap(([, path]) => numbers(path, 'grads').map(Math.abs)))).toBeGreaterThan(1e-3); // there is something to compare

  const batch = Object.fromEntries(Object.entries(feed).map(([k, data]) => [k, { data, shape: [data.length] }]));
  await using t = await trainer(model, {
    engine,
    loss: (m, _, ctx) => measure(m, pass(ctx.aux)),
    optimizer: c.optimizer ?? adamw({ lr: 0.01, weightDecay: 0 }),
    total: f.losses.length,
  });
  const losses: number[] = [];
  for (const _ of f.losses) {
    const step = await t.step(batch);
    losses.push(Object.values(step.aux).reduce((a, b) => a + b, step.loss + step.penalty));
  }
  expect(off(losses, { shape: [], data: f.losses }), 'losses').toBeLessThan(TOLERANCE);
  for (const [p, path] of trainable(await t.model())) compare(path, p.value, 'after');
});

test("what AdaMSS's clusters are worth after each of eight steps, and which of them go on", async () => {
  const c = rest['adamss budget llama']!;
  const { cases: recorded } = fixture<{
    readonly cases: { readonly 'adamss budget llama': Recorded; readonly 'adamss scores': Readonly<Record<string, readonly number[]>> };
  }>('peft-rest');
  const n = networks.llama;
  const model = await c.make(n, recorded['adamss budget llama']);
  await using t = await trainer(model, {
    engine,
    loss: (m) => crossEntropy(m(n.batch, context(n.tokens)), n.targets),
    optimizer: adamw({ lr: 0.01, weightDecay: 0 }),
    total: 8,
  });
  for (let step = 1; step <= 8; step++) {
    await t.step({});
    const own = [...tensors(await t.model())].filter(({ path }) => path.includes('.adamss.'));
    const of = (site: string, name: string, k: number): ArrayLike<number> =>
      paramOf(own.find(({ path }) => path === `${site}.adamss.${name}.${k}`)!.tensor)!.value;
    const worth = (site: string, k: number): number => {
      const spread = of(site, 'spread', k);
      return Array.from(of(site, 'average', k)).reduce((sum, v, i) => sum + v * spread[i]!, 0) / spread.length;
    };
    const sites = [0, 1].flatMap((block) => ['attn.v', 'mlp.down'].map((name) => `trunk.blocks.${block}.${name}`));
    const scores = sites.flatMap((site) => [0, 1, 2].map((k) => worth(site, k) + worth(site, k + 3)));
    const wanted = recorded['adamss scores'][step]!;
    const largest = Math.max(...wanted, 1e-12);
    expect(
      off(
        scores.map((v) => v / largest),
        { shape: [12], data: wanted.map((v) => v / largest) },
      ),
      `step ${step}`,
    ).toBeLessThan(TOLERANCE);
  }
});

test('no name of the library is left out', () => {
  const here = new Set(Object.keys(cases).map((title) => title.split(' ')[0]!));
  const elsewhere = ['llamaAdapter', 'pissa', 'olora', 'corda', 'loftq', 'loraGa']; // adaption.test.ts, hfPeftStarts.test.ts
  expect(huggingFace.map(([, ours]) => ours).filter((ours) => !here.has(ours) && !elsewhere.includes(ours))).toEqual([]);
});
