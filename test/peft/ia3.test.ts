// (IA)³ against its equation: what it rescales, that it folds exactly, and its form for a fused projection.
import { expect, test } from 'vitest';
import { float64 } from '../../core/engines/float64.ts';
import { rng } from '../../core/rng.ts';
import { leaf } from '../../core/tensor.ts';
import { context } from '../../nn/context.ts';
import { decoder, gpt2 } from '../../nn/decoder.ts';
import { freeze, withValues } from '../../nn/freeze.ts';
import type { Model } from '../../nn/layer.ts';
import { mapTensors, trainable } from '../../nn/tree.ts';
import { ia3 } from '../../peft/additive/ia3.ts';
import { merge } from '../../peft/merge.ts';
import { generic, gpt2Network, llamaNetwork, numbersOf, perturb, WIDTH } from '../laws/models.ts';
import { affine, apart, layerAt, own, random, rowsOf, scaled, trained } from './naive.ts';

const engine = float64();
const fused = (): Model => {
  const r = rng(8);
  return freeze(generic(decoder(gpt2({ vocabulary: 11, width: WIDTH, layers: 2, heads: 2, positions: 16, fusedQkv: true }), r), r));
};

test('k and v: l ⊙ (W x + b); down: W (l ⊙ x) + b', async () => {
  const net = gpt2Network(3);
  const model = perturb(ia3()(net.base), 4);
  for (const at of ['attn.k', 'attn.v', 'mlp.down'].map((n) => `trunk.blocks.0.${n}`)) {
    const base = await own(engine, net.base, at);
    const into = base.weight![0]!.length;
    const x = random(2, [1, 4, into]);
    const rows = rowsOf(await engine.read(x), into);
    const l = (await own(engine, model, `${at}.ia3`)).l![0]!;
    const b = base.bias![0]!;
    const input = scaled(rows, (_, j) => l[j]!);
    const expected = at.endsWith('down') ? affine(input, base.weight!, b) : scaled(affine(rows, base.weight!, b), (_, j) => l[j]!);
    expect(apart(await engine.read(layerAt(model, 'linear', at)(x, context(4))), expected.flat())).toBeLessThan(1e-12);
  }
});

test('starts as the base bit for bit; count d_k + d_v + f per block, fewer with shared key heads; not decayed', async () => {
  for (const net of [gpt2Network(5), llamaNetwork(5)]) {
    const model = ia3()(net.base);
    expect(await numbersOf(engine, net, model)).toEqual(await numbersOf(engine, net, net.base));
    const kv = net.name === 'llama' ? WIDTH / 2 : WIDTH; // one key head for two query heads
    expect(trained(model)).toBe(2 * (2 * kv + 12));
    expect([...trainable(model).keys()].every((p) => !p.decay)).toBe(true);
  }
});

test('folding is exact with negative and zero factors', async () => {
  const net = gpt2Network(6);
  const model = ia3()(net.base);
  const values = new Map(
    [...trainable(model).keys()].map((p, k) => [p, Float32Array.from(p.value, (_, i) => [-1.5, 0, 0.3, 2][(i + k) % 4]!)]),
  );
  const tuned = withValues(model, values);
  expect(apart(await numbersOf(engine, net, merge(tuned)), await numbersOf(engine, net, tuned))).toBeLessThan(1e-13);
});

test('keys of one head rescaled change that head only', async () => {
  const { base } = gpt2Network(7);
  const model = ia3({ where: 'trunk.blocks.0.attn.k' })(base);
  const [p] = [...trainable(model).keys()];
  const tuned = withValues(
    model,
    new Map([[p!, Float32Array.from({ length: WIDTH }, (_, i) => (i < WIDTH / 2 ? 1 : 3))]]), // the second of two heads
  );
  const joined = async (m: Model): Promise<number[][]> => {
    const at = 'trunk.blocks.0.attn';
    const x = random(3, [1, 4, WIDTH]);
    const heads = layerAt(m, 'branch', at).with({ ...layerAt(m, 'branch', at).fields, o: layerAt(identity, 'linear', `${at}.o`) });
    return rowsOf(await engine.read((heads as ReturnType<typeof layerAt<'branch'>>)(x, context(4, { causal: true }))), WIDTH);
  };
  const identity = withIdentity(base);
  const [before, after] = [await joined(base), await joined(tuned)];
  const half = WIDTH / 2;
  expect(after.map((r) => r.slice(0, half))).toEqual(before.map((r) => r.slice(0, half)));
  expect(after.map((r) => r.slice(half))).not.toEqual(before.map((r) => r.slice(half)));
});
/** The model with o = identity in every attention layer, which lets the heads be seen. */
function withIdentity(model: Model): Model {
  const eye = Float32Array.from({ length: WIDTH * WIDTH }, (_, i) => (i % (WIDTH + 1) === 0 ? 1 : 0));
  return mapTensors(model, (t, path) =>
    path.endsWith('attn.o.weight') ? leaf(eye, [WIDTH, WIDTH]) : path.endsWith('attn.o.bias') ? leaf(new Float32Array(WIDTH), [WIDTH]) : t,
  );
}

test('a fused projection: only keys and values as in the paper, queries too on request; the separate names are refused with the remedy', async () => {
  const base = fused();
  const net = { ...gpt2Network(1), base };
  expect(trained(ia3({ where: 'qkv' })(base))).toBe(2 * 2 * WIDTH);
  expect(trained(ia3({ where: 'qkv', queries: true })(base))).toBe(2 * 3 * WIDTH);
  const model = perturb(ia3({ where: ['qkv', 'down'] })(base), 9);
  expect(apart(await numbersOf(engine, net, merge(model)), await numbersOf(engine, net, model))).toBeLessThan(1e-13);
  const x = random(2, [1, 3, WIDTH]);
  const at = 'trunk.blocks.1.attn.qkv';
  const [before, after] = [base, model].map(async (m) => rowsOf(await engine.read(layerAt(m, 'linear', at)(x, context(3))), 3 * WIDTH));
  const l = (await own(engine, model, `${at}.ia3`)).l![0]!;
  const expected = scaled(await before!, (_, j) => (j < WIDTH ? 1 : l[j - WIDTH]!));
  expect(apart((await after!).flat(), expected.flat())).toBeLessThan(1e-13);
  expect(trained(ia3()(base))).toBe(trained(ia3({ where: ['qkv', 'down'] })(base)));
  expect(() => ia3({ where: ['k', 'v', 'down'] })(base)).toThrow(
    /where 'k' matches no linear .*Where queries, keys and values are one layer, write where: \['qkv', 'down'\]/s,
  );
});
