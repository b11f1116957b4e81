// Traps a user steps into, each with the sentence that gets him out: the message says what, where, what was expected.
import { inspect } from 'node:util';
import { describe, expect, it } from 'vitest';
import { float64 } from '../core/engines/float64.ts';
import { checkpoint, grad } from '../core/grad.ts';
import { defineOp } from '../core/op.ts';
import { openEngine } from '../core/open.ts';
import { attention, crossEntropy, layerNorm, nll, ropeAngles } from '../core/ops/fused.ts';
import { gather, takeAlong } from '../core/ops/index.ts';
import { add, constant, exp, full, log, mul } from '../core/ops/map.ts';
import { matmul } from '../core/ops/matmul.ts';
import { broadcastTo, concat, pad, permute, reshape, slice, split, stack } from '../core/ops/move.ts';
import { argmax, sum } from '../core/ops/reduce.ts';
import { named } from '../core/scope.ts';
import { type Shape, ShapeError, size } from '../core/shape.ts';
import { input, leaf, param, paramOf, type Tensor } from '../core/tensor.ts';

const engine = float64();
const zeros = (...shape: Shape): Tensor => leaf(new Float32Array(size(shape)), shape);
const inLayer = <T>(f: () => T): T => named('blocks', () => named('1', () => named('mlp', f)));
/** The message of what `f` throws. */
const says = (f: () => unknown): string => {
  try {
    f();
  } catch (e) {
    return e instanceof Error ? e.message : String(e);
  }
  return 'nothing was thrown';
};
const rejects = async (p: Promise<unknown>): Promise<string> =>
  p.then(
    () => 'nothing was thrown',
    (e: unknown) => (e instanceof Error ? e.message : String(e)),
  );
const plan = (y: Tensor) => engine.compile(engine.store(), { outputs: { y } });

describe('printing a tensor', () => {
  const t = inLayer(() => exp(zeros(2, 3)));
  const line = 'Tensor [2, 3] exp in blocks.1.mlp, not computed yet: await engine.read(t)';
  it('shows one line, never the graph', () => {
    expect(String(t)).toBe(line);
    expect(inspect(t)).toBe(line);
    expect(inspect({ t })).toContain(line);
    expect(JSON.stringify({ t })).toBe(JSON.stringify({ t: line }));
  });
  it('shows where an input or a parameter comes from', () => {
    expect(String(input('ids', [4]))).toBe('Tensor [4] input ids at the top level, not computed yet: await engine.read(t)');
    expect(String(param([1], []))).toContain('Tensor [] state');
  });
});

