// AdaMSS in Hugging Face PEFT's files: the clusters that nobody stores, made again; what rounding leaves open, and what is refused.
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { float64 } from '../../core/engines/float64.ts';
import { leaf } from '../../core/tensor.ts';
import { readSafetensors, writeSafetensors } from '../../io/files.ts';
import { adamssAsPeft } from '../../io/peft/adamss.ts';
import { clusterings } from '../../io/peft/adamssClusters.ts';
import { CONFIG_FILE, WEIGHTS_FILE } from '../../io/peft/adapter.ts';
import { loadPeft } from '../../io/peft/load.ts';
import { legacyChoice } from '../../io/peft/numpyRandom.ts';
import { savePeft } from '../../io/peft/save.ts';
import { normals } from '../../io/peft/torchRandom.ts';
import type { Writable } from '../../io/safetensors.ts';
import type { Model } from '../../nn/layer.ts';
import { mapTensors, tensors } from '../../nn/tree.ts';
import { orthonormal, product } from '../../peft/linalg.ts';
import { adamss } from '../../peft/reparameterized/adamss.ts';
import { type AdamssFixture, madeAgain } from '../oracle/adamss.ts';
import { fixture } from '../oracle/fixtures.ts';
import { FILES } from '../oracle/hfFiles.ts';
import { networks } from '../oracle/networks.ts';

const stored = fixture<AdamssFixture>('adamss');
const engine = float64();
const { base } = networks.llama;
const V = 'trunk.blocks.0.attn.v';

describe('what PyTorch, NumPy and scikit-learn give', () => {
  test.each(stored.normals)('torch.randn with seed $seed', ({ seed, values }) => {
    const drawn = normals(seed, values.length);
    expect(Math.max(...values.map((v, k) => Math.abs(v - drawn[k]!)))).toBeLessThan(1e-6);
  });
  test('fewer than 16 are drawn in another way', () => expect(() => normals(0, 15)).toThrow(/15 normal numbers/));
  test.each(stored.choices)('RandomState($seed).choice($n, $k)', ({ seed, n, k, values }) =>
    expect(legacyChoice(seed, n, k)).toEqual(values),
  );
  test.each(stored.clusters)('clusters of $out × $into, $directions directions, falling: $falling', (c) =>
    expect(madeAgain(c)).toEqual([c.labels]),
  );
});

/** K-means as the equations say, without any care for rounding. */
function plain(u: readonly (readonly number[])[], K: number): number[] | null {
  const [n, q] = [u.length, u[0]!.length];
  const mean = (of: readonly (readonly number[])[]): number[] =>
    Array.from({ length: q }, (_, c) => of.reduce((s, x) => s + x[c]!, 0) / of.length);
  const apart = (a: readonly number[], b: readonly number[]): number => a.reduce((s, v, c) => s + (v - b[c]!) ** 2, 0);
  const middle = mean(u);
  const near = (at: readonly (readonly number[])[]): number[] =>
    u.map((x) => at.reduce((best, c, k) => (apart(x, c) < apart(x, at[best]!) ? k : best), 0));
  let centres: readonly (readonly number[])[] = legacyChoice(123456789, n, K).map((i) => u[i]!);
  let before: number[] = [];
  for (let step = 0; step < 10; step++) {
    const now = near(centres);
    if (new Set(now).size < K) return null;
    const moved = centres.map((_, k) => mean(u.filter((_x, i) => now[i] === k)));
    const shift = moved.reduce((s, c, k) => s + apart(c, centres[k]!), 0);
    centres = moved;
    if (now.join() === before.join()) return now;
    if (shift <= (1e-4 * u.reduce((s, x) => s + apart(x, middle), 0)) / (n * q)) break;
    before = now;
  }
  return near(centres);
}
const waysOf = (rows: readonly (readonly number[])[], K: number): string[] | null =>
  clusterings(Float64Array.from(rows.flat()), rows.length, rows[0]!.length, K, 1)?.map((way) => way.join('')) ?? null;

