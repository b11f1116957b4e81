// The adapters and side networks of the survey's index that have no file of their own here: each from its equation by hand, special laws, refusals.
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { account } from '../../core/account.ts';
import { float64 } from '../../core/engines/float64.ts';
import { grad } from '../../core/grad.ts';
import { rng } from '../../core/rng.ts';
import { leaf, paramOf, stateOf, type Tensor } from '../../core/tensor.ts';
import { context, quiet } from '../../nn/context.ts';
import { decoder, gpt2 } from '../../nn/decoder.ts';
import { freeze } from '../../nn/freeze.ts';
import { generate } from '../../nn/generate.ts';
import type { Layer, Model } from '../../nn/layer.ts';
import { nextToken } from '../../nn/losses.ts';
import { tensors, trainable } from '../../nn/tree.ts';
import { adapterBias } from '../../peft/additive/adapterBias.ts';
import { adapterPlus } from '../../peft/additive/adapterPlus.ts';
import { coda } from '../../peft/additive/coda.ts';
import { hyperformer } from '../../peft/additive/hyperformer.ts';
import { meft } from '../../peft/additive/meft.ts';
import { pha } from '../../peft/additive/pha.ts';
import { instanceLoss, prototypeLoss, prototypeScores } from '../../peft/additive/phaLoss.ts';
import { softTopK } from '../../peft/additive/softTopK.ts';
import { tinyAttn } from '../../peft/additive/tinyAttn.ts';
import { merge } from '../../peft/merge.ts';
import { mtlLora } from '../../peft/reparameterized/mtlLora.ts';
import { gradients } from '../laws/graph.ts';
import { bertNetwork, gpt2Network, llamaNetwork, perturb, run } from '../laws/models.ts';
import {
  affine,
  apart,
  attention,
  each,
  flat,
  layerAt,
  type Matrix,
  own,
  plus,
  random,
  relu,
  rowsOf,
  scaled,
  softmax,
  trained,
} from './naive.ts';

const engine = float64();
const D = 8;
const T = 4;
const x = random(5, [1, T, D]);
const ctx = context(T, { causal: true });
const read = async (t: Tensor, feed = {}): Promise<number[][]> => rowsOf(await engine.read(t, feed), t.shape.at(-1)!);
const tensorOf = (m: Matrix): Tensor => leaf(Float64Array.from(flat(m)), [1, m.length, m[0]!.length]);
const mean = (v: readonly number[]): number => v.reduce((a, b) => a + b, 0) / v.length;
const layerNorm = (m: Matrix, gain: readonly number[] | null = null, shift: readonly number[] | null = null, eps = 1e-5): number[][] =>
  m.map((row) => {
    const mu = mean(row);
    const s = Math.sqrt(mean(row.map((v) => (v - mu) ** 2)) + eps);
    return row.map((v, i) => ((v - mu) / s) * (gain?.[i] ?? 1) + (shift?.[i] ?? 0));
  });
type Own = Record<string, number[][]>;
const bottleneck = (m: Matrix, p: Own, k = ''): number[][] =>
  affine(each(affine(m, p[`down${k}`]!, p[`downBias${k}`]!.flat()), relu), p[`up${k}`]!, p[`upBias${k}`]!.flat());
const close = (a: Matrix, b: Matrix): void => expect(apart(flat(a), flat(b))).toBeLessThan(1e-9);
const block = (m: Model, k: number): Layer<'block'> => layerAt(m, 'block', `trunk.blocks.${k}`);
const at = (m: Model, k: number) => ({
  norm1: layerAt(m, 'norm', `trunk.blocks.${k}.norm1`),
  norm2: layerAt(m, 'norm', `trunk.blocks.${k}.norm2`),
  attn: layerAt(m, 'branch', `trunk.blocks.${k}.attn`),
  mlp: layerAt(m, 'branch', `trunk.blocks.${k}.mlp`),
});
/** Many recipes in one run. */
const readAll = async (all: readonly Tensor[], feed = {}): Promise<number[][]> => {
  const plan = await engine.compile(engine.store(), { outputs: Object.fromEntries(all.map((t, k) => [`o${k}`, t])) });
  const out = await plan.run(feed);
  return all.map((_, k) => Array.from(out[`o${k}`]!));
};
const largest = (v: readonly number[]): number => Math.max(...v.map(Math.abs));

