// LoRA+ and LoRA-FA: which factor learns, how fast, and in which direction.
import { describe, expect, it } from 'vitest';
import { float64 } from '../../core/engines/float64.ts';
import { grad } from '../../core/grad.ts';
import { rng } from '../../core/rng.ts';
import { leaf, param, paramOf } from '../../core/tensor.ts';
import { context } from '../../nn/context.ts';
import type { Model } from '../../nn/layer.ts';
import { layers, tensors, trainable } from '../../nn/tree.ts';
import { adamw } from '../../optim/adamw.ts';
import { ratesOf } from '../../optim/groups.ts';
import { sgd } from '../../optim/sgd.ts';
import { inverse, product, transposed } from '../../peft/linalg.ts';
import type { Factors } from '../../peft/reparameterized/lora.ts';
import { loraFa } from '../../peft/reparameterized/loraFa.ts';
import { fasterB, loraPlus } from '../../peft/reparameterized/loraPlus.ts';
import { withFactors } from '../../peft/reparameterized/withFactors.ts';
import { gpt2Network, perturb } from '../laws/models.ts';
import { affine, apart, flat, layerAt, own, plus, random, rowsOf, scaled } from './naive.ts';
import { trained } from './train.ts';

const engine = float64();
const net = gpt2Network(4);
const Q = 'trunk.blocks.0.attn.q';
const named = (m: Model, path: string) => [...tensors(m)].find((t) => t.path === path)!.tensor;
const attached = (m: Model) => [...layers(m)].filter(({ layer }) => layer.attached !== null);
const LLAMA = Array.from({ length: 28 }, () => [{ shape: [3072, 3072] }, { shape: [1024, 3072] }]).flat() as never;

describe('loraPlus', () => {
  it('gives B its rate and leaves A, bias-like parameters and decay as they were', () => {
    const rates = ratesOf(trainable(loraPlus({ rank: 2, ratio: 8 })(net.base)), [], 0.1);
    const seen = [...trainable(loraPlus({ rank: 2, ratio: 8 })(net.base)).entries()].map(([p, path]) => [path.at(-1), p.lr]);
    expect(new Set(seen.map(String))).toEqual(new Set(['A,1', 'B,8']));
    expect([...rates.values()].every((r) => r.decay === 0.1)).toBe(true);
  });
  it('takes the steps of LoRA with optimizer groups, bit for bit, and not those of LoRA', async () => {
    const fast = loraPlus({ rank: 2, ratio: 8 })(net.base);
    const start = new Map(attached(fast).map(({ path, layer }) => [path, unhurried(layer.fields.loraPlus as Factors)]));
    const plain = withFactors(net.base, start, { rank: 2 });
    const B = async (m: Model, name: string) => flat((await own(engine, m, Q))[`${name}.B`]!);
    const a = await B(await trained(engine, net, fast), 'loraPlus');
    expect(await B(await trained(engine, net, plain, { optimizer: adamw({ lr: 0.02, groups: fasterB(8) }) }), 'lora')).toEqual(a);
    expect(apart(await B(await trained(engine, net, plain), 'lora'), a)).toBeGreaterThan(0.1);
  });
  it('its first step of SGD moves B by λ times the gradient', async () => {
    const model = loraPlus({ rank: 2, ratio: 8 })(net.base);
    const after = await trained(engine, net, model, { total: 1, optimizer: sgd({ lr: 0.1 }) });
    const same = await trained(engine, net, model, { total: 1, optimizer: sgd({ lr: 0.8, groups: [{ where: /\.B$/, lr: 1 / 8 }] }) });
    const [a, b] = [await own(engine, after, Q), await own(engine, same, Q)];
    expect(apart(flat(b['loraPlus.B']!), flat(a['loraPlus.B']!))).toBeLessThan(1e-12);
    expect(flat(a['loraPlus.A']!)).toEqual(flat(b['loraPlus.A']!)); // no gradient yet
  });
  it('refuses a ratio that cannot be', () => {
    for (const ratio of [0, -1, Number.NaN]) {
      expect(() => loraPlus({ rank: 2, ratio })(net.base)).toThrow(/loraPlus: ratio .* must be (above 0|a finite number)/);
      expect(() => fasterB(ratio)).toThrow(/ratio/);
    }
  });
});
/** The same factors as parameters of one rate. */
const unhurried = ({ A, B }: Factors): Factors => ({ A, B: param(paramOf(B)!.value, B.shape) });

