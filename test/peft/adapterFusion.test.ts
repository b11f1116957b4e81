// Pfeiffer adapters and AdapterFusion against their equations, both stages, and what softmax over adapters promises.
import { expect, test } from 'vitest';
import { float64 } from '../../core/engines/float64.ts';
import type { Tensor } from '../../core/tensor.ts';
import { context } from '../../nn/context.ts';
import { freeze } from '../../nn/freeze.ts';
import { BASE, layer, type Model } from '../../nn/layer.ts';
import { substitute, tensors, trainable } from '../../nn/tree.ts';
import { adamw } from '../../optim/adamw.ts';
import { trainer } from '../../optim/trainer.ts';
import { adapterFusion } from '../../peft/additive/adapterFusion.ts';
import { adapterFusionStages, fused } from '../../peft/additive/adapterFusionStages.ts';
import { type Fusion, fusionAttention } from '../../peft/additive/fusionAttention.ts';
import { pfeiffer } from '../../peft/additive/pfeiffer.ts';
import { bertNetwork, gpt2Network, type Network, numbersOf, perturb, run, WIDTH } from '../laws/models.ts';
import { affine, apart, each, layerAt, type Matrix, own, plus, random, relu, rowsOf, softmax, trained } from './naive.ts';

const engine = float64();
const site = 'trunk.blocks.1.mlp';

/** What passes at a place while a model runs: the branch's answer h, what it is added to, and what the adapter there reads. */
async function seen(net: Network, model: Model): Promise<{ h: Matrix; z: Matrix; out: Matrix; x: Matrix; stream: Matrix; z4: Tensor }> {
  const at: Tensor[] = [];
  const listening = substitute(model, 'branch', (l, path) =>
    path !== site
      ? null
      : layer('branch', { [BASE]: l }, () => (x, ctx) => {
          const under = l.fields[BASE] as typeof l;
          const h = under(x, ctx);
          const sum = h.add(ctx.residual!.stream);
          const out = l(x, ctx);
          at.push(h, ctx.residual!.norm === null ? sum : ctx.residual!.norm(sum), out, x, ctx.residual!.stream);
          return out;
        }),
  );
  run(net, listening);
  const [h, z, out, x, stream] = await Promise.all(at.map(async (t) => rowsOf(await engine.read(t), WIDTH)));
  return { h: h!, z: z!, out: out!, x: x!, stream: stream!, z4: at[1]! };
}
const layerNorm = (m: Matrix, gain: readonly number[], shift: readonly number[], eps: number): number[][] =>
  m.map((row) => {
    const mean = row.reduce((a, b) => a + b) / row.length;
    const variance = row.reduce((a, b) => a + (b - mean) ** 2, 0) / row.length;
    return row.map((v, i) => ((v - mean) / Math.sqrt(variance + eps)) * gain[i]! + shift[i]!);
  });
const bottleneck = (p: Record<string, number[][]>, z: Matrix, n = ''): number[][] =>
  affine(each(affine(z, p[`down${n}`]!, p[`downBias${n}`]!.flat()), relu), p[`up${n}`]!, p[`upBias${n}`]!.flat());

test.each([gpt2Network(3), bertNetwork(3)])('$name: h + W_up σ(W_down z + b) + b, z the normalised or plain sum', async (net) => {
  const model = perturb(pfeiffer({ bottleneck: 3 })(net.base), 1);
  const { h, z, out, x, stream } = await seen(net, model);
  const norm = layerAt(net.base, 'norm', 'trunk.blocks.1.norm2');
  const p = await own(engine, net.base, 'trunk.blocks.1');
  const normalised = (m: Matrix): number[][] => layerNorm(m, p['norm2.weight']!.flat(), p['norm2.bias']!.flat(), Number(norm.fields.eps));
  if (net.name === 'bert')
    expect([apart(stream.flat(), x.flat()), apart(z.flat(), normalised(plus(h, stream)).flat()) < 1e-12]).toEqual([0, true]);
  else expect([apart(x.flat(), normalised(stream).flat()) < 1e-12, apart(z.flat(), plus(h, stream).flat())]).toEqual([true, 0]);
  expect(apart(out.flat(), plus(h, bottleneck(await own(engine, model, `${site}.pfeiffer`), z)).flat())).toBeLessThan(1e-12);
});

test('a branch by itself has no sum to read: refused, saying where', () => {
  const alone = layerAt(pfeiffer({ bottleneck: 3 })(gpt2Network(1).base), 'branch', site);
  expect(() => alone(random(1, [1, 2, WIDTH]), context(2))).toThrow(/pfeiffer at trunk.blocks.1.mlp.*block/);
});

const sources = (net: Network): Model[] => [1, 2, 3].map((s) => perturb(pfeiffer({ bottleneck: 1 + s })(net.base), s));

/** α at the place, a row for each token. */
async function attention(model: Model, z: Tensor, bottlenecks: readonly number[]): Promise<number[][]> {
  const adapters = bottlenecks.map((bottleneck) => ({ bottleneck, activation: 'relu' as const }));
  const c = { value: true, regularization: 0, temperature: false, dropout: 0, adapters };
  const own = layerAt(model, 'branch', site).fields.adapterFusion as unknown as Fusion;
  return rowsOf(await engine.read(fusionAttention(own, z, c)), adapters.length);
}