describe('shapes that do not fit', () => {
  const cases: readonly (readonly [string, () => unknown, string])[] = [
    [
      'matmul',
      () => matmul(zeros(2, 3), zeros(4, 5)),
      'matmul: the inner dimensions differ: [2, 3] × [4, 5] would pair 3 with 4\n  op matmul(a: [2, 3], b: [4, 5]) in blocks.1.mlp',
    ],
    [
      'a vector in matmul',
      () => matmul(zeros(3), zeros(3, 2)),
      'matmul: both operands need two dimensions or more, got [3] and [3, 2]\n  op matmul(a: [3], b: [3, 2]) in blocks.1.mlp',
    ],
    [
      'add',
      () => add(zeros(2, 3), zeros(2, 4)),
      'add: [2, 3] and [2, 4] do not broadcast: 3 and 4 differ at dimension -1 and neither is 1\n  op add(a: [2, 3], b: [2, 4]) in blocks.1.mlp',
    ],
    ['T on a vector', () => zeros(3).T, 'T: a tensor of shape [3] has no two dimensions to swap (in blocks.1.mlp)'],
    ['reshape', () => reshape(zeros(2, 3), [4, 2]), 'reshape: [2, 3] has 6 elements, [4, 2] would need 8 (in blocks.1.mlp)'],
    [
      'reshape with an open dimension',
      () => reshape(zeros(2, 3), [4, -1]),
      'reshape: every dimension of [4, 1.5] must be a positive integer (in blocks.1.mlp)',
    ],
    ['permute', () => permute(zeros(2, 3), [0, 0]), 'permute: [0, 0] is not an order of the 2 dimensions of [2, 3] (in blocks.1.mlp)'],
    ['slice', () => slice(zeros(2, 3), 1, 2, 5), 'slice: 2…5 is not a non-empty part of axis 1 of [2, 3] (in blocks.1.mlp)'],
    [
      'slice between elements',
      () => slice(zeros(2, 3), 1, 0.5, 1.5),
      'slice: 0.5…1.5 is not a non-empty part of axis 1 of [2, 3] (in blocks.1.mlp)',
    ],
    ['an axis', () => sum(zeros(2, 3), [2]), 'sum: axis 2 is outside a tensor of 2 dimensions (use -2…1) (in blocks.1.mlp)'],
    [
      'pad',
      () => pad(zeros(2), 0, -1, 0),
      'pad: -1 and 0 must be whole numbers, 0 or more; use slice to take elements away (in blocks.1.mlp)',
    ],
    [
      'concat',
      () => concat([zeros(2, 3), zeros(3, 3)], 1),
      'concat: [2, 3] and [3, 3] differ outside axis 1\n  op concat(a: [2, 3], b: [3, 3]) in blocks.1.mlp',
    ],
    ['concat of nothing', () => concat([], 0), 'concat: no tensors given; it needs one or more (in blocks.1.mlp)'],
    ['stack', () => stack([zeros(2)], 2), 'stack: axis 2 is outside a tensor of 2 dimensions (use -2…1) (in blocks.1.mlp)'],
    ['split', () => split(zeros(2, 5), 2, 1), 'split: axis 1 of [2, 5] does not divide into 2 parts (in blocks.1.mlp)'],
    [
      'broadcastTo',
      () => broadcastTo(zeros(2, 3), [3]),
      'broadcastTo: [2, 3] does not stretch to [3]\n  op broadcast(x: [2, 3]) in blocks.1.mlp',
    ],
    [
      'layerNorm',
      () => layerNorm(zeros(2, 3), zeros(2), zeros(3)),
      'layerNorm: the gain must be [3], got [2]\n  op layerNorm(x: [2, 3], g: [2], b: [3]) in blocks.1.mlp',
    ],
    [
      'a table of one dimension',
      () => gather(zeros(3), zeros(2)),
      'gather: the table must be [rows, width], got [3]\n  op gather(table: [3], ids: [2]) in blocks.1.mlp',
    ],
    [
      'takeAlong',
      () => takeAlong(zeros(2, 3), zeros(3, 1)),
      'takeAlong: [3, 1] and [2, 3] differ before the last dimension\n  op takeAlong(x: [2, 3], index: [3, 1]) in blocks.1.mlp',
    ],
    [
      'targets',
      () => crossEntropy(zeros(2, 3, 5), zeros(2)),
      'crossEntropy: logits [2, 3, 5] need one target each for [2, 3], got [2]\n  op nll(x: [2, 3, 5], target: [2]) in blocks.1.mlp',
    ],
    ['rope', () => ropeAngles(zeros(3), 5), 'rope: the head width 5 must be even (in blocks.1.mlp)'],
  ];
  it.each(cases)('%s: op, shapes, layer', (_, f, message) => {
    expect(says(() => inLayer(f))).toBe(message);
    expect(() => inLayer(f)).toThrow(ShapeError);
  });

  const q = zeros(2, 4, 3, 8);
  it('attention checks heads, widths, batch and bias when it is written, not when it runs', () => {
    expect(says(() => attention(q, zeros(2, 3, 3, 8), zeros(2, 3, 3, 8)))).toContain('4 query heads do not divide among 3 key heads');
    expect(says(() => attention(q, zeros(2, 4, 3, 6), zeros(2, 4, 3, 8)))).toContain('D must agree for q and k');
    expect(says(() => attention(q, zeros(1, 4, 3, 8), zeros(1, 4, 3, 8)))).toContain(
      'k [1, 4, 3, 8] and q [2, 4, 3, 8] must have the same batch size',
    );
    expect(says(() => attention(q, q, q, { bias: zeros(5, 2, 4, 3, 3) }))).toContain(
      'the bias [5, 2, 4, 3, 3] does not broadcast to the scores [2, 4, 3, 3]',
    );
    expect(says(() => attention(zeros(4, 3, 8), q, q))).toContain('q, k and v must be [B, H, T, D], got [4, 3, 8]');
  });
});

