// Prefix tuning: a prefix of a text's keys and values is that text; and the equation with the prefix's share of attention.
import { expect, test } from 'vitest';
import { float64 } from '../../core/engines/float64.ts';
import { concat } from '../../core/ops/move.ts';
import { leaf } from '../../core/tensor.ts';
import { context } from '../../nn/context.ts';
import { realize } from '../../nn/freeze.ts';
import { generate } from '../../nn/generate.ts';
import { trainable } from '../../nn/tree.ts';
import { attendWith } from '../../peft/additive/prefixAttention.ts';
import { prefixTuning } from '../../peft/additive/prefixTuning.ts';
import { promptTuning } from '../../peft/additive/promptTuning.ts';
import { finish } from '../../peft/merge.ts';
import { gpt2Network, llamaNetwork, networks, numbersOf, perturb, TOKENS, WIDTH } from '../laws/models.ts';
import { apart, attention, layerAt, random, rowsOf, trained } from './naive.ts';

const engine = float64();
const text = [3, 1, 4];
const fromText = prefixTuning({ length: 3, bottleneck: null, init: { ids: text } });

test.each([gpt2Network(21), llamaNetwork(21)].map((n) => [n.name, n] as const))(
  'a prefix of the keys and values of text t answers as t in front of the text, and so does generation with its cache (%s)',
  async (_, net) => {
    const model = (await fromText.prepare(net.base, { engine }))(net.base);
    const batch = {
      ids: concat([leaf([...text, ...text], [2, 3]), net.batch.ids], 1),
      keyMask: concat([leaf(new Float32Array(6).fill(1), [2, 3]), net.batch.keyMask!], 1),
    };
    const literal = await engine.read(net.base(batch, context(TOKENS + 3)).slice(1, 3));
    // float64 numbers are kept as they are read, so nothing is rounded on the way
    expect(apart(await numbersOf(engine, net, model), literal)).toBeLessThan(1e-12);
    expect(apart(await numbersOf(engine, net, net.base), literal)).toBeGreaterThan(1e-2);
    const options = { engine, tokens: 5, temperature: 0 };
    const prompts = [[5, 2], [7]];
    expect(await generate(model, prompts, options)).toEqual(
      await generate(
        net.base,
        prompts.map((p) => [...text, ...p]),
        options,
      ),
    );
  },
);

test("attention with a prefix is (1 − λ)·attention to the text + λ·attention to the prefix, λ the prefix's share (He et al.)", async () => {
  const [B, H, Hk, T, D, p] = [2, 4, 2, 3, 4, 2];
  const base = layerAt(llamaNetwork(1).base, 'attend', 'trunk.blocks.0.attn.attend');
  const [q, k, v] = [random(1, [B, H, T, D]), random(2, [B, Hk, T, D]), random(3, [B, Hk, T, D])];
  const [K, V] = [random(4, [p, Hk * D]), random(5, [p, Hk * D])];
  const out = rowsOf(await engine.read(attendWith(base, K, V)(q, k, v, context(T, { causal: true }))), D);
  const [Q, KT, VT] = [rowsOf(await engine.read(q), D), rowsOf(await engine.read(k), D), rowsOf(await engine.read(v), D)];
  const [PK, PV] = [rowsOf(await engine.read(K), D), rowsOf(await engine.read(V), D)]; // row i·Hk + head
  for (let b = 0; b < B; b++)
    for (let h = 0; h < H; h++) {
      const kv = Math.floor(h / (H / Hk));
      const part = (rows: number[][], at: number): number[][] => rows.slice(at * T, (at + 1) * T);
      const [qs, ks, vs] = [part(Q, b * H + h), part(KT, b * Hk + kv), part(VT, b * Hk + kv)];
      const mine = (rows: number[][]): number[][] => rows.filter((_, i) => i % Hk === kv);
      const causal = (i: number, j: number): boolean => j <= i;
      const [toText, toPrefix] = [attention(qs, ks, vs, causal), attention(qs, mine(PK), mine(PV), () => true)];
      const mass = (keys: number[][], row: number[], sees: (j: number) => boolean): number =>
        keys.reduce((s, key, j) => s + (sees(j) ? Math.exp(key.reduce((a, x, d) => a + x * row[d]!, 0) / Math.sqrt(D)) : 0), 0);
      const expected = qs.map((row, i) => {
        const [m, t] = [mass(mine(PK), row, () => true), mass(ks, row, (j) => j <= i)];
        const share = m / (m + t);
        return toText[i]!.map((x, d) => (1 - share) * x + share * toPrefix[i]![d]!);
      });
      expect(apart(part(out, b * H + h).flat(), expected.flat())).toBeLessThan(1e-12);
    }
});

