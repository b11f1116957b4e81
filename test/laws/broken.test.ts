// The laws judged: a method wrong in one way must break the law for it, so that a green run means something.
import { describe, expect, it } from 'vitest';
import { float64 } from '../../core/engines/float64.ts';
import { grad } from '../../core/grad.ts';
import { defineOp, type Op } from '../../core/op.ts';
import { stopGradient } from '../../core/ops/map.ts';
import { leaf, param, type Tensor } from '../../core/tensor.ts';
import { tensors } from '../../nn/tree.ts';
import { methods } from '../../peft/all.ts';
import { defineMethod } from '../../peft/attach.ts';
import { type Listed, listed } from '../../peft/listed.ts';
import type { Method } from '../../peft/method.ts';
import { frozenGradientsIn, frozenLeaves, gradients } from './graph.ts';
import { caseOf } from './methodCase.ts';
import { laws } from './methodLaws.ts';
import { gpt2Network, networks, run, snapshot } from './models.ts';
import { judgePair } from './pairLaws.ts';

type Gain = Method<'linear', { readonly size: number }, { g: Tensor }>;
/** y = g ⊙ (W x + b), right in every respect. */
const right: Gain = {
  name: 'gain',
  family: 'additive',
  paper: 'arXiv:0000.00000',
  at: 'linear',
  defaults: { size: 1, where: ['q', 'v'] },
  init: ({ shape: [out] }) => ({ train: { g: param(new Float32Array(out!).fill(1), [out!]) } }),
  around:
    (call, { g }) =>
    (x, ctx) =>
      call(x, ctx).mul(g),
  fold: ({ weight, bias }, { g }) => ({ weight: weight.mul(g.reshape(-1, 1)), bias: bias === null ? null : bias.mul(g) }),
  count: (sites) => {
    const n = sites.reduce((sum, s) => sum + s.shape[0]!, 0);
    return { train: n, stored: n };
  },
  startsAsBase: () => 'bitwise',
};
const made = (change: Partial<Gain>): Listed => listed('test/laws/broken.test.ts', defineMethod({ ...right, ...change }), {});
const engine = float64();
const net = gpt2Network(3);
const judge = async (l: Listed, id: string): Promise<void> => laws.find((x) => x.id === id)!.check(await caseOf(l, net, 3, engine));

const counter = { n: 0 };
/** x, with a derivative of 2. */
const twiceOp: Op<'x', null> = defineOp<'x'>({
  name: 'twice',
  inputs: ['x'],
  shape: ({ x }) => x,
  kernel: { kind: 'map', expr: 'x' },
  vjp: ({ dy }) => ({ x: () => dy.mul(2) }),
});
/** x, with a derivative of −1. */
const uphillOp: Op<'x', null> = defineOp<'x'>({ ...twiceOp.def, name: 'uphill', vjp: ({ dy }) => ({ x: () => dy.neg() }) });
const uphill = (x: Tensor): Tensor => uphillOp({ x }, null);
const twice = (x: Tensor): Tensor => twiceOp({ x }, null);

const wrong: readonly (readonly [id: string, how: string, change: Partial<Gain>, message: RegExp])[] = [
  ['I1', 'says bitwise and starts elsewhere', { around: (call) => (x, ctx) => call(x, ctx).mul(1.01) }, /declares 'bitwise'/],
  [
    'I1',
    'says close and starts elsewhere',
    { around: (call) => (x, ctx) => call(x, ctx).mul(1.01), startsAsBase: () => 'close' },
    /declares 'close'/,
  ],
  ['I1', 'says no and starts as the base', { startsAsBase: () => 'no' }, /does not start as the base/],
  [
    'I3',
    'stops its own gradient',
    {
      around:
        (call, { g }) =>
        (x, ctx) =>
          call(x, ctx).mul(stopGradient(g)),
    },
    /gets no gradient/,
  ],
  [
    'I3',
    'has a gradient that is not finite',
    {
      around:
        (call, { g }) =>
        (x, ctx) =>
          call(x, ctx).mul(g.div(g.sub(g))),
    },
    /not finite/,
  ],
  ['I4', 'folds into something else', { fold: ({ weight, bias }) => ({ weight, bias }) }, /merged and attached differ/],
  [
    'I4',
    'forgets the bias when folding',
    { fold: ({ weight, bias }, { g }) => ({ weight: weight.mul(g.reshape(-1, 1)), bias }) },
    /differ/,
  ],
  ['I6', 'miscounts what it trains', { count: () => ({ train: 7, stored: 32 }) }, /declares 7 trained/],
  ['I6', 'miscounts what it stores', { count: () => ({ train: 32, stored: 7 }) }, /declares 7 stored/],
  ['I8', 'ignores its tensors', { around: (call) => (x, ctx) => call(x, ctx) }, /compute the same/],
  ['I9', 'is random by itself', { around: (call) => (x, ctx) => call(x, ctx).mul(1 + counter.n++ / 100) }, /two quiet evaluations differ/],
  [
    'I9',
    'draws and does not use it',
    {
      around:
        (call, { g }) =>
        (x, ctx) =>
          call(x, ctx)
            .mul(g)
            .add((ctx.draw.uniform('u', [1]) ?? leaf([0], [1])).mul(0)),
    },
    /change nothing/,
  ],
  [
    'I11',
    'says that it works row by row and gives all rows the tensors of the first',
    {
      byRow: true,
      around:
        (call, { g }) =>
        (x, ctx) =>
          call(x, ctx).mul(g.shape.length === 3 ? g.slice(0, 0, 1) : g),
    },
    /row 1 differs by .* from what model 0 computes alone/,
  ],
  [
    'I10',
    'has a wrong derivative',
    {
      around:
        (call, { g }) =>
        (x, ctx) =>
          call(x, ctx).mul(twice(g)),
    },
    /central differences/,
  ],
  [
    'I12',
    'goes uphill',
    {
      around:
        (call, { g }) =>
        (x, ctx) =>
          call(x, ctx).mul(uphill(g)),
    },
    /the loss went from/,
  ],
  ['finish', 'finishes as something else', { finish: ({ g }) => ({ g: g.mul(2) }) }, /finished and unfinished differ/],
];