describe('adapterBias', () => {
  it('adds its vector as much as the linear layer says, and merges; one α for all layers where shared', async () => {
    const { base } = gpt2Network(1);
    const model = perturb(adapterBias()(base), 1);
    const at = 'trunk.blocks.1.mlp.down';
    const inner = random(2, [1, T, 12]);
    const p = await own(engine, model, `${at}.adapterBias`);
    const y = await read(layerAt(base, 'linear', at)(inner, ctx));
    const xi = affine(await read(inner), p.alpha!, p.c!.flat());
    const expected = y.map((row, i) => row.map((v, j) => v + xi[i]![0]! * p.v!.flat()[j]!));
    close(await read(layerAt(model, 'linear', at)(inner, ctx)), expected);
    close(await read(layerAt(merge(model), 'linear', at)(inner, ctx)), expected);
    expect(trained(adapterBias()(base))).toBe(2 * (8 + 12 + 1));
    expect(trained(adapterBias({ shared: true })(base))).toBe(2 * 8 + 12 + 1);
    expect(() => adapterBias({ shared: true, where: ['down', 'up'] })(base)).toThrow(/cannot share one α/);
  });
});

describe('adapterPlus', () => {
  it('is the scaled bottleneck behind a block; a text that is dropped keeps the block, the others count more', async () => {
    const { base } = bertNetwork(2);
    const model = perturb(adapterPlus({ bottleneck: 3, activation: 'relu', stochasticDepth: 0.2 })(base), 1);
    const p = await own(engine, model, 'trunk.blocks.0.adapterPlus');
    const c = context(T);
    const h = await read(block(base, 0)(x, c));
    const change = scaled(bottleneck(h, p), (_, j) => p.s!.flat()[j]!);
    close(await read(block(model, 0)(x, c)), plus(h, change));
    const twice = leaf(Float64Array.from([...(await engine.read(x)), ...(await engine.read(x))]), [2, T, D]);
    const draw = { ...quiet, bernoulli: () => leaf([0, 1], [2, 1, 1]) };
    const rows = await read(block(model, 0)(twice, { ...c, draw }));
    close(rows.slice(0, T), h);
    close(
      rows.slice(T),
      plus(
        h,
        scaled(change, () => 1 / 0.8),
      ),
    );
    expect(() => adapterPlus({ stochasticDepth: 1 })(base)).toThrow(/stochasticDepth/);
  });
});

describe('mtlLora', () => {
  it('gives each row the update of its task; one task merges, several refuse', async () => {
    const { base } = llamaNetwork(3);
    const c = { rank: 2, alpha: 3, ups: 2, sharpness: 0.5 };
    const model = perturb(mtlLora({ ...c, tasks: 2 })(base), 1);
    const place = 'trunk.blocks.0.attn.q';
    const p = await own(engine, model, `${place}.mtlLora`);
    const two = random(4, [2, T, D]);
    const got = await read(layerAt(model, 'linear', place)(two, ctx), { task: [1, 0] });
    const y = await read(layerAt(base, 'linear', place)(two, ctx));
    const rows = await read(two);
    for (const [row, task] of [1, 0].entries()) {
      const part = (m: Matrix): Matrix => m.slice(row * T, (row + 1) * T);
      const w = softmax(p.omega![task]!.map((v) => v / 0.5));
      const h = scaled(affine(part(rows), p.A!), (_, j) => p.lambda![task]![j]!);
      const ups = [0, 1].map((i) => scaled(affine(h, p.B!.slice(8 * i, 8 * (i + 1))), () => (w[i]! * 3) / 2));
      close(part(got), plus(part(y), plus(ups[0]!, ups[1]!)));
    }
    expect(() => merge(model)).toThrow(/another for each of 2 tasks/);
    expect(() => mtlLora({ sharpness: 0 })(base)).toThrow(/sharpness/);
  });
});

