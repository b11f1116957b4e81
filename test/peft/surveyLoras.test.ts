// The survey's relatives of LoRA, each against its equation in plain arithmetic; what training does to them; and what they refuse.
import { describe, expect, it } from 'vitest';
import { float64 } from '../../core/engines/float64.ts';
import { rng } from '../../core/rng.ts';
import { paramOf } from '../../core/tensor.ts';
import { context } from '../../nn/context.ts';
import { layers, tensors, trainable } from '../../nn/tree.ts';
import { adamw } from '../../optim/adamw.ts';
import { merge } from '../../peft/merge.ts';
import { capaBoost } from '../../peft/reparameterized/capaBoost.ts';
import { hiwi } from '../../peft/reparameterized/hiwi.ts';
import { kAdaptation } from '../../peft/reparameterized/kAdaptation.ts';
import { lora } from '../../peft/reparameterized/lora.ts';
import { moelora } from '../../peft/reparameterized/moelora.ts';
import { mole } from '../../peft/reparameterized/mole.ts';
import { mixtureOfLoras } from '../../peft/reparameterized/moleStages.ts';
import { nola } from '../../peft/reparameterized/nola.ts';
import { periodicLora } from '../../peft/reparameterized/periodicLora.ts';
import { periodicLoraStages } from '../../peft/reparameterized/periodicLoraStages.ts';
import { effective } from '../../peft/site.ts';
import { bertNetwork, gpt2Network, llamaNetwork, numbersOf, perturb, run, TOKENS, WIDTH } from '../laws/models.ts';
import { apart, flat, layerAt, own, random, rowsOf, softmax, trained as trainedScalars } from './naive.ts';
import { build, fromDense, llama3B, product, transpose, zip } from './structured.ts';
import { trained } from './train.ts';

const engine = float64();
const llama = llamaNetwork(3).base; // q is [8, 8], v [4, 8]
const [Q, V] = ['trunk.blocks.0.attn.q', 'trunk.blocks.1.attn.v'];
const same = (d: { attached: number; folded: number }): void => expect([d.attached < 1e-11, d.folded < 1e-11]).toEqual([true, true]);

describe('nola', () => {
  it('A = A₀ + Σ αᵢAᵢ/√k and B = Σ βⱼBⱼ/√k, drawn again from their seed', async () => {
    const [k, r] = [5, 2];
    const model = perturb(nola({ rank: r, alpha: 6, basis: k, projection: 9 })(llama), 1);
    same(
      await fromDense(engine, model, V, 'nola', (w, p) => {
        const [out, into] = [w.length, w[0]!.length];
        const draw = (name: string, n: number, bound: number): Float32Array =>
          rng(9).split(`nola ${V}`).split(name).uniform(n, -bound, bound);
        const [A0, A, B] = [draw('A0', r * into, into ** -0.5), draw('A', k * r * into, k ** -0.5), draw('B', k * out * r, k ** -0.5)];
        const mixed = (c: readonly number[], bases: Float32Array, rows: number, cols: number): number[][] =>
          build(rows, cols, (i, j) => c.reduce((s, v, n) => s + v * bases[n * rows * cols + i * cols + j]!, 0));
        const a = zip(rowsOf(A0, into), mixed(p.a![0]!, A, r, into), (x, y) => x + y);
        return zip(w, product(mixed(p.b![0]!, B, out, r), a), (x, y) => x + 3 * y);
      }),
    );
    expect(trainedScalars(model)).toBe(4 * 2 * k);
    const count = (rank: number): object => nola.method.count(llama3B('linear'), { ...nola.method.defaults, rank, basis: 100 });
    expect([count(1), count(64)]).toEqual(Array(2).fill({ train: 11_200, stored: 11_200 })); // the rank costs nothing
  });
});

