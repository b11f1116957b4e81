// UniPELT against its equations, with prefix keys and values really multiplied by each query's gate; and MAM.
import { expect, test } from 'vitest';
import { float64 } from '../../core/engines/float64.ts';
import { rng } from '../../core/rng.ts';
import { leaf, type Param } from '../../core/tensor.ts';
import { context } from '../../nn/context.ts';
import { decoder, gpt2 } from '../../nn/decoder.ts';
import { freeze, realize, withValues } from '../../nn/freeze.ts';
import { generate } from '../../nn/generate.ts';
import { trainable } from '../../nn/tree.ts';
import { parallelAdapter } from '../../peft/additive/parallelAdapter.ts';
import { prefixTuning } from '../../peft/additive/prefixTuning.ts';
import { mam } from '../../peft/hybrid/mam.ts';
import { unipelt } from '../../peft/hybrid/unipelt.ts';
import { finish, merge } from '../../peft/merge.ts';
import { bertNetwork, gpt2Network, llamaNetwork, numbersOf, perturb, WIDTH } from '../laws/models.ts';
import {
  affine,
  apart,
  attention,
  each,
  layerAt,
  type Matrix,
  own,
  plus,
  random,
  relu,
  rowsOf,
  scaled,
  sigmoid,
  softmax,
  trained,
} from './naive.ts';

const engine = float64();
const small = { rank: 2, length: 2, prefixBottleneck: 3, bottleneck: 3 };
const [T, H] = [4, 2];
const average = (rows: Matrix): number[] => rows[0]!.map((_, j) => rows.reduce((s, r) => s + r[j]!, 0) / rows.length);

test.each([
  ['gpt2', gpt2Network(31), { gate: 'token', central: false }],
  ['gpt2', gpt2Network(32), { gate: 'token', central: true }],
  ['bert', bertNetwork(33), { gate: 'example', central: false }],
  ['bert', bertNetwork(34), { gate: 'example', central: true }],
] as const)('attention of %s: LoRA and prefix behind their gates, %#', async (_, net, gates) => {
  const causal = net.name === 'gpt2';
  const path = 'trunk.blocks.1.attn';
  const model = perturb(unipelt({ ...small, ...gates })(net.base), 1);
  const x = random(7, [1, T, WIDTH]);
  const rows = rowsOf(await engine.read(x), WIDTH);
  const p = await own(engine, model, `${path}.unipelt`);
  const w = await own(engine, net.base, path);

  const overTokens = (g: Matrix): Matrix => (gates.gate === 'token' ? g : g.map(() => average(g)));
  const gate = (name: string): Matrix => overTokens(each(affine(rows, p[`${name}.0`]!, p[`${name}.1`]!.flat()), sigmoid));
  const shares = gates.central ? overTokens(each(affine(rows, p['gateP.0']!, p['gateP.1']!.flat()), relu)).map(softmax) : null;
  const g = {
    q: shares?.map((s) => s[0]!) ?? gate('gateQ').flat(),
    v: shares?.map((s) => s[0]!) ?? gate('gateV').flat(),
    prefix: shares?.map((s) => s[1]!) ?? gate('gateP').flat(),
  };
  const adapted = (name: 'q' | 'v', A: Matrix, B: Matrix): number[][] =>
    plus(
      affine(rows, w[`${name}.weight`]!, w[`${name}.bias`]!.flat()),
      scaled(affine(affine(rows, A), B), (i) => g[name][i]!),
    );
  const [q, v] = [adapted('q', p['lora.0']!, p['lora.1']!), adapted('v', p['lora.2']!, p['lora.3']!)];
  const k = affine(rows, w['k.weight']!, w['k.bias']!.flat());
  const hidden = each(affine(p.E!, p.W1!, p.b1!.flat()), Math.tanh);
  const [PK, PV] = [affine(hidden, p['W2.0']!, p['b2.0']!.flat()), affine(hidden, p['W2.1']!, p['b2.1']!.flat())];
  const D = WIDTH / H;
  const joined = rows.map((_, i) =>
    Array.from({ length: H }, (_, h) => {
      const part = (m: Matrix): number[][] => m.map((r) => r.slice(h * D, (h + 1) * D));
      const gated = (m: Matrix): number[][] => scaled(part(m), () => g.prefix[i]!);
      const sees = (_: number, j: number): boolean => !causal || j - PK.length <= i;
      return attention([part(q)[i]!], [...gated(PK), ...part(k)], [...gated(PV), ...part(v)], sees)[0]!;
    }).flat(),
  );
  const expected = affine(joined, w['o.weight']!, w['o.bias']!.flat());
  const y = await engine.read(layerAt(model, 'branch', path)(x, context(T, { causal })));
  expect(apart(y, expected.flat())).toBeLessThan(1e-12);
  expect(
    Object.values(g)
      .flat()
      .every((s) => s > 0 && s < 1),
  ).toBe(true);
});

test.each([
  ['token', gpt2Network(35)],
  ['example', bertNetwork(35)],
] as const)('feed-forward: the adapter behind its gate, per %s', async (gate, net) => {
  const path = 'trunk.blocks.0.mlp';
  const model = perturb(unipelt({ ...small, gate })(net.base), 1);
  const x = random(8, [1, T, WIDTH]);
  const h = rowsOf(await engine.read(layerAt(net.base, 'branch', path)(x, context(T))), WIDTH);
  const p = await own(engine, model, `${path}.unipelt`);
  const scores = each(affine(h, p['gate.0']!, p['gate.1']!.flat()), sigmoid);
  const g = gate === 'token' ? scores : scores.map(() => average(scores));
  const adapter = affine(each(affine(h, p.down!, p.downBias!.flat()), relu), p.up!, p.upBias!.flat());
  const expected = plus(
    h,
    scaled(adapter, (i) => g[i]![0]!),
  );
  expect(apart(await engine.read(layerAt(model, 'branch', path)(x, context(T))), expected.flat())).toBeLessThan(1e-12);
});