/** The narrow attention by hand. */
function tiny(z: Matrix, p: Own, e: number, heads: number, sees: (i: number, j: number) => boolean): number[][] {
  const into = affine(layerNorm(z, p.gain!.flat(), p.shift!.flat()), p.into!, p.intoBias!.flat());
  const projected = [0, 1, 2].map((k) =>
    affine(
      into.map((r) => r.slice(k * e, (k + 1) * e)),
      p.project!.slice(k * e, (k + 1) * e),
      p.projectBias!.flat().slice(k * e, (k + 1) * e),
    ),
  );
  const per = e / heads;
  const all = Array.from({ length: heads }, (_, n) => {
    const [q, k, v] = projected.map((m) => m.map((r) => r.slice(n * per, (n + 1) * per))) as unknown as [Matrix, Matrix, Matrix];
    return attention(q, k, v, sees);
  });
  const joined = z.map((_, i) => all.flatMap((h) => h[i]!));
  return affine(affine(joined, p.join!, p.joinBias!.flat()), p.out!, p.outBias!.flat());
}

describe('tinyAttn', () => {
  it('stands between attention and feed-forward, causal in LLaMA and after the norm in BERT', async () => {
    const c = { width: 4, heads: 2 };
    const llama = llamaNetwork(4).base;
    const m1 = perturb(tinyAttn(c)(llama), 1);
    const p1 = await own(engine, m1, 'trunk.blocks.0.tinyAttn');
    const l = at(llama, 0);
    const a = await read(x.add(l.attn(l.norm1(x, ctx), ctx)));
    const z = tensorOf(
      plus(
        a,
        tiny(a, p1, 4, 2, (i, j) => j <= i),
      ),
    );
    close(await read(block(m1, 0)(x, ctx)), await read(z.add(l.mlp(l.norm2(z, ctx), ctx))));

    const bert = bertNetwork(4).base;
    const m2 = perturb(tinyAttn(c)(bert), 1);
    const p2 = await own(engine, m2, 'trunk.blocks.1.tinyAttn');
    const [b, open] = [at(bert, 1), context(T)];
    const n = await read(b.norm1(x.add(b.attn(x, open)), open));
    const y = tensorOf(
      plus(
        n,
        tiny(n, p2, 4, 2, () => true),
      ),
    );
    close(await read(block(m2, 1)(x, open)), await read(b.norm2(y.add(b.mlp(y, open)), open)));
    expect(() => tinyAttn({ width: 3, heads: 2 })(bert)).toThrow(/do not divide/);
  });

  it('keeps keys and values of its own while text is generated', async () => {
    const model = perturb(tinyAttn({ width: 2, heads: 1 })(gpt2Network(4).base), 3);
    const text = [1, 2, 3];
    const made = await generate(model, text, { engine, tokens: 2, temperature: 0 });
    for (const token of made) {
      const logits = (await read(model({ ids: leaf(text, [1, text.length]) }, context(text.length)))).at(-1)!;
      expect(token).toBe(logits.indexOf(Math.max(...logits)));
      text.push(token);
    }
  });
});