describe('ways to sort rows', () => {
  const on = (from: fc.Arbitrary<number>) =>
    fc
      .record({ n: fc.integer({ min: 3, max: 14 }), q: fc.integer({ min: 1, max: 3 }), K: fc.integer({ min: 1, max: 3 }) })
      .chain(({ n, q, K }) =>
        fc.tuple(fc.array(fc.array(from, { minLength: q, maxLength: q }), { minLength: n, maxLength: n }), fc.constant(K)),
      );

  test('law: rows moved by as little as float32 rounds go one of these ways, ties or not', () => {
    let [several, refused] = [0, 0];
    fc.assert(
      fc.property(
        on(fc.integer({ min: -4, max: 4 })),
        fc.infiniteStream(fc.double({ min: -1, max: 1, noNaN: true })),
        ([rows, K], noise) => {
          const ways = waysOf(rows, K);
          if (ways === null) refused++;
          else {
            if (ways.length > 1) several++;
            const moved = rows.map((x) => x.map((v) => v + 2 ** -24 * Number(noise.next().value)));
            const went = plain(moved, K);
            expect(ways).toContain(went?.join(''));
          }
        },
      ),
      { numRuns: 400 },
    );
    expect(several).toBeGreaterThan(10); // a grid has ties
    expect(refused).toBeLessThan(390);
  });
  test('law: where no row is near a border there is one way, and turning the space does not change it', () => {
    let alone = 0;
    fc.assert(
      fc.property(on(fc.double({ min: -1, max: 1, noNaN: true })), fc.integer({ min: 0, max: 99 }), ([rows, K], seed) => {
        const ways = waysOf(rows, K);
        const q = rows[0]!.length;
        const turn = orthonormal(normals(seed, 16).slice(0, q * q), q, q);
        const turned = product(Float64Array.from(rows.flat()), turn, rows.length, q, q);
        const other = clusterings(turned, rows.length, q, K, 1)?.map((way) => way.join('')) ?? null;
        if (ways?.length === 1) {
          alone++;
          expect(other).toEqual(ways);
          expect(ways[0]).toBe(plain(rows, K)!.join(''));
        }
      }),
      { numRuns: 200 },
    );
    expect(alone).toBeGreaterThan(60);
  });
  test('a row in the middle may go either way, and what comes of it is followed', () => {
    const at = legacyChoice(123456789, 5, 2);
    const others = [0, 1, 2, 3, 4].filter((i) => !at.includes(i));
    const row = (i: number): number => [-1, 1, 0, -0.9, 0.9][[...at, ...others].indexOf(i)]!;
    const ways = waysOf(
      [0, 1, 2, 3, 4].map((i) => [row(i)]),
      2,
    )!;
    expect(ways.map((w) => w[others[0]!]).toSorted()).toEqual(['0', '1']);
  });
  test('rows that are all equally far apart, and numbers without meaning, leave too many', () => {
    const square = Array.from({ length: 12 }, (_, i) => Array.from({ length: 12 }, (_c, c) => (i === c ? 1 : 0)));
    expect(waysOf(square, 3)).toBe(null);
    expect(clusterings(Float64Array.of(1, 2, 3, 4), 4, 1, 2, Number.POSITIVE_INFINITY)).toBe(null);
  });
});

let root = '';
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), 'tinypeft-adamss-'));
});
afterAll(() => rm(root, { recursive: true }));
let count = 0;
const fresh = (): string => join(root, String(count++));
const CONFIG = { peft_type: 'ADAMSS', task_type: 'CAUSAL_LM', target_modules: ['layers.0.self_attn.v_proj'], inference_mode: true };
const AT = 'base_model.model.model.layers.0.self_attn.v_proj.adamss_';
async function files(config: object, weights: ReadonlyMap<string, Writable>): Promise<string> {
  const folder = await mkdtemp(join(root, 'f-'));
  await writeFile(join(folder, CONFIG_FILE), JSON.stringify({ ...CONFIG, ...config }));
  await writeSafetensors(join(folder, WEIGHTS_FILE), weights);
  return folder;
}
/** The network with another weight there. */
function withWeight(model: Model, path: string, data: Float32Array): Model {
  const old = [...tensors(model)].find((t) => t.path === `${path}.weight`)!.tensor;
  return mapTensors(model, (t) => (t === old ? leaf(data, t.shape) : t));
}

