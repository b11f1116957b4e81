// How LoRA starts from the weights or from data, against Hugging Face PEFT: the factors, and what training makes of them.
import { describe, expect, test } from 'vitest';
import { float64 } from '../../core/engines/float64.ts';
import { grad } from '../../core/grad.ts';
import { crossEntropy } from '../../core/ops/fused.ts';
import { leaf, paramOf, stateOf, type Tensor } from '../../core/tensor.ts';
import { context } from '../../nn/context.ts';
import { withValues } from '../../nn/freeze.ts';
import type { Batch, Model } from '../../nn/layer.ts';
import { mapTensors, tensors, trainable } from '../../nn/tree.ts';
import { adamw } from '../../optim/adamw.ts';
import { trainer } from '../../optim/trainer.ts';
import type { Transform } from '../../peft/method.ts';
import { corda } from '../../peft/reparameterized/corda.ts';
import { eva } from '../../peft/reparameterized/eva.ts';
import { evaRanks } from '../../peft/reparameterized/evaRanks.ts';
import { loftq } from '../../peft/reparameterized/loftq.ts';
import { lora } from '../../peft/reparameterized/lora.ts';
import { loraGa } from '../../peft/reparameterized/loraGa.ts';
import { olora } from '../../peft/reparameterized/olora.ts';
import { pissa } from '../../peft/reparameterized/pissa.ts';
import { fixture, off, rows, type Table } from './fixtures.ts';
import { parts, type Recorded } from './hfPeftCases.ts';
import { networks } from './networks.ts';

const engine = float64();
const n = networks.llama;
type Cases = { readonly cases: Readonly<Record<string, Recorded>> };
const cases: Readonly<Record<string, Recorded | undefined>> = {
  ...fixture<Cases>('peft-starts').cases,
  'loftq llama': fixture<Cases>('peft-variants').cases['loftq llama'],
};
const config = { rank: 2, alpha: 3, where: ['v', 'down'] };
const loss = (m: Model): Tensor => crossEntropy(m(n.batch, context(n.tokens)), n.targets);

const nameOf = (path: string): string => {
  const { site, name } = parts(path);
  return `base_model.model.${n.moduleOf(site)}.lora_${name}.default.weight`;
};
/** Row k of A, or column k of B. */
const component = (t: Table, name: string, k: number): number[] => {
  const [rank, wide] = name === 'A' ? [t.shape[0]!, t.shape[1]!] : [t.shape[1]!, t.shape[0]!];
  return Array.from({ length: wide }, (_, i) => (name === 'A' ? t.data[k * wide + i]! : t.data[i * rank + k]!));
};
const dot = (a: readonly number[], b: readonly number[]): number => a.reduce((s, v, i) => s + v * b[i]!, 0);
const scaled = (a: readonly number[], s: number): number[] => a.map((v) => s * v);
const unit = (a: readonly number[]): number[] => scaled(a, 1 / Math.sqrt(dot(a, a)));
/** Singular vectors have no sign: the difference under the better one. */
const apart = (a: readonly number[], b: readonly number[]): number => off(scaled(a, Math.sign(dot(a, b))), { shape: [], data: b });
/** Ours at a path, by component, with theirs. */
function* pairs(model: Model, f: Pick<Recorded, 'tensors'>): Generator<{ path: string; name: string; ours: number[]; theirs: number[] }> {
  for (const { path, tensor } of tensors(model)) {
    const p = paramOf(tensor);
    if (p === null) continue;
    const { name } = parts(path);
    const theirs = f.tensors[nameOf(path)]!;
    expect(theirs.shape, path).toEqual(tensor.shape);
    for (let k = 0; k < theirs.shape[name === 'A' ? 0 : 1]!; k++)
      yield {
        path: `${path} ${k}`,
        name,
        ours: component({ shape: tensor.shape, data: [...p.value] }, name, k),
        theirs: component(theirs, name, k),
      };
  }
}

const two: readonly Batch[] = [0, 1].map((b) => ({ ids: rows([[0, 1, 2, 3].map((t) => idsOf(b, t))]) }));
function idsOf(b: number, t: number): number {
  const s = n.batch.ids.source;
  return s.kind === 'leaf' ? s.data[b * n.tokens + t]! : Number.NaN;
}
const methods: Readonly<Record<string, () => Promise<Transform>>> = {
  'pissa llama': async () => pissa(config),
  'olora llama': async () => olora(config),
  'corda first llama': () => corda({ ...config, keep: 'first' }).prepare(n.base, { engine, batches: two }),
  'loftq llama': async () => loftq({ ...config, alpha: 2, iterations: 2 }), // α = r: the library does not divide by the scale
  'corda last llama': () => corda({ ...config, keep: 'last' }).prepare(n.base, { engine, batches: two }),
};