describe('meft', () => {
  for (const form of [1, 2] as const)
    it(`is the two streams of form ${form}, and what enters the blocks can be computed from what leaves them`, async () => {
      const { base } = llamaNetwork(5);
      const c = { bottleneck: 3, activation: 'relu', form, lambda: 0.3, beta: 0.7 } as const;
      const model = perturb(meft(c)(base), 1);
      const p = await own(engine, model, 'trunk.meft');
      const inner = async (k: number, m: Matrix): Promise<number[][]> => {
        const l = at(base, k);
        const h = tensorOf(m);
        const a = h.add(l.attn(l.norm1(h, ctx), ctx));
        const n = l.norm2(a, ctx);
        return plus(await read(a.add(l.mlp(n, ctx))), bottleneck(await read(n), p, `.${2 * k}`));
      };
      const outer = async (k: number, m: Matrix): Promise<number[][]> => bottleneck(m, p, `.${2 * k + 1}`);
      const [F, G] = form === 1 ? [inner, outer] : [outer, inner];
      const times = (m: Matrix, s: number): Matrix => scaled(m, () => s);
      const start = await read(x);
      let [x1, x2]: [Matrix, Matrix] = [start, start];
      for (const k of [0, 1]) {
        const y1 = plus(times(x1, 0.3), await F(k, x2));
        [x1, x2] = [plus(times(x2, 0.7), await G(k, y1)), y1];
      }
      const final = layerAt(base, 'norm', 'trunk.norm')(tensorOf(times(plus(x1, x2), 0.5)), ctx);
      close(await read(layerAt(model, 'trunk', 'trunk')(x, ctx)), await read(final));
      for (const k of [1, 0]) {
        const y1 = x2;
        const back = times(plus(x1, times(await G(k, y1), -1)), 1 / 0.7);
        [x1, x2] = [times(plus(y1, times(await F(k, back), -1)), 1 / 0.3), back];
      }
      close(x1, start);
      close(x2, start);
    });

  it('has the same gradients whether backward keeps all, computes again, or goes back from what leaves the last block', async () => {
    const net = gpt2Network(5);
    for (const form of [1, 2] as const) {
      const of = async (keeps: 'last' | 'streams' | 'all'): Promise<number[]> => {
        const model = perturb(meft({ bottleneck: 3, form, lambda: 0.3, beta: 0.7, keeps })(net.base), 1);
        return flat(await readAll(gradients(run(net, model).loss, model)));
      };
      const all = await of('all');
      expect(apart(await of('streams'), all)).toBeLessThan(1e-12);
      expect(apart(await of('last'), all)).toBeLessThan(1e-11); // two blocks divide roundings by 0.3·0.7
    }
    expect(() => meft({ beta: 0 })(net.base)).toThrow(/reversed/);
  });

  it('keeps as much for backward at any depth when it goes back, and two streams a block when it computes again', () => {
    const saved = (layers: number, keeps: 'last' | 'streams' | 'all'): number => {
      const base = freeze(decoder(gpt2({ vocabulary: 12, width: 8, layers, heads: 2, positions: 16 }), rng(1)));
      const model = meft({ bottleneck: 3, keeps })(base);
      const ids = leaf([1, 2, 3, 4, 5], [1, 5]);
      const loss = nextToken(model, { ids, targets: ids }, context(5));
      return account([loss, ...gradients(loss, model)]).phases.forward.saved;
    };
    expect([saved(2, 'last'), saved(5, 'last')]).toEqual([saved(3, 'last'), saved(3, 'last')]);
    const streams = 4 * 2 * 5 * 8; // bytes
    expect(saved(5, 'streams') - saved(3, 'streams')).toBe(2 * streams);
    expect(saved(3, 'all')).toBeGreaterThan(saved(3, 'streams'));
  });
});

