// Attention without stored scores on the simd engine: against the composition in double precision, whatever the layout, sizes and bias.
import fc from 'fast-check';
import { afterAll, describe, expect, it } from 'vitest';
import { account } from '../../core/account.ts';
import type { Engine } from '../../core/engine.ts';
import { float64 } from '../../core/engines/float64.ts';
import { simd } from '../../core/engines/simd.ts';
import { pullback } from '../../core/grad.ts';
import { attention } from '../../core/ops/fused.ts';
import { slice } from '../../core/ops/move.ts';
import type { Numbers } from '../../core/plan.ts';
import { rng } from '../../core/rng.ts';
import { schedule } from '../../core/schedule.ts';
import { within } from '../../core/scope.ts';
import { type Shape, size } from '../../core/shape.ts';
import { opening } from '../../core/simd/native.ts';
import { leaf, type Tensor } from '../../core/tensor.ts';
import { largest } from '../laws/naive.ts';

interface Setting {
  readonly B: number;
  readonly Hk: number;
  readonly group: number;
  readonly T: number;
  readonly past: number; // keys before the first query
  readonly D: number;
  readonly Dv: number;
  readonly causal: boolean;
  /** One projection for q, k and v; a projection each; or heads first, as after a rotation. */
  readonly layout: 'fused' | 'apart' | 'heads';
  readonly bias: 'none' | 'keys' | 'full' | 'heads' | 'rows';
  readonly seed: number;
}
const operandsOf = (s: Setting): { leaves: Tensor[]; y: Tensor } => {
  const { B, Hk, group, T, past, D, Dv, causal, layout, bias, seed } = s;
  const [H, S] = [Hk * group, T + past];
  const r = rng(seed);
  const random = (name: string, shape: Shape): Tensor => leaf(Float64Array.from(r.split(name).uniform(size(shape), -2, 2)), shape);
  const heads = (x: Tensor, n: number, d: number): Tensor => x.reshape(B, x.shape[1]!, n, d).permute(0, 2, 1, 3);
  const wide = (H + 2 * Hk) * D;
  const all = layout === 'fused' ? [random('qkv', [B, T, wide])] : [];
  if (layout === 'apart') all.push(random('q', [B, T, H * D]), random('k', [B, S, Hk * D]), random('v', [B, S, Hk * Dv]));
  if (layout === 'heads') all.push(random('q', [B, H, T, D]), random('k', [B, Hk, S, D]), random('v', [B, Hk, S, Dv]));
  const [a, b, c] = all;
  const [q, k, v] =
    layout === 'fused'
      ? [
          heads(slice(a!, 2, 0, H * D), H, D),
          heads(slice(a!, 2, H * D, (H + Hk) * D), Hk, D),
          heads(slice(a!, 2, (H + Hk) * D, wide), Hk, D),
        ]
      : layout === 'apart'
        ? [heads(a!, H, D), heads(b!, Hk, D), heads(c!, Hk, Dv)]
        : [a!, b!, c!];
  const shape = { none: [], keys: [B, 1, 1, S], full: [B, H, T, S], heads: [1, H, T, S], rows: [T, 1] }[bias];
  // Padding hides some keys, never the first.
  const mask = (): Tensor =>
    leaf(
      Float64Array.from(r.split('mask').bernoulli(B * S, 0.7), (on, i) => (on === 1 || i % S === 0 ? 0 : -1e9)),
      shape,
    );
  const added = bias === 'none' ? null : bias === 'keys' ? mask() : random('bias', shape);
  const y = attention(q!, k!, v!, { causal, bias: added })
    .permute(0, 2, 1, 3)
    .reshape(B, T, H * v!.shape[3]!);
  return { leaves: bias === 'none' || bias === 'keys' ? all : [...all, added!], y };
};
const programOf = (s: Setting): Tensor[] => {
  const { leaves, y } = operandsOf(s);
  const dy = leaf(Float64Array.from(rng(s.seed + 1).uniform(size(y.shape), -1, 1)), y.shape);
  return [y, ...within({ phase: 'backward' }, () => pullback(y, dy, leaves))];
};
const run = async (e: Engine, s: Setting): Promise<Numbers[]> => {
  const store = e.store();
  const outputs = Object.fromEntries(programOf(s).map((t, k) => [`t${k}`, t]));
  const got = await (await e.compile(store, { outputs })).run();
  store.close();
  return Object.keys(outputs).map((k) => got[k]!);
};
const usual: Setting = { B: 1, Hk: 2, group: 1, T: 20, past: 0, D: 8, Dv: 8, causal: true, layout: 'fused', bias: 'none', seed: 1 };
/** Where blocks end: strips of 6 rows and 8 keys, 192 rows, 256 keys; every layout and bias. */
const edges: readonly Setting[] = [
  usual,
  { ...usual, T: 200, D: 5, Dv: 5, Hk: 1 },
  { ...usual, T: 7, past: 258, D: 9, Dv: 3, layout: 'apart', bias: 'keys' },
  { ...usual, T: 261, D: 4, Dv: 4, Hk: 1, causal: false },
  { ...usual, T: 195, past: 68, D: 3, Dv: 6, Hk: 1, group: 2, layout: 'heads', bias: 'keys' },
  { ...usual, B: 2, T: 13, past: 6, group: 3, layout: 'apart' },
  { ...usual, T: 1, past: 30, causal: false, layout: 'heads', bias: 'rows' },
  { ...usual, T: 49, D: 128, Dv: 127, layout: 'apart', bias: 'full' },
];
const settings: fc.Arbitrary<Setting> = fc
  .record({
    B: fc.integer({ min: 1, max: 3 }),
    Hk: fc.integer({ min: 1, max: 3 }),
    group: fc.integer({ min: 1, max: 2 }),
    T: fc.integer({ min: 1, max: 30 }),
    past: fc.integer({ min: 0, max: 20 }),
    D: fc.integer({ min: 1, max: 20 }),
    Dv: fc.integer({ min: 1, max: 20 }),
    causal: fc.boolean(),
    layout: fc.constantFrom('fused', 'apart', 'heads'),
    bias: fc.constantFrom('none', 'keys', 'full', 'heads', 'rows'),
    seed: fc.nat(1e6),
  })
  .map((s) => (s.layout === 'fused' ? { ...s, past: 0, Dv: s.D } : s));