describe('files', () => {
  const options = { directions: 4, subspaces: 3, rank: 2, where: V };
  const of = async (change: (weights: Map<string, Writable>) => void, config: object = {}): Promise<string> => {
    const folder = fresh();
    await savePeft((await adamssAsPeft(base, options, engine))(base), folder);
    const weights = new Map<string, Writable>((await readSafetensors(join(folder, WEIGHTS_FILE))).tensors);
    change(weights);
    return files({ r: 4, num_subspaces: 3, subspace_rank: 2, ...config }, weights);
  };
  test.each<[string, (w: Map<string, Writable>) => void, object, RegExp]>([
    [
      'another seed, as on a GPU',
      () => {},
      { random_seed: 1 },
      /adamss_newB is not what this weight gives with random_seed 1 on a CPU.*merge_and_unload/,
    ],
    [
      'another number of clusters',
      () => {},
      { num_subspaces: 2 },
      /its clusters have .* outputs, and made again \d+, \d+: another version/,
    ],
    [
      'other sizes',
      (w) => {
        const [a, b] = [w.get(`${AT}B.0`)!, w.get(`${AT}B.2`)!];
        w.set(`${AT}B.0`, b).set(`${AT}B.2`, a);
      },
      {},
      /made again/,
    ],
    ['a projection of zeros', (w) => w.set(`${AT}newB`, { data: new Float32Array(64), shape: [4, 16] }), {}, /adamss_newB is not/],
    ['a projection of another shape', (w) => w.set(`${AT}newB`, { data: new Float32Array(64), shape: [64] }), {}, /adamss_newB is not/],
    ['a factor of another shape', (w) => w.set(`${AT}A.1`, { data: new Float32Array(8), shape: [8] }), {}, /adamss_A.1 is/],
    ['a layer that is too small', () => {}, { r: 1 }, /1 directions of a weight of 8 × 16 start from fewer than 16 random numbers/],
    ['no clusters', (w) => [0, 1, 2].map((k) => w.delete(`${AT}B.${k}`)), {}, /made again/],
  ])('%s is refused', async (_, change, config, message) => {
    const folder = await of(change, config);
    await expect(loadPeft(base, folder)).rejects.toThrow(message);
  });
  test('as many directions as outputs are refused on both sides', async () => {
    const all = { directions: 8, subspaces: 2, where: V };
    await expect(adamssAsPeft(base, all, engine)).rejects.toThrow(/at trunk.blocks.0.attn.v some outputs are as near.*where/);
    const whole = (await adamss(all).prepare(base, { engine }))(base);
    await expect(savePeft(whole, fresh())).rejects.toThrow(/float32 rounding says where they belong/);
  });
  test('16-bit numbers of the projection are enough; the adapter of another base is not read', async () => {
    const folder = await of((w) => {
      const t = w.get(`${AT}newB`)!;
      w.set(`${AT}newB`, { ...t, dtype: 'BF16' });
    });
    expect((await loadPeft(base, folder)).sites).toEqual([V]);
    const w = [...tensors(base)].find((t) => t.path === `${V}.weight`)!.tensor;
    const other = normals(3, w.shape[0]! * w.shape[1]!);
    await expect(loadPeft(withWeight(base, V, other), folder)).rejects.toThrow(/another base model/);
  });
  test('our own clusters are refused for a file, and so are those of another seed without like; finished they are written', async () => {
    const own = (await adamss(options).prepare(base, { engine }))(base);
    await expect(savePeft(own, fresh())).rejects.toThrow(/is not what PEFT draws with random_seed 0.*adamssAsPeft/);
    const loaded = await loadPeft(networks.bert.base, join(FILES, 'adamss-seed-bert'));
    await expect(savePeft(loaded.model, fresh(), { task: 'SEQ_CLS' })).rejects.toThrow(/pass like: loaded.files/);
    expect((await savePeft(loaded.model, fresh(), { like: loaded.files })).peftType).toBe('ADAMSS');
  });
  test('what is trained is where a file says; a budget is read and goes on', async () => {
    const { model } = await loadPeft(base, join(FILES, 'adamss-budget-llama'));
    const names = [...tensors(model)]
      .filter(({ path }) => path.includes('.adamss.'))
      .map(({ path }) => path.split('.adamss.')[1]!.split('.')[0]);
    expect(new Set(names)).toEqual(new Set(['A', 'B', 'V', 'place', 'average', 'spread', 'on']));
  });

  describe('outputs that lie between two clusters', () => {
    // rank 1: the outputs stand on a line, at ±1 where the first centres are, and two at 0
    const at = legacyChoice(123456789, 16, 2);
    const order = [...at, ...Array.from({ length: 16 }, (_, i) => i).filter((i) => !at.includes(i))];
    const values = [-1, 1, 0, 0, ...[0.75, 0.5, 0.625, 0.875, 0.9375, 0.5625].flatMap((v) => [-v, v])];
    const along = order.map((_, i) => values[order.indexOf(i)]!);
    const direction = Array.from({ length: 16 }, (_, i) => i - 5);
    const length = Math.hypot(...direction);
    const line = withWeight(base, 'trunk.blocks.0.attn.q', Float32Array.from(along.flatMap((x) => direction.map((d) => x * d))));
    const q = AT.replace('v_proj', 'q_proj');
    const read = async (first: number): Promise<string> =>
      files(
        { r: 1, num_subspaces: 2, target_modules: ['layers.0.self_attn.q_proj'] },
        new Map<string, Writable>([
          [`${q}newB`, { data: Float32Array.from(direction, (d) => d / length), shape: [1, 16] }],
          ...[first, 16 - first].flatMap((n, k): [string, Writable][] => [
            [`${q}A.${k}`, { data: Float32Array.of(1), shape: [1, 1] }],
            [`${q}B.${k}`, { data: new Float32Array(n).fill(k + 1), shape: [n, 1] }],
          ]),
        ]),
      );
    test.each([9, 7])('the sizes say which: %d in the first', async (n) => {
      const { model, files: like } = await loadPeft(line, await read(n));
      const place = [...tensors(model)].find(({ path }) => path.endsWith('.adamss.place'))!.tensor;
      const first = Array.from(await engine.read(place)).flatMap((p, o) => (p < n ? [o] : []));
      expect(first).toEqual(along.flatMap((x, o) => (x < 0 || (x === 0 && n === 9) ? [o] : [])));
      expect((await savePeft(model, fresh(), { like })).keys.length).toBe(5);
    });
    test('where sizes leave two ways, it is refused; for a new file there is nobody to ask', async () => {
      const folder = await read(8);
      await expect(loadPeft(line, folder)).rejects.toThrow(/as near to one cluster as to another/);
      await expect(adamssAsPeft(line, { directions: 1, subspaces: 2, where: 'trunk.blocks.0.attn.q' }, engine)).rejects.toThrow(
        /Leave these layers out/,
      );
    });
  });
});