describe('coda', () => {
  it('has a soft top-k in [0, 1] whose sum is k once settled, and hardens as ε falls', async () => {
    await fc.assert(
      fc.asyncProperty(fc.nat(1e6), fc.integer({ min: 1, max: 5 }), async (seed, k) => {
        const s = leaf(rng(seed).normal(6), [1, 6]);
        const soft = Array.from(await engine.read(softTopK(s, k, { epsilon: 0.5, turns: 40 })));
        expect(Math.abs(soft.reduce((a, b) => a + b) - k)).toBeLessThan(1e-2);
        expect(soft.every((v) => v >= 0 && v <= 1 + 1e-12)).toBe(true);
        const values = await engine.read(s);
        const order = [...soft.keys()].sort((a, b) => values[b]! - values[a]!);
        expect(order.every((i, n) => n === 0 || soft[i]! <= soft[order[n - 1]!]! + 1e-12)).toBe(true);
      }),
      { numRuns: 5 },
    );
  });

  it('computes the frozen layers for the picked tokens alone, and its adapter for all', async () => {
    const { base } = bertNetwork(6);
    const c = { bottleneck: 3, tokens: 0.5, epsilon: 1, turns: 3 };
    const model = perturb(coda(c)(base), 1);
    const p = await own(engine, model, 'trunk.blocks.0.coda');
    const s = affine(await read(x), p.w!).flat();
    let [v, u, e] = [s.map((a) => -a), s, 4];
    for (const turn of [0, 1, 2]) {
      const lse = Math.log(s.reduce((n, a, i) => n + Math.exp((a + v[i]!) / e), 0));
      u = s.map(() => e * (Math.log(2) - lse));
      v = s.map((a, i) => Math.min(-a - u[i]!, 0));
      if (turn < 2) e = Math.max(1, 0.7 * e);
    }
    const cut = [...s].sort((a, b) => b - a)[1]!;
    const share = s.map((a, i) => (a >= cut ? Math.exp((a + u[i]! + v[i]!) / e) : 0));
    const [l, open] = [at(base, 0), context(T)];
    const shared = async (t: Tensor): Promise<Tensor> => tensorOf(scaled(await read(t), (i) => share[i]!));
    const h = l.norm1(x.add(await shared(l.attn(x, open))), open);
    const out = h.add(await shared(l.mlp(h, open))).add(tensorOf(bottleneck(await read(h), p)));
    close(await read(block(model, 0)(x, open)), await read(l.norm2(out, open)));
    expect(() => coda()(gpt2Network(1).base)).toThrow(/use an encoder/);
    expect(() => coda({ tokens: 0 })(base)).toThrow(/tokens/);
  });
});

const two = random(9, [2, T, D]);
describe('hyperformer', () => {
  it('makes each adapter from task, block and place; a row has the adapter of its task', async () => {
    const { base } = gpt2Network(7);
    const c = { bottleneck: 3, activation: 'relu', embedding: 2, hidden: 6, projected: 3, tasks: 2 } as const;
    const model = perturb(hyperformer(c)(base), 1);
    const place = 'trunk.blocks.1.mlp';
    const p = await own(engine, model, `${place}.hyperformer`);
    const got = await read(layerAt(model, 'branch', place)(two, ctx), { task: [1, 0] });
    const h = await read(layerAt(base, 'branch', place)(two, ctx));
    for (const [row, task] of [1, 0].entries()) {
      const joint = [[...p.task![task]!, ...p.block!.flat(), ...p.place!.flat()]];
      const inner = affine(each(affine(joint, p.a!, p.aBias!.flat()), relu), p.b!, p.bBias!.flat());
      const I = layerNorm(inner, p.gain!.flat(), p.shift!.flat(), 1e-6);
      const head = (k: number): number[] => affine(I, p[`heads.${2 * k}`]!, p[`heads.${2 * k + 1}`]!.flat())[0]!;
      const mine = h.slice(row * T, (row + 1) * T);
      const up = affine(each(affine(mine, rowsOf(head(0), D), head(1)), relu), rowsOf(head(2), 3), head(3));
      close(got.slice(row * T, (row + 1) * T), plus(mine, layerNorm(up, head(4), head(5))));
    }
    const one = new Set([...tensors(model)].filter(({ path }) => path.endsWith('.hyperformer.place')).map(({ tensor }) => paramOf(tensor)));
    expect(one.size).toBe(2);
    expect(() => hyperformer({ tasks: 0 })(base)).toThrow(/tasks/);
  });
});

