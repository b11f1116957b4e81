// Laws of the schedule: fusing and merging change nothing, values live as long as they are read, equal structures are compiled once.
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { float64 } from '../../core/engines/float64.ts';
import { gpujsEngine } from '../../core/engines/gpujs.ts';
import { grad } from '../../core/grad.ts';
import { defineOp } from '../../core/op.ts';
import { softmax } from '../../core/ops/fused.ts';
import { add, exp, gelu, mul, neg, sigmoid, tanh } from '../../core/ops/map.ts';
import { matmul } from '../../core/ops/matmul.ts';
import { concat, slice } from '../../core/ops/move.ts';
import { logsumexp, sum } from '../../core/ops/reduce.ts';
import { compile, lru, structure } from '../../core/plan.ts';
import { type Rng, rng } from '../../core/rng.ts';
import { type Schedule, schedule } from '../../core/schedule.ts';
import { named } from '../../core/scope.ts';
import { type Shape, size } from '../../core/shape.ts';
import { deviceStore } from '../../core/store.ts';
import { input, leaf, param, paramOf, type Tensor } from '../../core/tensor.ts';
import { seeds } from './arbitraries.ts';
import { largest } from './naive.ts';

const random = (seed: number, shape: Shape): Tensor => leaf(Float64Array.from(rng(seed).normal(size(shape), 0.7)), shape);
const close = (got: ArrayLike<number>, want: ArrayLike<number>, tolerance = 1e-12): void => {
  expect(got.length).toBe(want.length);
  const limit = tolerance * Math.max(1, largest(want));
  for (let k = 0; k < want.length; k++)
    if (!(Math.abs(got[k]! - want[k]!) <= limit)) expect.fail(`[${k}]: got ${got[k]}, want ${want[k]} within ${limit}`);
};

/** A random graph on [3, 4] tensors: maps, broadcasts, reductions, products, views, shared subexpressions, gradients. */
function randomGraph(r: Rng): Tensor[] {
  const ts: Tensor[] = [random(r.below(99), [3, 4]), random(r.below(99), [1, 4]), random(r.below(99), [3, 1]), random(r.below(99), [3, 4])];
  const any = (): Tensor => ts[r.below(ts.length)]!;
  const full = (): Tensor => add(any(), leaf(new Float64Array(12), [3, 4]));
  const makers: readonly (() => Tensor)[] = [
    () => add(any(), any()),
    () => mul(tanh(any()), any()),
    () => neg(sigmoid(any())),
    () => any().mul(0.5).add(1),
    () => sum(any(), [1], true),
    () => sum(any(), [0], true),
    () => softmax(full()),
    () => matmul(full(), matmul(full().T, full())).mul(0.05),
    () => tanh(full().reshape(2, 6)).reshape(3, 4),
    () => exp(full().reshape(12).reshape(3, 4).mul(0.1)),
    () => concat([slice(full(), 0, 1), slice(full(), 0, 0, 1)], 0),
    () => grad(sum(tanh(mul(full(), any()))), [any()])[0]!,
  ];
  for (let k = 0; k < 14; k++) ts.push(makers[r.below(makers.length)]!());
  return ts;
}
const graphs = seeds.map((seed) => ({ seed, nodes: randomGraph(rng(seed)) }));

/** Replays a schedule on paper: reads only what is alive, frees once, keeps roots. */
function liveness(s: Schedule): void {
  const alive = new Set<number>();
  const freed = new Set<number>();
  for (const [k, step] of s.steps.entries()) {
    for (const a of step.args) if (a.kind === 'step') expect(alive.has(a.index), `step ${k} reads ${a.index}`).toBe(true);
    alive.add(k);
    for (const f of step.free) {
      expect(alive.delete(f), `step ${k} frees ${f}, which is not alive`).toBe(true);
      expect(freed.has(f)).toBe(false);
      freed.add(f);
    }
  }
  const roots = new Set(s.roots.flatMap((r) => (r.kind === 'step' ? [r.index] : [])));
  expect(alive).toEqual(roots); // nothing else outlives the run
}