describe('attention without stored scores', () => {
  const oracle = float64();
  const engines = {
    one: simd({ threads: 1 }),
    two: simd({ threads: 2 }),
    three: simd({ threads: 3 }),
    plain: simd({ threads: 1, relaxed: false }),
  };
  afterAll(async () => {
    for (const e of Object.values(engines)) await (await e).close();
  });
  const agree = (got: readonly Numbers[], want: readonly Numbers[], what: string): void => {
    for (const [k, w] of want.entries()) {
      const limit = 4 * 2 ** -24 * 80 * Math.max(2, largest(w)) ** 2; // as for every op: test/laws/engineLaws.ts
      const off = Array.from(w, (x, i) => Math.abs(x - got[k]![i]!)).findIndex((d) => !(d <= limit));
      if (off >= 0) expect.fail(`${what}: table ${k}, element ${off} is ${got[k]![off]} and should be ${w[off]} within ${limit}`);
    }
  };
  const check = async (s: Setting): Promise<void> => {
    const names = schedule(programOf(s), opening).steps.map((st) => st.kernel.name);
    expect(names).toContain('flashAttention');
    expect(names).toContain('flashAttentionGrad');
    const want = await run(oracle, s);
    const one = await run(await engines.one, s);
    agree(one, want, 'relaxed');
    agree(await run(await engines.plain, s), want, 'plain');
    expect(await run(await engines.two, s), 'two threads: the same bits').toEqual(one);
    expect(await run(await engines.three, s), 'three threads: the same bits').toEqual(one);
  };
  it.each(edges)('B $B, key heads $Hk × $group, T $T after $past, D $D and $Dv, causal $causal, $layout, bias $bias', check);
  it('any sizes, layouts and biases', () => fc.assert(fc.asyncProperty(settings, check), { numRuns: 12 }));

  it('keeps the result and one number per row, not the scores; of a fused projection nothing is copied', () => {
    const s = { ...usual, B: 2, T: 64 };
    const stored = schedule(programOf(s), opening).steps;
    expect(stored.map((st) => st.kernel.name).filter((n) => n !== 'reshape' && n !== 'slice')).toEqual([
      'flashAttention',
      'flashAttentionGrad',
    ]);
    const [H, D] = [2, 8];
    const result = 4 * s.B * H * s.T * (D + 1);
    expect(account(programOf(s), { opening }).total.saved).toBeLessThanOrEqual(result);
    expect(account(programOf(s)).total.saved).toBeGreaterThan(4 * s.B * H * s.T * s.T);
  });

  it('hides all of the first half of a batch from a query: it sees the rest alone', async () => {
    const y = (bias: Tensor | null, from: number): Tensor => {
      const [q, k, v] = [1, 2, 3].map((n) => leaf(rng(n).normal(2 * 9 * 4), [1, 2, 9, 4])) as [Tensor, Tensor, Tensor];
      return attention(slice(q, 2, 4), slice(k, 2, from), slice(v, 2, from), { bias });
    };
    const mask = leaf(
      Float32Array.from({ length: 9 }, (_, j) => (j < 4 ? -1e9 : 0)),
      [1, 1, 1, 9],
    );
    const e = await engines.one;
    const [hidden, absent] = [await e.read(y(mask, 0)), await e.read(y(null, 4))];
    for (const [i, x] of absent.entries()) expect(hidden[i]).toBeCloseTo(x, 6);
  });

  it('leaves to the composition what it has no kernel for: a wide head, queries that see no key, the gradient of a bias', () => {
    const names = (s: Setting): string[] => schedule(programOf(s), opening).steps.map((st) => st.kernel.name);
    expect(names({ ...usual, D: 129, Dv: 129, T: 4 })).not.toContain('flashAttention');
    expect(names({ ...usual, layout: 'heads', bias: 'full' })).toContain('softmaxGrad');
    const [q, k] = [leaf(rng(1).normal(24), [1, 1, 6, 4]), leaf(rng(2).normal(12), [1, 1, 3, 4])];
    const y = attention(q, k, k, { causal: true });
    expect(schedule([y], opening).steps.map((st) => st.kernel.name)).not.toContain('flashAttention');
  });
});