describe('pha', () => {
  const c = { bottleneck: 3, embedding: 3, hidden: 6 };
  it('makes each adapter from the prototype of the row’s task, and asks for the retriever’s losses', async () => {
    const { base } = bertNetwork(8);
    const model = perturb(pha({ ...c, tasks: 2 })(base), 1);
    const p = await own(engine, model, 'trunk.pha');
    const aux: Tensor[] = [];
    const open = context(T, { aux: (_, loss) => aux.push(loss) });
    const task = { task: [1, 0] };
    const got = await read(layerAt(model, 'trunk', 'trunk')(two, open), task);
    const all = await read(two);
    for (const [row, k] of task.task.entries()) {
      let h = tensorOf(all.slice(row * T, (row + 1) * T));
      const start = layerAt(base, 'embedding', 'trunk.positions');
      h = layerAt(base, 'norm', 'trunk.first')(h.add(start(open.positions, open)), open);
      for (const i of [0, 1]) {
        const [l, g] = [at(base, i), (n: number) => p[`generator.${n}`]!];
        const inner = affine(each(affine([[...p.prototypes![k]!, ...p.blocks![i]!]], g(0), g(1).flat()), relu), g(2), g(3).flat());
        const I = layerNorm(inner, g(4).flat(), g(5).flat(), 1e-6);
        const head = (n: number): number[] => affine(I, p[`heads.${2 * n}`]!, p[`heads.${2 * n + 1}`]!.flat())[0]!;
        const a = l.norm1(h.add(l.attn(h, open)), open);
        const change = affine(each(affine(await read(a), rowsOf(head(0), D), head(1)), relu), rowsOf(head(2), 3), head(3));
        h = l.norm2(a.add(l.mlp(a, open)).add(tensorOf(change)), open);
      }
      close(got.slice(row * T, (row + 1) * T), await read(h));
    }
    expect(aux).toHaveLength(1);
    const own2 = [...trainable(model)].filter(([, path]) => path.includes('.retriever.')).map(([q]) => stateOf(q));
    for (const g of await readAll(grad(aux[0]!, own2), task)) expect(largest(g)).toBeGreaterThan(0);
    const scores = await read(prototypeScores(model, { ids: leaf([1, 2, 3, 4], [2, 2]) }, context(2)), task);
    expect(scores.flat().every((v) => Math.abs(v) <= 1 + 1e-12)).toBe(true);
    expect(() => prototypeScores(pha(c)(base), { ids: leaf([1], [1, 1]) }, context(1))).toThrow(/nothing retrieves/);
    expect(() => pha({ temperature: 0 })(base)).toThrow(/temperature/);
  });

  it('has the losses of their equations', async () => {
    const [z, k, task] = [random(11, [4, 3]), random(12, [3, 3]), [0, 2, 0, 1]];
    const unit = (m: Matrix): number[][] => m.map((r) => r.map((v) => v / Math.hypot(...r)));
    const dots = (a: Matrix, b: Matrix): number[][] => affine(a, b).map((r) => r.map((v) => v / 0.5));
    const [u, w] = [unit(await read(z)), unit(await read(k))];
    const s = dots(u, u);
    const among = (i: number): number => Math.log(s[i]!.reduce((n, v, j) => n + (j === i ? 0 : Math.exp(v)), 0));
    const instances = -mean([s[0]![2]! - among(0), s[2]![0]! - among(2)]); // rows 1 and 3 are alone
    const t = dots(u, w);
    const prototypes = -mean(task.map((own, i) => t[i]![own]! - Math.log(t[i]!.reduce((n, v, j) => n + (j === own ? 0 : Math.exp(v)), 0))));
    const labels = leaf(task, [4]);
    expect((await engine.read(instanceLoss(z, labels, 0.5)))[0]).toBeCloseTo(instances, 9);
    expect((await engine.read(prototypeLoss(z, k, labels, 0.5)))[0]).toBeCloseTo(prototypes, 9);
  });
});