describe('capaBoost', () => {
  it('Σ (B ⊙ Mᵢ)(A ⊙ Nᵢ) with half of every factor kept; one dense copy is LoRA', async () => {
    const model = perturb(capaBoost({ rank: 2, alpha: 4, parallel: 3, masks: 5 })(llama), 1);
    const kept: number[] = [];
    same(
      await fromDense(engine, model, Q, 'capaBoost', (w, p) => {
        const masked = (name: 'A' | 'B', i: number): number[][] => {
          const [rows, cols] = [p[name]!.length, p[name]![0]!.length];
          const order = rng(5)
            .split(`capaBoost ${Q}`)
            .split(`${name} ${i}`)
            .permutation(rows * cols);
          const on = new Set(order.slice(0, (rows * cols) / 2));
          kept.push(on.size);
          return build(rows, cols, (r, c) => (on.has(r * cols + c) ? p[name]![r]![c]! : 0));
        };
        return [0, 1, 2].reduce((sum, i) => zip(sum, product(masked('B', i), masked('A', i)), (x, y) => x + 2 * y), w);
      }),
    );
    expect(kept).toEqual(Array(6).fill(8));
    const [dense, plain] = [capaBoost({ rank: 2, parallel: 1, density: 1, seed: 4 }), lora({ rank: 2, alpha: 8 })].map((m) =>
      perturb(m(llama), 2),
    );
    const p = await own(engine, dense!, Q);
    const change = product(p['capaBoost.B']!, p['capaBoost.A']!);
    expect(
      apart(await engine.read(effective(layerAt(dense!, 'linear', Q), Q).weight), flat(zip(p.weight!, change, (x, y) => x + 4 * y))),
    ).toBeLessThan(1e-12);
    expect(trainedScalars(dense!)).toBe(trainedScalars(plain!));
  });
  it('refuses densities that leave nothing', () => {
    expect(() => capaBoost({ rank: 1, density: 0.1 })(llama)).toThrow(
      /capaBoost: density 0.1 at .* leaves a factor without a single number/,
    );
    expect(() => capaBoost({ density: 1.5 })(llama)).toThrow(/density 1.5 must be at least 0 and at most 1/);
  });
});

describe('kAdaptation', () => {
  it('H = Σ (lᵢrᵢᵀ) ⊗ (SᵢTᵢ), slow factors shared by name and the vector by block', async () => {
    const [n, k] = [2, 2];
    const model = perturb(kAdaptation({ n, rank: k, scale: 3, bias: false })(llama), 1);
    same(
      await fromDense(engine, model, V, 'kAdaptation', (w, p) => {
        const [rows, cols] = [w[0]!.length / n, w.length / n];
        const S = p.S!.flat(); // [n, rows, k]
        const T = p.T!.flat(); // [n, k, cols]
        const H = build(w[0]!.length, w.length, (i, o) => {
          const [a, b, q, c] = [Math.floor(i / rows), Math.floor(o / cols), i % rows, o % cols];
          let sum = 0;
          for (let m = 0; m < n; m++)
            for (let j = 0; j < k; j++) sum += p.left![m]![a]! * p.right![m]![b]! * S[(m * rows + q) * k + j]! * T[(m * k + j) * cols + c]!;
          return sum;
        });
        return zip(w, transpose(H), (x, y) => x + 3 * y);
      }),
    );
    const biased = kAdaptation({ n, rank: k })(gpt2Network(1).base); // q and v are [8, 8]: one vector for both
    const names = [...trainable(biased).values()].filter((p) => p.endsWith('.bias'));
    expect(names).toEqual(['trunk.blocks.0.attn.q.kAdaptation.bias', 'trunk.blocks.1.attn.q.kAdaptation.bias']);
    expect([...trainable(biased).values()].filter((p) => p.endsWith('.left')).length).toBe(2); // q's and v's
  });
  it('refuses an n that does not divide', () => {
    expect(() => kAdaptation({ n: 3 })(llama)).toThrow(/kAdaptation: n 3 at .*attn.q must divide both sides/);
  });
});

describe('moelora', () => {
  it('each row hears the experts of its task; with one task it merges, with several it cannot', async () => {
    const c = { rank: 4, alpha: 8, experts: 2, taskWidth: 3, dropout: 0, where: 'v' };
    const model = perturb(moelora({ ...c, tasks: 3 })(llama), 1);
    const p = await own(engine, model, V);
    const gate = [...trainable(model).values()].find((path) => path.endsWith('.gate'))!.replace(/\.moelora\.gate$/, '');
    const g = await own(engine, model, gate); // one gate for all layers, listed at the first
    const x = random(3, [2, 3, WIDTH]);
    const got = await engine.read(layerAt(model, 'linear', V)(x, context(3)), { task: [2, 0] });
    const bare = await engine.read(layerAt(llama, 'linear', V)(x, context(3)));
    const expected = rowsOf(await engine.read(x), WIDTH).flatMap((row, i) => {
      const v = g['moelora.tasks']![i < 3 ? 2 : 0]!;
      const w = softmax(g['moelora.gate']!.map((e) => e.reduce((s, a, k) => s + a * v[k]!, 0)));
      const low = p['moelora.A']!.map((a, j) => w[Math.floor(j / 2)]! * a.reduce((s, u, k) => s + u * row[k]!, 0));
      return p['moelora.B']!.map((b) => 2 * b.reduce((s, u, j) => s + u * low[j]!, 0));
    });
    expect(
      apart(
        got,
        expected.map((v, k) => v + bare[k]!),
      ),
    ).toBeLessThan(1e-12);
    expect(() => merge(model)).toThrow(/moelora at .*: its update is another for each of 3 tasks/);
    expect(() => moelora({ ...c, experts: 3 })(llama)).toThrow(/moelora: 3 experts at .* must divide the rank 4/);
    const each = moelora({ ...c, gates: 'each' })(llama);
    expect(trainedScalars(each) - trainedScalars(moelora(c)(llama))).toBe(3 * (1 + 2));
  });
});