test('closed gates leave the base where LoRA and adapter are, but not where the prefix is', async () => {
  const net = gpt2Network(36);
  const closed = async (o: Parameters<typeof unipelt>[0]): Promise<number> => {
    const model = perturb(unipelt({ ...small, ...o })(net.base), 2);
    const shut = new Map<Param, Float32Array>(); // w = 0, b = −800: sigmoid(−800) is 0
    for (const [p, path] of trainable(model))
      if (/\.gate[QVP]?\.\d$/.test(path)) shut.set(p, new Float32Array(p.value.length).fill(p.shape.length === 1 ? -800 : 0));
    expect(shut.size).toBeGreaterThan(0);
    return apart(await numbersOf(engine, net, withValues(model, shut)), await numbersOf(engine, net, net.base));
  };
  expect(await closed({ length: 0 })).toBe(0);
  expect(await closed({})).toBeGreaterThan(1e-3); // zero keys take their share of attention
});

test('counts, with each part left out', () => {
  const [L, d, r, p, m] = [2, WIDTH, 2, 2, 3];
  const gate = d + 1;
  const adapters = L * (2 * m * d + m + d + gate);
  const lora = L * 2 * (r * 2 * d + gate);
  const prefix = p * d + d * m + m + L * ((m + 1) * 2 * d + gate);
  const { base } = gpt2Network(1);
  expect(trained(unipelt(small)(base))).toBe(adapters + lora + prefix);
  expect(trained(unipelt({ ...small, rank: 0 })(base))).toBe(adapters + prefix); // AP
  expect(trained(unipelt({ ...small, length: 0 })(base))).toBe(adapters + lora);
  expect(trained(unipelt({ ...small, where: 'attn' })(base))).toBe(lora + prefix);
  expect(trained(unipelt({ ...small, central: true })(base))).toBe(adapters + lora + prefix - L * 3 * gate + L * 2 * gate);
  expect(trained(unipelt({ ...small, prefixBottleneck: null })(base))).toBe(adapters + lora + L * (2 * p * d + gate));
});

test('finish flattens the prefix that all layers share; nothing merges', async () => {
  const net = llamaNetwork(37);
  const model = perturb(unipelt(small)(net.base), 3);
  const flat = await realize(finish(model), engine);
  expect(apart(await numbersOf(engine, net, flat), await numbersOf(engine, net, model))).toBeLessThan(1e-13);
  expect(() => merge(model)).toThrow(/unipelt at trunk.blocks.0.attn is not a change of weights/);
});

test('no token sees those after it, and generation with a cache is that of full passes', async () => {
  const net = llamaNetwork(38);
  const model = perturb(unipelt(small)(net.base), 4);
  const logits = async (ids: number[]): Promise<number[][]> =>
    rowsOf(await engine.read(model({ ids: leaf(ids, [1, ids.length]) }, context(ids.length))), 11);
  const [a, b] = [await logits([1, 2, 3, 4]), await logits([1, 2, 3, 5])];
  expect(a.slice(0, 3)).toEqual(b.slice(0, 3));
  const text = [5, 2];
  for (let n = 0; n < 3; n++) {
    const last = (await logits(text)).at(-1)!;
    text.push(last.indexOf(Math.max(...last)));
  }
  expect(await generate(model, [5, 2], { engine, tokens: 3, temperature: 0 })).toEqual(text.slice(2));
});

test('refused: a mean gate in a causal network, a central gate with nothing to divide, ranks and lengths that do not fit, fused q and v', async () => {
  const net = gpt2Network(39);
  await expect(numbersOf(engine, net, unipelt({ ...small, gate: 'example' })(net.base))).rejects.toThrow(
    /trunk.blocks.0.attn: a gate that is a mean over the tokens would let each token see those after it.*use gate: 'token'/,
  );
  expect(() => unipelt({ ...small, central: true, rank: 0 })(net.base)).toThrow(/central gate divides between LoRA and the prefix/);
  expect(() => unipelt({ ...small, rank: 9 })(net.base)).toThrow(/unipelt: rank 9 at trunk.blocks.0.attn.q/);
  expect(() => unipelt({ ...small, length: 1.5 })(net.base)).toThrow(/length 1.5 must be a whole number/);
  const fused = freeze(decoder(gpt2({ vocabulary: 11, width: WIDTH, layers: 1, heads: 2, positions: 16, fusedQkv: true }), rng(1)));
  expect(() => unipelt(small)(fused)).toThrow(/'q' matches no linear .*Nearest: .*qkv/);
  expect(trained(unipelt({ ...small, rank: 0 })(fused))).toBeGreaterThan(0);
});

test('MAM is prefix tuning and a parallel adapter, one after the other', async () => {
  const net = gpt2Network(40);
  const made = mam({ length: 2, prefixBottleneck: 3, bottleneck: 5, scale: 2 });
  expect(made.title).toBe('mam');
  expect(made.parts.map((p) => p.method.name)).toEqual(['prefixTuning', 'parallelAdapter']);
  const byHand = parallelAdapter({ bottleneck: 5, scale: 2 })(prefixTuning({ length: 2, bottleneck: 3 })(net.base));
  expect(await numbersOf(engine, net, perturb(made(net.base), 5))).toEqual(await numbersOf(engine, net, perturb(byHand, 5)));
  const [L, d, p, m] = [2, WIDTH, 2, 5];
  expect(trained(mam({ length: p, prefixBottleneck: null, bottleneck: m })(net.base))).toBe(2 * L * p * d + L * (2 * m * d + m + d));
});