test('finish replaces the MLP by the table it makes: the same output, the stored count, and again is itself', async () => {
  for (const net of networks(22)) {
    const model = perturb(prefixTuning({ length: 2, bottleneck: 3 })(net.base), 1);
    const flat = await realize(finish(model), engine);
    expect(trained(flat)).toBe(0);
    expect(apart(await numbersOf(engine, net, flat), await numbersOf(engine, net, model))).toBeLessThan(1e-13);
    expect(await numbersOf(engine, net, finish(flat))).toEqual(await numbersOf(engine, net, flat));
  }
});

test('counts: pd + dm + m + (m + 1)·2LHkD with the MLP, 2LpHkD without; fewer layers by attend; shared key heads count once', () => {
  const [L, p, d, m] = [2, 3, WIDTH, 5];
  for (const [net, w] of [
    [gpt2Network(1), d],
    [llamaNetwork(1), d / 2],
  ] as const) {
    expect(trained(prefixTuning({ length: p, bottleneck: m })(net.base))).toBe(p * d + d * m + m + (m + 1) * 2 * L * w);
    expect(trained(prefixTuning({ length: p, bottleneck: null })(net.base))).toBe(2 * L * p * w);
    expect(trained(prefixTuning({ length: p, bottleneck: null, attend: /blocks\.1\./ })(net.base))).toBe(2 * p * w);
    expect(trained(prefixTuning({ length: 0 })(net.base))).toBe(0);
  }
});

test('a prefix on one layer leaves the other as it was; a zero prefix is not the base; length 0 is, bit for bit', async () => {
  const net = gpt2Network(23);
  const base = await numbersOf(engine, net, net.base);
  const zero = prefixTuning({ length: 4, bottleneck: null, init: 'zero' })(net.base);
  expect([...trainable(zero).keys()].every((t) => t.value.every((v) => v === 0))).toBe(true);
  expect(apart(await numbersOf(engine, net, zero), base)).toBeGreaterThan(1e-3);
  expect(await numbersOf(engine, net, prefixTuning({ length: 0 })(net.base))).toEqual(base);
  const one = prefixTuning({ length: 2, bottleneck: null, attend: 'blocks.1.attn.attend' })(net.base);
  expect(apart(await numbersOf(engine, net, one), base)).toBeGreaterThan(1e-3);
});

test('with a prompt beneath, the text comes after both', async () => {
  const net = llamaNetwork(24);
  const prompted = (await promptTuning({ length: 2, init: { ids: [6, 2] } }).prepare(net.base, { engine }))(net.base);
  const model = (await fromText.prepare(net.base, { engine }))(prompted);
  const both = [...text, 6, 2];
  const literal = (await promptTuning({ length: 5, init: { ids: both } }).prepare(net.base, { engine }))(net.base);
  expect(apart(await numbersOf(engine, net, model), await numbersOf(engine, net, literal))).toBeLessThan(1e-12);
});

test('refused: too long, an MLP that should make given numbers, another length than the ids, attention that is not there', () => {
  const { base } = gpt2Network(1);
  expect(() => prefixTuning({ length: 16 })(base)).toThrow(/prefixTuning: length 16 at trunk/);
  expect(() => prefixTuning({ length: 2, bottleneck: 0 })(base)).toThrow(/bottleneck 0 must be a whole number/);
  expect(() => prefixTuning({ length: 2, attend: 'blocks.7.attn.attend' })(base)).toThrow(/matches no attend/);
  const prepare = (o: Parameters<typeof prefixTuning>[0]): Promise<unknown> => prefixTuning(o).prepare(base, { engine });
  return Promise.all([
    expect(prepare({ length: 3, init: { ids: text } })).rejects.toThrow(/set bottleneck: null/),
    expect(prepare({ length: 5, bottleneck: null, init: { ids: text } })).rejects.toThrow(/set length: 3/),
    expect(async () => prefixTuning({ length: 12 })(base)({ ids: leaf([1, 2, 3, 4, 5], [1, 5]) }, context(5))).rejects.toThrow(
      /trunk: 5 tokens after a prefix of 12, but this model has 16 positions/,
    ),
  ]);
});