describe('the laws find', () => {
  it('nothing in a method that is right', async () => {
    const c = await caseOf(made({}), net, 3, engine);
    for (const law of laws) await law.check(c);
  });
  for (const [id, how, change, message] of wrong)
    it(`${id}: a method that ${how}`, async () => {
      await expect(judge(made(change), id)).rejects.toThrow(message);
      await expect(judge(made(change), id)).rejects.toThrow(/gain on gpt2, seed 3/);
    });

  it('I2: a gradient of a frozen weight, even one hidden inside another recipe', () => {
    const model = methods.find((m) => m.name === 'lora')!.tiny()(net.base);
    const { loss } = run(net, model);
    const own = gradients(loss, model);
    expect(frozenGradientsIn(own, loss, model)).toEqual([]);
    const frozen = frozenLeaves(model);
    expect(frozen.length).toBeGreaterThan(20);
    for (const { path, tensor } of frozen) {
      const [leak] = grad(loss, [tensor]);
      expect(frozenGradientsIn([...own, leak!.mul(2).sum()], loss, model), path).toContain(path);
    }
  });

  it('I2 and I5: a frozen number that was written into', () => {
    const changed = snapshot(net.base);
    expect(changed()).toBe(null);
    const { tensor } = [...tensors(net.base)].find(({ path }) => path === 'trunk.blocks.1.mlp.up.weight')!;
    if (tensor.source.kind !== 'leaf') throw new Error('frozen');
    const old = tensor.source.data[3]!;
    tensor.source.data[3] = old + 1;
    expect(changed()).toBe('trunk.blocks.1.mlp.up.weight');
    tensor.source.data[3] = old;
    expect(changed()).toBe(null);
  });
  it('I4: a merge that does not refuse what has no fold', async () => {
    const { fold: _, ...unfoldable } = right;
    const c = await caseOf(listed('', defineMethod(unfoldable), {}), net, 3, engine);
    await laws.find((x) => x.id === 'I4')!.check(c); // refused as it should be
    const lies = { ...c, method: made({}).tiny() };
    await expect(laws.find((x) => x.id === 'I4')!.check(lies)).rejects.toThrow(/merge: gain at .* cannot be merged/);
  });
  it('pairs: a method that forgets what is beneath it, and one that is different only on top of another', async () => {
    const lora = methods.find((m) => m.name === 'lora')!;
    const forgets = made({
      around:
        (_, { g }, __, site) =>
        (x) =>
          x
            .matmul(plain(`${site.path}.weight`).T)
            .add(plain(`${site.path}.bias`))
            .mul(g),
    });
    const plain = (path: string): Tensor => [...tensors(net.base)].find((t) => t.path === path)!.tensor;
    await expect(judgePair(lora, forgets, net, 3, engine)).rejects.toThrow(
      /lora, then gain, on gpt2, seed 3: the second declares 'bitwise' but changes the first/,
    );
    await expect(judgePair(lora, made({}), net, 3, engine)).resolves.toEqual({ kind: 'holds', merged: true });
  });

  it('depth: a method on the first block makes backward run through both', async () => {
    const away = { ...made({}), tiny: () => made({}).tiny({ where: (p) => /blocks\.0.*\.q$/.test(p) }) };
    await expect(judge(away, 'depth')).rejects.toThrow(/backward runs through .*blocks\.0/);
  });
  it('the architectures are generic: no bias is zero and no norm gain is one', () => {
    for (const n of networks(1))
      for (const { path, tensor } of tensors(n.base))
        if (tensor.source.kind === 'leaf')
          expect(
            tensor.source.data.some((v) => v === 0 || v === 1),
            path,
          ).toBe(false);
  });
});