describe('fusing and merging', () => {
  it('changes no value: one plan of the last nodes = every node stored = each node alone', () =>
    fc.assert(
      fc.asyncProperty(graphs, async ({ nodes }) => {
        const engine = float64();
        const run = async (ts: readonly Tensor[]) => {
          const store = engine.store();
          return (await engine.compile(store, { outputs: Object.fromEntries(ts.map((t, k) => [`t${k}`, t])) })).run();
        };
        const last = nodes.slice(-3);
        const fused = await run(last);
        const stored = await run(nodes);
        for (const [k, t] of last.entries()) {
          close(fused[`t${k}`]!, stored[`t${nodes.length - 3 + k}`]!);
          close(fused[`t${k}`]!, await engine.read(t));
        }
      }),
      { numRuns: 30 },
    ));

  it('reads at most seven tables per kernel, frees each value once and after its last reader', () =>
    fc.assert(
      fc.property(graphs, fc.boolean(), ({ nodes }, all) => {
        const s = schedule(all ? nodes : nodes.slice(-3));
        for (const st of s.steps) expect(new Set(st.args.map((a) => `${a.kind} ${a.index}`)).size).toBeLessThanOrEqual(7);
        for (const st of s.steps) expect(st.args.length).toBeLessThanOrEqual(7);
        liveness(s);
      }),
      { numRuns: 60 },
    ));

  it('splits a sum of twenty tensors into kernels of seven reads and fewer', async () => {
    const parts = Array.from({ length: 20 }, (_, k) => random(k, [5]));
    const left = parts.reduce((a, b) => add(a, b));
    const pairs = (ts: readonly Tensor[]): Tensor =>
      ts.length === 1
        ? ts[0]!
        : pairs(
            Array.from({ length: Math.ceil(ts.length / 2) }, (_, k) =>
              ts[2 * k + 1] === undefined ? ts[2 * k]! : add(ts[2 * k]!, ts[2 * k + 1]!),
            ),
          );
    for (const y of [left, pairs(parts)]) {
      const s = schedule([y]);
      for (const st of s.steps) expect(st.args.length).toBeLessThanOrEqual(7);
      expect(s.steps.length).toBeLessThanOrEqual(6);
    }
    close(await float64().read(left), await float64().read(pairs(parts)));
  });

  it('makes one kernel of a chain of maps, one of two equal subexpressions, none of a view', () => {
    const x = random(1, [4, 6]);
    expect(schedule([gelu(x.mul(2).add(1)).neg()]).steps.map((s) => s.kernel.name)).toEqual(['mul+add+gelu+neg']);
    expect(schedule([sum(exp(x), [0]), sum(exp(x), [0])]).steps.length).toBe(2); // exp, sum
    expect(schedule([x.reshape(2, 2, 6)]).steps.length).toBe(0);
    // A small value stretched over a large one is computed once, not once per element of the large one.
    expect(schedule([x.add(exp(random(2, [6])))]).steps.map((s) => s.kernel.name)).toEqual(['exp', 'add']);
  });

  it('cuts very long chains', async () => {
    const y = Array.from({ length: 500 }).reduce<Tensor>((t) => t.mul(1.001), random(1, [2]));
    const s = schedule([y]);
    expect(s.steps.length).toBeGreaterThan(1);
    expect(Math.max(...s.steps.map((st) => st.kernel.text.split('\n').length))).toBeLessThan(200);
    close(
      await float64().read(y),
      Array.from(rng(1).normal(2, 0.7), (v) => v * 1.001 ** 500),
    );
  });

  it('keeps ops of one name apart when they are two ops', async () => {
    const make = (factor: number) =>
      defineOp<'x'>({
        name: 'scaled',
        inputs: ['x'],
        shape: ({ x }) => x,
        kernel: { kind: 'map', expr: `x * ${factor}.0` },
        vjp: ({ dy }) => ({ x: () => dy }),
      });
    const [twice, thrice] = [make(2), make(3)];
    const x = random(1, [3]);
    const engine = float64();
    close(await engine.read(twice({ x }, null)), await engine.read(x.mul(2)));
    close(await engine.read(thrice({ x }, null)), await engine.read(x.mul(3))); // not the cached plan of the first
    close(await engine.read(twice({ x }, null).add(thrice({ x }, null))), await engine.read(x.mul(5)));
  });
});