/** Logits, gradients and three steps of a model with their factors in place of its own. */
async function checkFrom(model: Model, f: Recorded): Promise<void> {
  const theirs = (path: string, part: 'tensors' | 'grads' | 'after'): readonly number[] => f[part][nameOf(path)]!.data;
  const same = withValues(model, new Map([...trainable(model)].map(([p, path]) => [p, Float32Array.from(theirs(path, 'tensors'))])));
  expect(off(await engine.read(same(n.batch, context(n.tokens))), f.logits)).toBeLessThan(1e-6); // with our own rest of the weight
  const all = [...trainable(same)];
  const grads = grad(
    loss(same),
    all.map(([p]) => stateOf(p)),
  );
  const outputs = Object.fromEntries(grads.map((g, k) => [all[k]![1], g]));
  const got = await (await engine.compile(engine.store(), { outputs })).run();
  for (const [, path] of all) expect(off(got[path]!, { shape: [], data: theirs(path, 'grads') }), path).toBeLessThan(1e-6);
  await using t = await trainer(same, { engine, loss, optimizer: adamw({ lr: 0.01, weightDecay: 0 }) });
  const losses: number[] = [];
  for (let k = 0; k < 3; k++) losses.push((await t.step({})).loss);
  expect(off(losses, { shape: [3], data: f.losses })).toBeLessThan(1e-6);
  for (const [p, path] of trainable(await t.model()))
    expect(off(p.value, { shape: [], data: theirs(path, 'after') }), path).toBeLessThan(1e-5);
}

describe('starts that change the weight', () => {
  test.each(Object.keys(methods))('%s: the factors, their gradients, and three steps from them', async (title) => {
    const f = cases[title]!;
    const model = (await methods[title]!())(n.base);
    for (const { path, ours, theirs } of pairs(model, f)) expect(apart(ours, theirs), path).toBeLessThan(1e-6);
    await checkFrom(model, f);
  });
});

test('LoRA-GA takes the directions of the same gradient; theirs scales B alone, by the singular values too', async () => {
  const method = await loraGa(config).prepare(n.base, { engine, batches: [n.batch], loss });
  for (const { path, name, ours, theirs } of pairs(method(n.base), cases['loraGa llama']!)) {
    const size = (path.includes('.v.') ? 8 : 16) ** 0.25 / 4; // out^(1/4)/√γ
    expect(apart(scaled(ours, 1 / size), name === 'A' ? theirs : unit(theirs)), path).toBeLessThan(1e-6);
  }
});
test('LoRA-GA from their start: what is left of the weight, logits, gradients and three steps', async () => {
  const f = cases['loraGa llama']!;
  const scale = config.alpha / config.rank;
  const rest = mapTensors(n.base, (w, path) => {
    const [a, b] = ['A', 'B'].map((name) => f.tensors[nameOf(path.replace(/weight$/, `loraGa.${name}`))]);
    if (a === undefined || b === undefined) return w;
    return w.sub(leaf(b.data, b.shape).matmul(leaf(a.data, a.shape)).mul(scale)); // W − s·B A
  });
  await checkFrom(lora(config)(rest), f);
});

test('EVA: directions, ranks and scales', async () => {
  const { tensors: made, scales } = fixture<{ cases: Record<string, { tensors: Record<string, Table>; scales: Record<string, number> }> }>(
    'peft-eva',
  ).cases['eva llama']!;
  const env = { engine, batches: [n.batch] };
  const where = ['q', 'v', 'o'];
  const shared = await evaRanks(n.base, env, { rank: 4, rho: 2, where });
  for (const path of shared.where)
    expect(made[`base_model.model.${n.moduleOf(path)}.lora_A.default.weight`]!.shape[0], path).toBe(shared.ranks[path]);
  expect(shared.where.length).toBe(Object.keys(scales).length);
  expect(new Set(Object.values(shared.ranks)).size).toBeGreaterThan(1);
  expect(new Set(Object.values(scales))).toEqual(new Set([6 / 4])); // α/r of the configuration, whatever rank a layer was given
  const method = await eva({ rank: 4, alpha: 6, ...shared }).prepare(n.base, env);
  for (const { path, name, ours, theirs } of pairs(method(n.base), { tensors: made })) {
    if (name === 'A') expect(apart(ours, theirs), path).toBeLessThan(1e-6);
    else expect(off(ours, { shape: [], data: theirs })).toBe(0);
  }
});