describe('impossible tensors', () => {
  it('zero, negative and fractional dimensions', () => {
    for (const s of [[0], [2, -1], [1.5]] as const)
      expect(says(() => input('x', s))).toBe(`input x: every dimension of [${s.join(', ')}] must be a positive integer`);
  });
  it('numbers that do not fill the shape', () => {
    expect(says(() => leaf([1, 2, 3], [2, 2]))).toBe('leaf: 3 numbers cannot have shape [2, 2], which needs 4');
  });
  it('sides of 2^24 and more, which gpu.js could not index', () => {
    const message = 'a table of 1 × 16777216; both sides must stay below 2^24. Split it, or reshape so that neither side is that long';
    expect(says(() => input('x', [2 ** 24]))).toContain(message);
    expect(says(() => broadcastTo(zeros(1), [2 ** 24]))).toContain(message);
    expect(says(() => input('x', [2 ** 12, 2 ** 12, 4]))).toContain('16777216 × 4');
    expect(input('x', [2 ** 12, 2 ** 12 - 1, 4]).shape).toEqual([4096, 4095, 4]);
  });
  it('NaN and infinities as constants', () => {
    for (const f of [() => constant(Number.NaN), () => full([2], Number.NaN), () => mul(zeros(2), Number.NaN)])
      expect(says(() => inLayer(f))).toBe(
        'a kernel cannot hold NaN (in blocks.1.mlp): gpu.js has no NaN and no infinities; use ±1e9 to mask, or feed it',
      );
    expect(says(() => zeros(2).add(-Infinity))).toContain('a kernel cannot hold -Infinity (at the top level)');
  });
  it('argmax of a scalar', () => {
    expect(says(() => argmax(zeros()))).toContain('axis -1 is outside a tensor of 0 dimensions');
  });
});

describe('gradients', () => {
  it('of something that is not one number', () => {
    expect(says(() => grad(zeros(2, 3), []))).toBe(
      'grad: the loss must be one number, got [2, 3]; take its mean or sum, or use pullback(y, dy, wrt)',
    );
  });
  it('of an op with neither a derivative nor a composition', () => {
    const op = defineOp<'x'>({ name: 'opaque', inputs: ['x'], shape: ({ x }) => x, kernel: { kind: 'map', expr: 'x' } });
    const x = zeros(2);
    expect(says(() => grad(sum(op({ x }, null)), [x]))).toBe('op opaque has neither a vjp nor a composition');
  });
  it('through a checkpoint that closes over a parameter: not lost', async () => {
    const w = param([3], []);
    const [d] = grad(
      checkpoint((x) => x!.mul(w), constant(2)),
      [w],
    );
    expect(await engine.item(d!)).toBe(2);
  });
});

describe('feeding', () => {
  const x = input('x', [2, 2]);
  it('missing', async () => {
    expect(await rejects(engine.read(exp(x)))).toBe('plan: input x [2, 2] was not fed');
  });
  it('of the wrong size', async () => {
    expect(await rejects(engine.read(exp(x), { x: [1, 2, 3] }))).toBe('plan: input x has shape [2, 2] and needs 4 numbers, got 3');
  });
  it('too much', async () => {
    expect(await rejects(engine.read(exp(x), { x: [1, 2, 3, 4], y: 1 }))).toBe('plan: fed y, which this plan does not read; it reads x');
    expect(await rejects(engine.read(zeros(1), { y: 1 }))).toBe('plan: fed y, which this plan does not read; it reads nothing');
  });
  it('one name with two shapes, or two ways to fill it', async () => {
    expect(await rejects(engine.read(add(input('m', [2]), input('m', [1]))))).toBe(
      'input m is used with two shapes, [2] and [1]; give the inputs different names',
    );
    expect(await rejects(engine.read(add(input('m', [2]), input('m', [2], { dist: 'uniform' }))))).toBe(
      'input m is used with two ways to fill it; give the inputs different names',
    );
  });
  it('an id outside the table, naming the layer', async () => {
    const y = named('embed', () => gather(zeros(5, 2), input('ids', [3])));
    const p = await plan(y);
    expect(await rejects(p.run({ ids: [0, 5, 1] }))).toBe('plan: input ids[1] is 5, but gather in embed needs whole numbers from 0 to 4');
    expect(await rejects(p.run({ ids: [0, -1, 1] }))).toContain('input ids[1] is -1');
    expect(await rejects(p.run({ ids: [0, 0.5, 1] }))).toContain('input ids[1] is 0.5');
    expect((await p.run({ ids: [0, 4, 1] })).y.length).toBe(6);
  });
  it('a frozen id outside the table, also when the plan is cached', async () => {
    const pick = (id: number): Tensor => named('embed', () => gather(zeros(5, 2), leaf([id], [1])));
    await engine.read(pick(4));
    expect(await rejects(engine.read(pick(7)))).toBe('plan: a leaf[0] is 7, but gather in embed needs whole numbers from 0 to 4');
  });
  it('a target outside the vocabulary, naming the layer', async () => {
    const y = named('loss', () => nll(zeros(2, 4), input('targets', [2])));
    expect(await rejects(engine.read(y, { targets: [3, 4] }))).toBe(
      'plan: input targets[1] is 4, but nll in loss needs whole numbers from -100 to 3',
    );
    expect((await engine.read(y, { targets: [-100, 3] }))[0]).toBe(0);
  });
});