describe('structure and cache', () => {
  const net = (seed: number, factor = 2): Tensor => {
    const w = param(rng(seed).normal(12), [4, 3]);
    return sum(tanh(matmul(random(seed, [2, 4]), w)).mul(factor));
  };
  it('is equal for equal graphs over other weights, different for other attributes, shapes, wiring, inputs and places', () => {
    const key = (t: Tensor): string => structure([t]).key;
    expect(key(net(1))).toBe(key(net(2)));
    expect(key(net(1))).not.toBe(key(net(1, 3)));
    const [x, y, z] = [random(1, [4, 6]), random(2, [4, 6]), random(3, [6, 4])];
    const all = [
      add(x, y),
      add(x, x),
      add(x, leaf([1, 2, 3, 4, 5, 6], [6])),
      mul(x, y),
      sum(x, [0]),
      sum(x, [1]),
      sum(z, [0]),
      add(x, input('a', [4, 6])),
      add(x, input('b', [4, 6])),
      add(x, input('a', [4, 6], { dist: 'uniform' })),
      add(x, param(new Float32Array(24), [4, 6])),
      named('layer', () => add(x, y)),
      x.reshape(2, 2, 6).sum([0]),
      x.reshape(4, 1, 6).sum([0]),
    ].map(key);
    expect(new Set(all).size).toBe(all.length);
  });

  it('compiles no kernel for an equal structure, and reads the new weights', async () => {
    const engine = float64();
    await engine.read(net(1));
    const before = engine.stats;
    const got = await engine.item(net(2));
    expect(engine.stats.kernelsCompiled).toBe(before.kernelsCompiled);
    expect(engine.stats.plansCompiled).toBe(before.plansCompiled);
    expect(engine.stats.plansReused).toBe(before.plansReused + 1);
    close([got], [await float64().item(net(2))]);
  });

  it('tells shared leaves from separate ones: a cached plan must not read one of two leaves twice', async () => {
    const engine = float64();
    const data = Float64Array.of(1, 2);
    const same = [leaf(data, [2]), leaf(data, [2])] as const;
    close(await engine.read(add(same[0], mul(same[1], 10))), [11, 22]);
    const other = [leaf([1, 2], [2]), leaf([3, 4], [2])] as const;
    close(await engine.read(add(other[0], mul(other[1], 10))), [31, 42]);
  });

  it('uploads a leaf once for all plans', async () => {
    const engine = float64();
    const x = random(1, [3]);
    for (const t of [exp(x), tanh(x), exp(x), sum(x)]) await engine.read(t);
    expect(engine.stats.leavesUploaded).toBe(1);
  });

  it('lets the least recently used entry go first', () => {
    const cache = lru<object>(2);
    const entry = {} as never;
    cache.set('a', entry);
    cache.set('b', entry);
    cache.get('a');
    cache.set('c', entry);
    expect([cache.get('a'), cache.get('b'), cache.get('c')].map((e) => e !== undefined)).toEqual([true, false, true]);
    expect(cache.size).toBe(2);
  });

  it('keeps at most 32 plans: the first of 40 is compiled again, the last is not', async () => {
    const engine = float64();
    const plan = (k: number) => engine.compile(engine.store(), { outputs: { y: random(1, [k + 1]).mul(2) } });
    for (let k = 0; k < 40; k++) await plan(k);
    const before = engine.stats;
    await plan(39);
    expect(engine.stats.plansCompiled).toBe(before.plansCompiled);
    await plan(0);
    expect(engine.stats.plansCompiled).toBe(before.plansCompiled + 1);
  });
});