describe('loraFa', () => {
  const config = { rank: 3, alpha: 6, seed: 2 };
  it('y = W x + b + s·B A x, B alone trained and A drawn as LoRA draws it', async () => {
    const model = perturb(loraFa(config)(net.base), 1);
    const x = random(1, [4, 8]);
    const [p, xs] = [await own(engine, model, Q), rowsOf(await engine.read(x), 8)];
    const branch = scaled(affine(affine(xs, p['loraFa.A']!), p['loraFa.B']!), () => 2);
    expect(
      apart(await engine.read(layerAt(model, 'linear', Q)(x, context(4))), flat(plus(affine(xs, p.weight!, p.bias![0]), branch))),
    ).toBeLessThan(1e-12);
    expect([...trainable(model).values()].every((path) => path.endsWith('.loraFa.B'))).toBe(true);
    expect(Math.max(...flat(p['loraFa.A']!).map(Math.abs))).toBeLessThanOrEqual(1 / Math.sqrt(8));
  });
  it('keeps A bit for bit over training', async () => {
    const model = loraFa(config)(net.base);
    const before = [...(await engine.read(named(model, `${Q}.loraFa.A`)))];
    const after = await trained(engine, net, model);
    expect([...(await engine.read(named(after, `${Q}.loraFa.A`)))]).toEqual(before);
    expect(paramOf(named(after, `${Q}.loraFa.A`))).toBeNull();
  });
  it('preconditioned, the step of the weight is its gradient projected on the rows of A', async () => {
    const r = rng(7);
    const [G, A] = [Float64Array.from(r.normal(64)), Float64Array.from(r.normal(24))]; // ∂L/∂W [8, 8], A [3, 8]
    const model = loraFa(config)(net.base);
    const { layer } = attached(model)[0]!;
    const fields = layer.fields.loraFa as Factors;
    const rebuilt = layer.with({ ...layer.fields, loraFa: { ...fields, A: leaf(A, [3, 8]) } });
    const B = paramOf(fields.B)!;
    const gB = product(G, transposed(A, 3, 8), 8, 8, 3).map((v) => 2 * v); // s·G Aᵀ
    const answered = rebuilt.attached!.hooks.afterGrad!(new Map([[B, leaf(gB, [8, 3])]])).get(B)!;
    const step = product(Float64Array.from(await engine.read(answered)), A, 8, 3, 8).map((v) => 2 * v); // s·ĝ_B A
    const gram = inverse(product(A, transposed(A, 3, 8), 3, 8, 3), 3);
    const projection = product(product(G, transposed(A, 3, 8), 8, 8, 3), product(gram, A, 3, 3, 8), 8, 3, 8);
    expect(apart(step, projection)).toBeLessThan(1e-6); // the damping of 1e-8
    expect(apart(step, G)).toBeGreaterThan(0.1);
  });
  it('with `preconditioned: false` the optimizer sees the plain gradient', async () => {
    const model = loraFa({ ...config, preconditioned: false })(net.base);
    expect(attached(model).every(({ layer }) => layer.attached!.hooks.afterGrad === undefined)).toBe(true);
    const y = layerAt(model, 'linear', Q)(random(1, [4, 8]), context(4));
    const [g] = grad(y.mul(random(2, [4, 8])).sum(), [named(model, `${Q}.loraFa.B`)]);
    expect((await engine.read(g!)).every((v) => v !== 0)).toBe(true);
  });
  it('trains r·out: 3,670,016 scalars of Llama-3.2-3B at rank 32; LoRA 9,175,040', () => {
    expect(loraFa.method.count(LLAMA, { rank: 32 })).toEqual({ train: 3_670_016, stored: 9_175_040 });
    expect(loraPlus.method.count(LLAMA, { rank: 32 }).train).toBe(9_175_040);
  });
});