describe('hiwi', () => {
  it('b′ = b + relu(b D) U, and rows of a matrix likewise; merged nothing of the adapter is left', async () => {
    const { base } = gpt2Network(2);
    const at = 'trunk.blocks.1.mlp.down';
    const model = perturb(hiwi({ bottleneck: 3, where: ['down.bias', 'down.weight'] })(base), 1);
    const [p, before] = [await own(engine, model, at), await own(engine, base, at)];
    const adapted = (rows: number[][], which: string): number[][] =>
      zip(
        rows,
        product(
          product(rows, p[`${which}.hiwi.down`]!).map((r) => r.map((v) => Math.max(v, 0))),
          p[`${which}.hiwi.up`]!,
        ),
        (a, b) => a + b,
      );
    const merged = await own(engine, merge(model), at);
    for (const which of ['bias', 'weight']) expect(apart(flat(merged[which]!), flat(adapted(before[which]!, which)))).toBeLessThan(1e-12);
    expect([...tensors(merge(model))].length).toBe([...tensors(base)].length);
    expect(() => hiwi()(llama)).toThrow(/hiwi: .*where: \['up.weight', 'down.weight'\]/s);
  });
});

describe('periodicLora', () => {
  const net = gpt2Network(1);
  it('unloads after each period: the same function, a fresh LoRA, and a rank beyond one LoRA’s', async () => {
    const model = periodicLora({ rank: 1, alpha: 2, period: 2, stages: 3, where: 'q' })(net.base);
    const seen: string[] = [];
    const after = await trained(engine, net, model, { total: 6 }, async (m, step) => {
      const p = await own(engine, m, Q);
      const zero = (t: number[][]): string => (t.flat().every((v) => v === 0) ? '0' : 'x');
      seen.push(`${step} ${zero(p['periodicLora.B']!)} ${p['periodicLora.pastB']![0]!.map((v) => zero([[v]])).join('')}`);
    });
    expect(seen).toEqual(['1 x 00', '2 0 x0', '3 x x0', '4 0 xx', '5 x xx', '6 x xx']); // the last stage goes on to the end
    const p = await own(engine, after, Q);
    const total = [0, 1].reduce(
      (sum, k) =>
        zip(
          sum,
          product(
            p['periodicLora.pastB']!.map((r) => [r[k]!]),
            [p['periodicLora.pastA']![k]!],
          ),
          (a, b) => a + 2 * b,
        ),
      zip(p.weight!, product(p['periodicLora.B']!, p['periodicLora.A']!), (a, b) => a + 2 * b),
    );
    expect(apart(await engine.read(effective(layerAt(after, 'linear', Q), Q).weight), flat(total))).toBeLessThan(1e-6);
  });
  it('as stages: each trains a fresh LoRA on the merged model of the one before', async () => {
    const starts: number[] = [];
    const model = await periodicLoraStages(
      net.base,
      {
        engine,
        stages: 2,
        train: async (m, stage) => {
          starts.push(await engine.item(run(net, m).loss), trainedScalars(m));
          return trained(engine, net, m, { total: 3, seed: stage });
        },
      },
      { rank: 1, where: 'q' },
    );
    expect(starts[2]!).toBeLessThan(starts[0]!); // stage 2 starts where stage 1 ended
    expect([starts[1], starts[3]]).toEqual([32, 32]);
    expect([[...layers(model)].every(({ layer }) => layer.attached === null), trainedScalars(model)]).toEqual([true, 0]);
    expect(await engine.item(run(net, model).loss)).toBeLessThan(starts[2]!);
    expect(() => periodicLora({ stages: 1 })(net.base)).toThrow(/1 stage at .* is LoRA/);
  });
});

