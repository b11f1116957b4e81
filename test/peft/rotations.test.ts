// OFT, BOFT and HRA against dense orthogonal matrices, what these keep of a weight, and their counts.
import { describe, expect, it } from 'vitest';
import { float64 } from '../../core/engines/float64.ts';
import { topological } from '../../core/tensor.ts';
import { context, stochastic } from '../../nn/context.ts';
import type { Model } from '../../nn/layer.ts';
import { nextToken } from '../../nn/losses.ts';
import { sgd } from '../../optim/sgd.ts';
import { trainer } from '../../optim/trainer.ts';
import { boft } from '../../peft/reparameterized/boft.ts';
import { hra } from '../../peft/reparameterized/hra.ts';
import { oft } from '../../peft/reparameterized/oft.ts';
import { effective } from '../../peft/site.ts';
import { gpt2Network, llamaNetwork, perturb } from '../laws/models.ts';
import { counting, frozen, type Text } from '../optim/tiny.ts';
import { layerAt, type Matrix, own, random, rowsOf } from './naive.ts';
import { build, determinant, eye, fromDense, inverse, llama3B, off, product, transpose, zip } from './structured.ts';

const engine = float64();
const { base } = gpt2Network(3);
const llama = llamaNetwork(3).base; // v is [4, 8], down [8, 12]
const where = ['q', 'v', 'down'];
const [Q, V, DOWN] = ['trunk.blocks.0.attn.q', 'trunk.blocks.1.attn.v', 'trunk.blocks.0.mlp.down'];
const skewOf = (v: readonly number[], b: number): number[][] => {
  const q = build(b, b, () => 0);
  let k = 0;
  for (let i = 0; i < b; i++) for (let j = i + 1; j < b; j++) [q[i]![j], q[j]![i]] = [v[k]!, -v[k++]!];
  return q;
};
const cayley = (q: Matrix): number[][] =>
  product(
    zip(eye(q.length), q, (x, y) => x - y),
    inverse(zip(eye(q.length), q, (x, y) => x + y)),
  );
const blockDiagonal = (blocks: readonly Matrix[]): number[][] => {
  const b = blocks[0]!.length;
  return build(b * blocks.length, b * blocks.length, (i, j) =>
    Math.floor(i / b) === Math.floor(j / b) ? blocks[Math.floor(i / b)]![i % b]![j % b]! : 0,
  );
};
const folded = async (m: Model, path: string): Promise<number[][]> =>
  rowsOf(await engine.read(effective(layerAt(m, 'linear', path), path).weight), 12 - (path === DOWN ? 0 : 4));

describe('oft', () => {
  for (const [share, site] of [
    [false, DOWN],
    [false, V],
    [true, DOWN],
  ] as const)
    it(`W' = W Rᵀ with R made of Cayley blocks at ${site}${share ? ', shared' : ''}`, async () => {
      const model = perturb(oft({ blockSize: 4, share, where })(llama), 2, 0.5);
      const d = await fromDense(engine, model, site, 'oft', (w, p) => {
        const blocks = p.Q!.map((v) => cayley(skewOf(v, 4)));
        return product(w, transpose(blockDiagonal(share ? Array.from({ length: w[0]!.length / 4 }, () => blocks[0]!) : blocks)));
      });
      expect([d.attached < 1e-12, d.folded < 1e-12]).toEqual([true, true]);
    });
  it("keeps lengths of and angles between rows: W'W'ᵀ = W Wᵀ", async () => {
    const [w, changed] = [await folded(llama, DOWN), await folded(perturb(oft({ blockSize: 6, where: [DOWN] })(llama), 2, 0.5), DOWN)];
    expect(off(changed, w)).toBeGreaterThan(0.1);
    expect(off(product(changed, transpose(changed)), product(w, transpose(w)))).toBeLessThan(1e-12);
  });
  it('constrained, every block stays within ε/√n after a step', async () => {
    const model = oft({ blockSize: 4, epsilon: 1e-3, where: 'q' })(frozen());
    await using t = await trainer<Model, Text>(model, { engine, loss: nextToken, optimizer: sgd({ lr: 1e3 }) });
    for (let k = 0; k < 3; k++) await t.step(counting(k));
    const p = await own(engine, await t.model(), Q);
    const sizes = p['oft.Q']!.map((v) => Math.SQRT2 * Math.hypot(...v)); // ‖Q‖ of each block
    expect(Math.max(...sizes)).toBeCloseTo(1e-3 / Math.SQRT2, 9); // one is pushed to the bound, and none beyond
  });
  it('leaves out blocks in training: with none, it is the base', async () => {
    const model = perturb(oft({ blockSize: 4, dropout: 0.5, where })(base), 2, 0.5);
    const x = random(1, [3, 8]);
    const y = layerAt(model, 'linear', Q)(x, context(3, { draw: stochastic() }));
    const [name] = topological([y]).flatMap((t) => (t.source.kind === 'input' ? [t.source.name] : []));
    const plain = await engine.read(layerAt(base, 'linear', Q)(x, context(3)));
    expect(off([[...(await engine.read(y, { [name!]: Float64Array.of(0, 0) }))]], [[...plain]])).toBeLessThan(1e-14);
    expect(off([[...(await engine.read(y, { [name!]: Float64Array.of(0, 1) }))]], [[...plain]])).toBeGreaterThan(1e-2);
  });
  it('counts n·b(b − 1)/2, and refuses blocks that do not divide', () => {
    expect(oft.method.count(llama3B('linear'), { ...oft.method.defaults, blockSize: 96 }).train).toBe(8_171_520);
    expect(() => oft({ blockSize: 3, where: 'q' })(base)).toThrow(
      /oft: blockSize 3 does not divide the input of trunk\.blocks\.0\.attn\.q, which has 8 features; sizes that do: 2, 4, 8/,
    );
    expect(() => oft({ blockSize: 4, neumann: 2 })(base)).toThrow(/oft: neumann 2 must be 0/);
  });
});

