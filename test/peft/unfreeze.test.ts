// unfreeze composes with methods: LoRA plus trained norms, in either order.
import { describe, expect, it } from 'vitest';
import { float64 } from '../../core/engines/float64.ts';
import { size } from '../../core/shape.ts';
import { leaf, param, paramOf, stateOf, type Tensor } from '../../core/tensor.ts';
import { freeze, unfreeze } from '../../nn/freeze.ts';
import type { Model } from '../../nn/layer.ts';
import { tensors, trainable } from '../../nn/tree.ts';
import { defineMethod } from '../../peft/attach.ts';
import { merge } from '../../peft/merge.ts';
import { lora } from '../../peft/reparameterized/lora.ts';
import { frozenGradientsIn, gradients } from '../laws/graph.ts';
import { apart, sameBits } from '../laws/methodCase.ts';
import { gpt2Network, numbersOf, perturb, run, WIDTH } from '../laws/models.ts';

const net = gpt2Network(5);
const engine = float64();
const norms = (path: string): boolean => /\bnorm\d?\b/.test(path);
const method = lora({ rank: 2, where: ['q', 'v'] });

describe('LoRA and unfrozen norms', () => {
  const model = unfreeze(method(net.base), norms);
  it('train both and nothing else', () => {
    const paths = [...trainable(model).values()];
    expect(paths.filter(norms)).toHaveLength(2 * 5); // gain and shift of two norms in each of two blocks, and of the last one
    expect(paths.filter((p) => p.includes('lora'))).toHaveLength(2 * 4); // A and B at q and v of two blocks
    expect([...trainable(model).keys()].reduce((n, p) => n + size(p.shape), 0)).toBe(10 * WIDTH + 4 * 2 * (WIDTH + WIDTH));
  });
  it('start as the base, bit for bit where LoRA adds zero', async () => {
    expect(apart(await numbersOf(engine, net, net.base), await numbersOf(engine, net, model))).toBeLessThan(1e-12);
  });
  it('compute the same whichever came first', async () => {
    const other = method(unfreeze(net.base, norms));
    expect([...trainable(other).values()].sort()).toEqual([...trainable(model).values()].sort());
    const [a, b] = [await numbersOf(engine, net, perturb(model, 1)), await numbersOf(engine, net, perturb(other, 1))];
    expect(sameBits(a, b)).toBe(true);
  });
  it('leave every other weight without a gradient', () => {
    const { loss } = run(net, model);
    expect(frozenGradientsIn(gradients(loss, model), loss, model)).toEqual([]);
  });
  it('merge: LoRA is folded, and the trained norms stay parameters until frozen', async () => {
    const moved = perturb(model, 2);
    const merged = merge(moved);
    expect(apart(await numbersOf(engine, net, moved), await numbersOf(engine, net, merged))).toBeLessThan(1e-9);
    expect([...trainable(merged).values()].filter(norms)).toHaveLength(10);
    expect([...trainable(freeze(merged)).values()].filter(norms)).toEqual([]);
  });
  it('take a step on both', async () => {
    const { loss } = run(net, model);
    const grads = gradients(loss, model);
    const store = engine.store();
    const all = [...trainable(model)];
    const plan = await engine.compile(store, {
      outputs: { loss },
      next: new Map(all.map(([p], k) => [p, stateOf(p).sub(grads[k]!.mul(0.1))])),
    });
    await plan.run();
    const now = await store.read(all.map(([p]) => p));
    for (const [p, path] of all)
      if (!path.endsWith('.A'))
        expect(
          now.get(p)!.some((v, i) => v !== p.value[i]),
          path,
        ).toBe(true); // ∂L/∂A = 0 while B = 0
  });
  it('unfreezing twice changes nothing', () => {
    expect(unfreeze(model, norms)).toBe(model);
  });
});

describe('unfreeze', () => {
  it('refuses what matches nothing, listing what there is', () => {
    expect(() => unfreeze(net.base, (p) => p === 'nowhere')).toThrow(
      /unfreeze: where matches no tensor of this model; its tensors are .*embed\.weight/,
    );
  });
  it('frees both sides of a tied pair, whichever is named', () => {
    for (const side of ['embed.weight', 'head.weight']) {
      const freed = unfreeze(net.base, (p) => p === side);
      expect(trainable(freed).size).toBe(1);
      expect(paramOf(weightAt(freed, 'embed'))).toBe(paramOf(weightAt(freed, 'head')));
    }
  });
  it('does not decay vectors', () => {
    for (const [p] of trainable(unfreeze(net.base, () => true))) expect(p.decay).toBe(p.shape.length > 1);
  });
  it('leaves the fixed tensors of a method alone', () => {
    const own = defineMethod<'linear', { k: number }, { a: Tensor; b: Tensor }>({
      name: 'half',
      family: 'additive',
      paper: 'arXiv:0000.00000',
      at: 'linear',
      defaults: { k: 1, where: 'q' },
      init: ({ shape: [out] }) => ({
        train: { a: param(new Float32Array(out!), [out!]) },
        fixed: { b: leaf(new Float32Array(out!), [out!]) },
      }),
      around:
        (call, { a, b }) =>
        (x, ctx) =>
          call(x, ctx).add(a.add(b)),
      count: (sites) => ({ train: 8 * sites.length, stored: 16 * sites.length }),
      startsAsBase: () => 'close',
    });
    const paths = [...trainable(unfreeze(own()(net.base), (p) => p.includes('.q'))).values()];
    expect(paths.filter((p) => p.includes('half'))).toEqual(['trunk.blocks.0.attn.q.half.a', 'trunk.blocks.1.attn.q.half.a']);
    expect(paths).toContain('trunk.blocks.0.attn.q.weight');
  });
});
const weightAt = (m: Model, name: string): Tensor => [...tensors(m)].find(({ path }) => path === `${name}.weight`)!.tensor;