describe('mole', () => {
  const net = bertNetwork(1);
  const models = [1, 2].map((k) => perturb(lora({ rank: k, alpha: 3, where: 'v' })(net.base), k));
  it('weighs trained LoRAs by all that they say of the text, padding left out; starts near their mean', async () => {
    const fresh = mixtureOfLoras(models, { length: 6 })(net.base);
    const model = perturb(fresh, 3);
    const p = await own(engine, model, V);
    expect([trainedScalars(model), Object.keys(p).filter((k) => k.startsWith('mole.A')).length]).toEqual([2 * (2 * 2 * 6 * 8 + 1), 2]);
    const x = random(4, [2, TOKENS, WIDTH]);
    const ctx = context(TOKENS, { keyMask: net.batch.keyMask! });
    const mask = [...(await engine.read(net.batch.keyMask!))];
    const bare = await engine.read(layerAt(net.base, 'linear', V)(x, ctx));
    const rows = rowsOf(await engine.read(x), WIDTH);
    const E = models.map((_, k) => {
      const delta = product(p[`mole.B.${k}`]!, p[`mole.A.${k}`]!);
      return rows.map((row) => delta.map((d) => (3 / (k + 1)) * d.reduce((s, v, i) => s + v * row[i]!, 0)));
    });
    const e = p['mole.e']!.flat(); // [2, 6, 8, 2]
    const expected = [0, 1].flatMap((text) => {
      const heard = E.map((of) => of.slice(text * TOKENS, (text + 1) * TOKENS).map((r, t) => r.map((v) => v * mask[text * TOKENS + t]!)));
      const length = Math.hypot(...heard.flat(2));
      const epsilon = [0, 1].map((g) =>
        heard.reduce(
          (s, of, k) => s + of.reduce((u, r, t) => u + r.reduce((q, v, o) => q + (v / length) * e[((k * 6 + t) * 8 + o) * 2 + g]!, 0), 0),
          0,
        ),
      );
      const gates = softmax(epsilon.map((v) => v / p['mole.temperature']![0]![0]!));
      return Array.from({ length: TOKENS }, (_, t) =>
        E[0]![0]!.map((_v, o) => gates.reduce((s, g, k) => s + g * E[k]![text * TOKENS + t]![o]!, 0)),
      ).flat();
    });
    expect(
      apart(
        await engine.read(layerAt(model, 'linear', V)(x, ctx)),
        expected.map((v, k) => v + bare[k]!),
      ),
    ).toBeLessThan(1e-9);
    const start = await engine.read(layerAt(fresh, 'linear', V)(x, ctx));
    const [A, B] = E.map((of) => of.flat()) as [number[], number[]];
    const off = A.map((v, k) => Math.abs(start[k]! - bare[k]! - (v + B[k]!) / 2) - 0.005 * Math.abs(v - B[k]!)); // |ε| ≤ 0.01, so |G − 1/2| ≤ 0.005
    expect(Math.max(...off)).toBeLessThan(1e-9);
    const directions = (await own(engine, fresh, V))['mole.e']!.flat();
    for (const g of [0, 1]) expect(Math.hypot(...directions.filter((_, i) => i % 2 === g))).toBeCloseTo(0.01, 8);
    expect(apart(await numbersOf(engine, net, model), await numbersOf(engine, net, fresh))).toBeGreaterThan(1e-6);
  });
  it('keeps its temperature between 1 and 3', async () => {
    const seen: number[] = [];
    await trained(engine, net, mixtureOfLoras(models, { length: 6 })(net.base), { total: 8, optimizer: adamw({ lr: 0.9 }) }, async (m) => {
      for (const { path, tensor } of tensors(m)) if (path.endsWith('temperature')) seen.push(paramOf(tensor)!.value[0]!);
    });
    expect([seen.length, Math.min(...seen) >= 1, Math.max(...seen) <= 3]).toEqual([16, true, true]);
    expect(seen.some((v) => v === 1 || v === 3)).toBe(true); // Adam's steps of 0.9 want to go beyond
  });
  it('refuses language models, long texts, and LoRAs at other places', () => {
    expect(() => mole({ experts: [1, 2].map((rank) => ({ rank, scale: 1 })), where: 'v' })(llama)).toThrow(
      /mole: its gate is made of the whole text/,
    );
    expect(() => run(net, mixtureOfLoras(models, { length: 4 })(net.base))).toThrow(
      /a text of 5 tokens is longer than its gate, which has 4/,
    );
    expect(() => mixtureOfLoras([models[0]!, lora({ where: 'q' })(net.base)])).toThrow(/models 0 and 1 do not both have a lora at/);
    expect(() => mixtureOfLoras([net.base])).toThrow(/model 0 has no lora/);
  });
});