describe('state', () => {
  it('k steps of one plan = k single steps from what each left behind; the rejected step changes nothing', async () => {
    const engine = float64();
    const w = param(Float64Array.of(1, -2), [2]);
    const p = paramOf(w)!;
    const loss = sum(w.mul(w)).mul(input('scale', []));
    const program = { outputs: { loss }, next: new Map([[p, w.sub(grad(loss, [w])[0]!.mul(0.1))]]), guard: 'loss' as const };
    const a = engine.store();
    const plan = await engine.compile(a, program);
    for (let k = 0; k < 3; k++) await plan.run({ scale: 1 });
    close((await a.read([p])).get(p)!, [0.8 ** 3, -2 * 0.8 ** 3]);
    await plan.run({ scale: Number.NaN });
    close((await a.read([p])).get(p)!, [0.8 ** 3, -2 * 0.8 ** 3]);
    const b = engine.store();
    for (let k = 0; k < 3; k++) await (await engine.compile(b, program)).run({ scale: 1 });
    expect([...(await b.read([p])).get(p)!]).toEqual([...(await a.read([p])).get(p)!]);
  });

  it('follows the order of steps that were not awaited one by one', async () => {
    const engine = float64();
    const n = param([0], []);
    const p = paramOf(n)!;
    const store = engine.store();
    const plan = await engine.compile(store, { outputs: { n }, next: new Map([[p, n.add(1)]]) });
    const seen = await Promise.all(Array.from({ length: 5 }, () => plan.run()));
    expect(seen.map((s) => s.n[0])).toEqual([0, 1, 2, 3, 4]);
    expect((await store.read([p])).get(p)![0]).toBe(5);
  });

  it('gives equal new values of two parameters a table each', () => {
    const [a, b] = [param([1, 2], [2]), param([3, 4], [2])];
    const x = random(1, [2]);
    const next = [a, b].map((t) => [paramOf(t)!, exp(x)] as const); // merged into one value
    return nextTables(next).then((tables) => expect(new Set(tables).size).toBe(2));
  });

  it('hands out copies: writing into a result changes neither a leaf nor a parameter', async () => {
    const engine = float64();
    const x = random(1, [2]);
    const first = await engine.read(x);
    const was = [...first];
    first.fill(7);
    expect([...(await engine.read(x))]).toEqual(was);
    const w = param([1, 2], [2]);
    const store = engine.store();
    const values = (await store.read([paramOf(w)!])).get(paramOf(w)!)!;
    values.fill(9);
    expect([...(await store.read([paramOf(w)!])).get(paramOf(w)!)!]).toEqual([1, 2]);
  });

  it('overlapping reads do not disturb each other', async () => {
    const engine = float64();
    const ts = Array.from({ length: 8 }, (_, k) => param([k, k + 1], [2]).mul(2));
    const got = await Promise.all(ts.map((t) => engine.read(t)));
    expect(got.map((v) => [...v])).toEqual(ts.map((_, k) => [2 * k, 2 * k + 2]));
  });
});

/** The roots that a program's `next` values end in. */
async function nextTables(next: readonly (readonly [NonNullable<ReturnType<typeof paramOf>>, Tensor])[]): Promise<unknown[]> {
  const put: unknown[] = [];
  const device = {
    upload: async () => ({}),
    uploadBytes: async () => ({}),
    download: async () => new Float32Array(2),
    free: () => {},
    prepare: async (s: Schedule) => ({
      executor: 'paper',
      fallback: null,
      run: async () => {
        const made = s.steps.map((_, k) => ({ k }));
        return s.roots.map((r) => made[r.index]!);
      },
    }),
  };
  const store = deviceStore<object>(device, () => {});
  const spy = { ...store, put: (_: unknown, h: object) => void put.push(h) };
  const plan = await compile<object, string>(device, spy, async () => ({}), lru<object>(1), { outputs: {}, next: new Map(next) });
  await plan.run();
  return put;
}

describe('long sums', () => {
  const lengths = [1024, 1025, 1031, 4096, 4099, 2 * 2003, 10_000];
  it.each(lengths)('of %i terms agree on every axis, no kernel adding more than 1024', async (n) => {
    const data = Float64Array.from(rng(n).normal(2 * n));
    const engine = float64();
    const want = [0, 1].map((r) => data.subarray(r * n, (r + 1) * n).reduce((a, b) => a + b, 0));
    const rows = leaf(data, [2, n]);
    const columns = leaf(
      Float64Array.from({ length: 2 * n }, (_, k) => data[(k % 2) * n + Math.floor(k / 2)]!),
      [n, 2],
    );
    for (const y of [sum(rows, [1]), sum(columns, [0])]) {
      close(await engine.read(y), want, 1e-11);
      for (const s of schedule([y]).steps)
        for (const [, k] of s.kernel.text.matchAll(/< (\d+); k/g)) expect(Number(k)).toBeLessThanOrEqual(1024);
    }
    close([await engine.item(sum(rows))], [want[0]! + want[1]!], 1e-11);
    const [d] = grad(sum(rows.mul(rows)), [rows]);
    close(
      await engine.read(d!),
      data.map((v) => 2 * v),
    );
  });
  it.each([256, 257, 512, 50_000])('logsumexp of %i terms, in pieces, keeps its digits in float32', async (n) => {
    const data = rng(n).normal(2 * n);
    const want = [0, 1].map((r) => Math.log(Array.from(data.subarray(r * n, (r + 1) * n), (v) => Math.exp(v)).reduce((a, b) => a + b, 0)));
    const x = leaf(data, [2, n]);
    close(await float64().read(logsumexp(x, [1])), want, 1e-12);
    close(await float64().read(logsumexp(x.T, [0])), want, 1e-12);
    const cpu = await gpujsEngine({ mode: 'cpu' });
    close(await cpu.read(logsumexp(x, [1])), want, 2e-7);
    await cpu.close();
  });
});