describe('boft', () => {
  /** P_i of the authors: places of half-blocks in each run of 2ⁱ blocks, even ones first. */
  const butterfly = (n: number, i: number, b: number): number[][] => {
    const [run, half] = [2 ** i * b, b / 2];
    const order = Array.from({ length: n }, (_, k) => {
      const [start, at] = [k - (k % run), k % run];
      const unit = Math.floor(at / half);
      const from = unit < 2 ** i ? 2 * unit : 2 * (unit - 2 ** i) + 1;
      return start + from * half + (at % half);
    });
    return build(n, n, (r, c) => (order[r] === c ? 1 : 0));
  };
  for (const [blockSize, factors, site] of [
    [2, 3, V],
    [2, 2, DOWN],
    [4, 1, DOWN],
    [4, 2, V],
  ] as const)
    it(`W' = s ⊙ W(B_m ⋯ B_1)ᵀ with ${factors} factors of ${blockSize} × ${blockSize} blocks`, async () => {
      const model = perturb(boft({ blockSize, factors, where: [site] })(llama), 2, 0.5);
      const d = await fromDense(engine, model, site, 'boft', (w, p) => {
        const n = w[0]!.length;
        const blocks = Array.from({ length: (factors * n) / blockSize }, (_, k) => {
          const x = p.X!.slice(k * blockSize, (k + 1) * blockSize);
          return cayley(zip(x, transpose(x), (a, b) => (a - b) / 2));
        });
        let r = eye(n);
        for (let i = 0; i < factors; i++) {
          const P = butterfly(n, i, blockSize);
          const one = product(product(P, blockDiagonal(blocks.slice((i * n) / blockSize, ((i + 1) * n) / blockSize))), transpose(P));
          r = product(one, r);
        }
        expect(off(product(r, transpose(r)), eye(n))).toBeLessThan(1e-12);
        if (2 ** (factors - 1) * blockSize === n) expect(r.flat().every((v) => Math.abs(v) > 1e-9)).toBe(true); // every input reaches every other
        return product(w, transpose(r)).map((row, o) => row.map((v) => v * p.s![0]![o]!));
      });
      expect([d.attached < 1e-12, d.folded < 1e-12]).toEqual([true, true]);
    });
  it('does not scale the bias', async () => {
    const model = perturb(boft({ blockSize: 4, where: 'q' })(base), 2, 0.5);
    const zero = random(1, [1, 8]).mul(0);
    const [y, b] = [await engine.read(layerAt(model, 'linear', Q)(zero, context(1))), (await own(engine, model, Q)).bias!];
    expect(off([[...y]], b)).toBeLessThan(1e-14);
  });
  it('counts m·in·b + out, and refuses what has no butterflies', () => {
    expect(boft.method.count(llama3B('linear'), { ...boft.method.defaults, blockSize: 4 }).train).toBe(802_816);
    expect(() => boft({ blockSize: 4, factors: 3, where: 'q' })(base)).toThrow(
      /boft: blockSize 4 does not divide.*takes 4 blocks at a time; sizes that do: 2/,
    );
    expect(() => boft({ blockSize: 1, factors: 2, where: 'q' })(base)).toThrow(/boft: blockSize 1 at .* must be even/);
  });
});

describe('hra', () => {
  const mirrors = (U: Matrix): number[][][] =>
    transpose(U).map((u) => {
      const n = u.reduce((s, v) => s + v * v, 0);
      return build(u.length, u.length, (i, j) => (i === j ? 1 : 0) - (2 * u[i]! * u[j]!) / n);
    });
  for (const rank of [2, 3])
    it(`W' = W H₁ ⋯ H_${rank}, orthogonal with determinant (−1)^${rank}`, async () => {
      const model = perturb(hra({ rank, where })(llama), 2, 0.5);
      const d = await fromDense(engine, model, V, 'hra', (w, p) => {
        const h = mirrors(p.U!).reduce(product);
        expect(off(product(h, transpose(h)), eye(8))).toBeLessThan(1e-13);
        expect(determinant(h)).toBeCloseTo((-1) ** rank, 9);
        return product(w, h);
      });
      expect([d.attached < 1e-12, d.folded < 1e-12]).toEqual([true, true]);
    });
  it('starts as the base with an even rank, and not with an odd one', async () => {
    const [w, even, odd] = [
      await folded(base, Q),
      await folded(hra({ rank: 4, where })(base), Q),
      await folded(hra({ rank: 3, where })(base), Q),
    ];
    expect(off(even, w)).toBeLessThan(1e-14);
    expect(off(odd, w)).toBeGreaterThan(0.1);
    expect([hra.method.startsAsBase({ rank: 4 }), hra.method.startsAsBase({ rank: 3 })]).toEqual(['close', 'no']);
    expect(hra.method.count(llama3B('linear'), { rank: 8 }).train).toBe(8 * 3072 * 56);
  });
});