describe('engines and plans', () => {
  it('reading one number of many', async () => {
    expect(await rejects(engine.item(zeros(2)))).toBe('item: [2] is not one number; use read, or take a mean');
  });
  it('a store of another engine', async () => {
    expect(await rejects(engine.compile(float64().store(), { outputs: { y: zeros(1) } }))).toBe(
      'compile: this store belongs to another engine, or was closed; make one with engine.store()',
    );
  });
  it('a closed engine', async () => {
    const e = float64();
    await e.close();
    await e.close(); // twice is harmless
    expect(await rejects(e.read(zeros(1)))).toBe('engine: it was closed; open another with openEngine()');
  });
  it('a new value of another shape than the parameter', async () => {
    const w = param([1, 2], [2]);
    const next = new Map([[paramOf(w)!, sum(w)]]);
    expect(await rejects(engine.compile(engine.store(), { outputs: {}, next }))).toBe(
      'next: a parameter of shape [2] cannot become [] (at the top level)',
    );
  });
  it('writing the wrong count into a store', async () => {
    const w = param([1, 2], [2]);
    expect(await rejects(engine.store().write(new Map([[paramOf(w)!, Float32Array.of(1)]])))).toBe(
      'store: 1 numbers for a parameter of shape [2]',
    );
  });
  it('a tap where nothing was computed', async () => {
    expect(await rejects(engine.compile(engine.store(), { outputs: { y: exp(zeros(2)) }, taps: ['blocks.9'] }))).toBe(
      'taps: nothing was computed in blocks.9; a tap is the path of a layer, such as blocks.0.mlp',
    );
  });
  it('an engine that does not exist', async () => {
    expect(await rejects(openEngine({ engine: 'cuda' as 'float64' }))).toMatch(
      /^openEngine: there is no engine 'cuda'; choose one of gpujs,.* float64$/,
    );
  });
  it('attributes that are not plain data', async () => {
    const op = defineOp<'x', { f: () => number }>({
      name: 'closure',
      inputs: ['x'],
      shape: ({ x }) => x,
      kernel: { kind: 'map', expr: 'x' },
    });
    expect(await rejects(engine.read(op({ x: zeros(1) }, { f: () => 1 })))).toBe(
      'op closure: attribute f must be plain data (numbers, texts, lists of them); make it an operand',
    );
  });
  it('a composite that brings numbers of its own', async () => {
    const op = defineOp<'x'>({
      name: 'hidden',
      inputs: ['x'],
      shape: ({ x }) => x,
      kernel: { kind: 'composite', of: ({ x }) => add(x, leaf([1, 2], [2])) },
    });
    expect(await rejects(engine.read(op({ x: zeros(2) }, null)))).toBe(
      'plan: a composite op made a leaf or parameter of its own; hand it in as an operand',
    );
  });
  it('a NaN: diagnose names the first layer that made one', async () => {
    const y = named('head', () => exp(named('mlp', () => log(input('x', [2])))).mul(2));
    const p = await plan(y);
    expect(await p.diagnose({ x: [1, 2] })).toBe(null);
    expect(await p.diagnose({ x: [1, -1] })).toBe('log in head.mlp (forward): element 1 of [2] is NaN');
    const [d] = grad(sum(y), [param([1], [])]);
    expect(await (await plan(d!)).diagnose()).toBe(null);
  });
});
