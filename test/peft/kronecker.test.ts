// LoHa, LoKr and KronA against their updates written down densely, and their counts.
import { describe, expect, it } from 'vitest';
import { float64 } from '../../core/engines/float64.ts';
import { grad } from '../../core/grad.ts';
import { topological } from '../../core/tensor.ts';
import { context, stochastic } from '../../nn/context.ts';
import { tensors } from '../../nn/tree.ts';
import { svd } from '../../peft/linalg.ts';
import { krona } from '../../peft/reparameterized/krona.ts';
import { loha } from '../../peft/reparameterized/loha.ts';
import { lokr } from '../../peft/reparameterized/lokr.ts';
import { gpt2Network, llamaNetwork, perturb } from '../laws/models.ts';
import { flat, layerAt, type Matrix, own, random } from './naive.ts';
import { build, fromDense, llama3B, product, zip } from './structured.ts';

const engine = float64();
const { base } = gpt2Network(3);
const llama = llamaNetwork(3).base; // v is [4, 8], down [8, 12]
const where = ['q', 'v', 'down'];
const V = 'trunk.blocks.1.attn.v';
const DOWN = 'trunk.blocks.0.mlp.down';
const kronecker = (a: Matrix, b: Matrix): number[][] =>
  build(
    a.length * b.length,
    a[0]!.length * b[0]!.length,
    (i, j) => a[Math.floor(i / b.length)]![Math.floor(j / b[0]!.length)]! * b[i % b.length]![j % b[0]!.length]!,
  );
const sum = (w: Matrix, d: Matrix, s: number): number[][] => zip(w, d, (x, y) => x + s * y);

describe('loha', () => {
  const model = perturb(loha({ rank: 2, alpha: 3, where })(llama), 2, 0.5);
  for (const site of [V, DOWN])
    it(`W' = W + 3/2·(A₁B₁ ⊙ A₂B₂) at ${site}, attached and folded`, async () => {
      const { attached, folded } = await fromDense(engine, model, site, 'loha', (w, p) =>
        sum(
          w,
          zip(product(p.A1!, p.B1!), product(p.A2!, p.B2!), (x, y) => x * y),
          1.5,
        ),
      );
      expect([attached < 1e-13, folded < 1e-13]).toEqual([true, true]);
    });
  it('reaches a rank above r', async () => {
    const p = await own(engine, model, DOWN);
    const d = zip(product(p['loha.A1']!, p['loha.B1']!), product(p['loha.A2']!, p['loha.B2']!), (x, y) => x * y);
    const { s } = svd(Float64Array.from(flat(d)), 8, 12, 5);
    expect(s[3]! / s[0]!).toBeGreaterThan(1e-4); // rank 4 = r²
    expect(s[4]! / s[0]!).toBeLessThan(1e-13);
  });
  it('starts at zero, where B₂ alone has a gradient', async () => {
    const fresh = loha({ rank: 2, where })(llama);
    const named = (k: string) => [...tensors(fresh)].find(({ path }) => path === `${V}.loha.${k}`)!.tensor;
    const y = layerAt(fresh, 'linear', V)(random(1, [3, 8]), context(3)).mul(random(2, [3, 4]));
    const grads = grad(y.sum(), ['A1', 'B1', 'A2', 'B2'].map(named));
    const zero = await Promise.all(grads.map(async (g) => (await engine.read(g)).every((v) => v === 0)));
    expect(zero).toEqual([true, true, true, false]);
  });
  it('drops whole outputs of the update, made up for by the others', async () => {
    const dropping = perturb(loha({ rank: 2, rankDropout: 0.5, where })(base), 2, 0.5);
    const x = random(1, [3, 8]);
    const layer = layerAt(dropping, 'linear', V);
    const y = layer(x, context(3, { draw: stochastic() }));
    const [name] = topological([y]).flatMap((t) => (t.source.kind === 'input' ? [t.source.name] : []));
    const read = async (mask: number[]): Promise<number[]> => [...(await engine.read(y, { [name!]: Float64Array.from(mask) }))];
    const [all, some, none] = [await read(Array(8).fill(1)), await read([1, 0, 0, 1, 0, 0, 0, 0]), await read(Array(8).fill(0))];
    for (const [k, v] of some.entries())
      expect(v).toBeCloseTo(k % 8 === 0 || k % 8 === 3 ? none[k]! + 4 * (all[k]! - none[k]!) : none[k]!, 10);
  });
  it('counts 2r(in + out)', () => expect(loha.method.count(llama3B('linear'), { rank: 32 }).train).toBe(18_350_080));
});

describe('lokr', () => {
  for (const [title, options, site] of [
    ['with W₂ of low rank', { rank: 1 }, DOWN],
    ['with both whole', { rank: 3 }, V],
    ['with both of low rank', { rank: 1, decomposeBoth: true, factor: 4 }, DOWN],
  ] as const)
    it(`W' = W + s·(W₁ ⊗ W₂) ${title}`, async () => {
      const model = perturb(lokr({ alpha: 3, where, ...options })(llama), 2, 0.5);
      const { attached, folded } = await fromDense(engine, model, site, 'lokr', (w, p) => {
        expect(Object.keys(p).length).toBe(title === 'with both whole' ? 2 : title === 'with W₂ of low rank' ? 3 : 4);
        return sum(w, kronecker(p.w1 ?? product(p.w1a!, p.w1b!), p.w2 ?? product(p.w2a!, p.w2b!)), 3 / options.rank);
      });
      expect([attached < 1e-13, folded < 1e-13]).toEqual([true, true]);
    });
  it('starts with W₁ = 0, or W₂ = 0 as LyCORIS has it', async () => {
    const zero = async (init: 'zero' | 'lycoris'): Promise<Record<string, boolean>> =>
      Object.fromEntries(
        Object.entries(await own(engine, lokr({ rank: 1, init, where })(llama), DOWN)).flatMap(([k, v]) =>
          k.startsWith('lokr.') ? [[k.slice(5), v.flat().every((e) => e === 0)]] : [],
        ),
      );
    expect(await zero('zero')).toEqual({ w1: true, w2a: false, w2b: false });
    expect(await zero('lycoris')).toEqual({ w1: false, w2a: false, w2b: true });
  });
  it('counts its factors', () => {
    const c = { ...lokr.method.defaults, rank: 32, factor: 4 };
    expect(lokr.method.count(llama3B('linear'), c).train).toBe(2_294_656);
  });
  it('refuses factors that are none', () =>
    expect(() => lokr({ factor: 0, rank: 1 })(base)).toThrow(/lokr: factor 0 at trunk\.blocks\.0\.attn\.q/));
});

describe('krona', () => {
  for (const site of [V, DOWN])
    it(`W' = W + 2·(A ⊗ B) at ${site}`, async () => {
      const model = perturb(krona({ scale: 2, where })(llama), 2, 0.5);
      const { attached, folded } = await fromDense(engine, model, site, 'krona', (w, p) => sum(w, kronecker(p.A!, p.B!), 2));
      expect([attached < 1e-13, folded < 1e-13]).toEqual([true, true]);
    });
  it('may change a weight at full rank with few numbers', async () => {
    const p = await own(engine, perturb(krona({ where })(base), 2, 0.5), 'trunk.blocks.0.attn.q');
    const { s } = svd(Float64Array.from(flat(kronecker(p['krona.A']!, p['krona.B']!))), 8, 8, 8);
    expect(s[7]! / s[0]!).toBeGreaterThan(1e-6); // rounding would be 1e-16
    expect(krona.method.count([{ shape: [8, 8] }] as never, krona.method.defaults).train).toBe(4 + 16);
  });
});