test.each([true, false])('o = h + Σ α W_v u, α = softmax(q·k), with value matrix (dynamic) or without (static): %s', async (value) => {
  const net = bertNetwork(4);
  const models = sources(net);
  const model = perturb(fused(models, { value })(net.base), 9);
  const { h, z, out, z4 } = await seen(net, model);
  const p = await own(engine, model, `${site}.adapterFusion`);
  const u = [0, 1, 2].map((n) => bottleneck(p, z, `.${n}`));
  for (const [n, m] of models.entries()) expect(p[`down.${n}`]).toEqual((await own(engine, m, `${site}.pfeiffer`)).down);
  const q = affine(z, p.query!, p.queryBias!.flat());
  const k = u.map((un) => affine(un, p.key!, p.keyBias!.flat()));
  const alpha = q.map((row, t) => softmax(k.map((kn) => kn[t]!.reduce((s, v, i) => s + v * row[i]!, 0))));
  const v = value ? u.map((un) => affine(un, p.value!)) : u;
  const expected = h.map((row, t) => row.map((x, i) => x + v.reduce((s, vn, n) => s + alpha[t]![n]! * vn[t]![i]!, 0)));
  expect(apart(out.flat(), expected.flat())).toBeLessThan(1e-11);

  const read = await attention(model, z4, [2, 3, 4]);
  expect(apart(read.flat(), alpha.flat())).toBeLessThan(1e-11);
  for (const row of read) expect(row.reduce((a, b) => a + b)).toBeCloseTo(1, 12);
  const turned = perturb(fused([models[2]!, models[0]!, models[1]!], { value })(net.base), 9); // another order, the same sum
  expect(apart(await numbersOf(engine, net, turned), await numbersOf(engine, net, model))).toBeLessThan(1e-10);
  const moved = await attention(turned, z4, [4, 2, 3]); // and the same shares, in that order
  expect(
    apart(
      moved.flat(),
      read.flatMap(([a, b, c]) => [c!, a!, b!]),
    ),
  ).toBeLessThan(1e-11);
  const alike = perturb(fused([models[0]!, models[0]!, models[0]!, models[0]!], { value })(net.base), 9); // equal keys
  for (const row of await attention(alike, z4, [2, 2, 2, 2])) expect(apart(row, [0.25, 0.25, 0.25, 0.25])).toBeLessThan(1e-12);
});

test('one adapter, or equal ones, fused without a value matrix are that adapter', async () => {
  const net = gpt2Network(2);
  const one = sources(net)[0]!;
  const expected = await numbersOf(engine, net, one);
  for (const models of [[one], [one, one, one]])
    expect(apart(await numbersOf(engine, net, perturb(fused(models, { value: false })(net.base), 3)), expected)).toBeLessThan(1e-12);
  const almost = await numbersOf(engine, net, fused([one])(net.base)); // W_v = I but for 1e-6
  expect(apart(almost, expected)).toBeLessThan(1e-4);
  expect(apart(almost, expected)).toBeGreaterThan(0);
});

test('count: L(3d² + 2d), static L(2d² + 2d); only the fusion layer trains; the penalty is λ‖I − W_v‖²', async () => {
  const net = gpt2Network(2);
  const d = WIDTH;
  expect(trained(fused(sources(net))(net.base))).toBe(2 * (3 * d * d + 2 * d));
  expect(trained(fused(sources(net), { value: false })(net.base))).toBe(2 * (2 * d * d + 2 * d));
  const model = fused(sources(net), { regularization: 0.5 })(net.base);
  expect([...trainable(model).values()].every((p) => /\.(query|key|value|queryBias|keyBias)$/.test(p))).toBe(true);
  const [withPenalty, without] = await Promise.all(
    [model, fused(sources(net), { regularization: 0 })(net.base)].map(async (m) => engine.item(run(net, m).loss)),
  );
  expect(withPenalty! - without!).toBeCloseTo(2 * 0.5 * d * (d - 1) * 1e-12, 14);
});

test('two stages: extraction trains the adapters, composition the fusion layer alone; T falls by 0.05 a step and finishes away', async () => {
  const net = gpt2Network(5);
  const stages: string[] = [];
  const train = async (model: Model, lr: number, stage: string): Promise<Model> => {
    stages.push(stage);
    const loss = (m: Model): Tensor => run(net, m).loss;
    await using t = await trainer(model, { engine, loss, optimizer: adamw({ lr }), total: 2 });
    for (let k = 0; k < 2; k++) await t.step({});
    return t.model();
  };
  const task = { base: net.base, data: 0.01 };
  const attach = pfeiffer({ bottleneck: 2 });
  const { adapters, model } = await adapterFusionStages([task, task], task, attach, train, { temperature: true });
  expect(stages).toEqual(['extraction', 'extraction', 'composition']);
  const find = (m: Model, path: string): Tensor => [...tensors(m)].find((t) => t.path === path)!.tensor;
  expect(await engine.read(find(model, `${site}.adapterFusion.up.1`))).toEqual(
    await engine.read(find(adapters[1]!, `${site}.pfeiffer.up`)),
  );
  expect((await engine.read(find(model, `${site}.adapterFusion.temperature`)))[0]).toBeCloseTo(49.9, 5);
  expect(trainable(freeze(model)).size).toBe(0);
});

test('refused: nothing to fuse, models without adapters or with others, places that differ', () => {
  const { base } = gpt2Network(1);
  expect(() => fused([])(base)).toThrow(/adapterFusion/);
  expect(() => fused([base])).toThrow(/model 0 has no Pfeiffer adapter/);
  const [a, b] = ['trunk.blocks.0.mlp', site].map((where) => pfeiffer({ bottleneck: 2, where })(base));
  expect(() => fused([a!, b!])).toThrow(/models 0 and 1 do not both have an adapter at trunk.blocks.0.mlp/);
  expect(() => fused([pfeiffer({ bottleneck: 2 })(a!)])).toThrow(/two Pfeiffer adapters at trunk.blocks.0.mlp/);
  expect(() => adapterFusion({ adapters: [] })(base)).toThrow(/nothing to fuse/);
});
