// Methods side by side: the algebra of parallel, average, gate and route, all laws on them, and what they refuse.
import { describe, expect, it } from 'vitest';
import { float64 } from '../../core/engines/float64.ts';
import { freeze } from '../../nn/freeze.ts';
import type { Model } from '../../nn/layer.ts';
import { houlsby } from '../../peft/additive/houlsby.ts';
import { ia3 } from '../../peft/additive/ia3.ts';
import { parallelAdapter } from '../../peft/additive/parallelAdapter.ts';
import type { Listed } from '../../peft/all.ts';
import { compose } from '../../peft/combine.ts';
import { merge } from '../../peft/merge.ts';
import type { Transform } from '../../peft/method.ts';
import { average, gate, parallel, route } from '../../peft/parallel.ts';
import { adalora } from '../../peft/reparameterized/adalora.ts';
import { lora } from '../../peft/reparameterized/lora.ts';
import { vera } from '../../peft/reparameterized/vera.ts';
import { bitfit } from '../../peft/selective/bitfit.ts';
import { caseOf, laws } from '../laws/methodLaws.ts';
import { gpt2Network, llamaNetwork, numbersOf, perturb } from '../laws/models.ts';
import { apart } from './naive.ts';

const engine = float64();
const net = llamaNetwork(61);
const read = (m: Model) => numbersOf(engine, net, m);
/** A method whose trained tensors stand at generic values: attached, moved, and from then on itself. */
const moved = (t: Transform, seed: number): Transform =>
  Object.assign((m: Model): Model => perturb(t(m), seed), { title: t.title, parts: t.parts, prepare: t.prepare });
const a = moved(lora({ rank: 2, seed: 1 }), 1);
const b = moved(lora({ rank: 3, alpha: 5, seed: 2, where: ['q', 'down'] }), 2);
const c = moved(ia3({ where: ['q', 'v'] }), 3);
/** The same, frozen, so that moving the next one leaves it alone. */
const still = (t: Transform, seed: number): Transform =>
  Object.assign((m: Model): Model => freeze(perturb(t(m), seed)), { title: t.title, parts: t.parts, prepare: t.prepare });
const on = (t: Transform): Model => t(net.base);

describe('parallel', () => {
  it('of one is that one; it commutes, associates, and for LoRA or VeRA is compose', async () => {
    expect(apart(await read(on(parallel(a))), await read(on(a)))).toBeLessThan(1e-12);
    expect(apart(await read(on(parallel(a, b))), await read(on(parallel(b, a))))).toBeLessThan(1e-12);
    expect(apart(await read(on(parallel(a, b, c))), await read(on(parallel(c, a, b))))).toBeLessThan(1e-12);
    const [x, y] = [still(lora({ rank: 2, seed: 1 }), 1), still(vera({ rank: 3, where: ['q', 'down'] }), 2)];
    expect(apart(await read(on(parallel(x, y))), await read(on(compose(x, y))))).toBeLessThan(1e-12);
  });
  it('is not compose for what reads or scales the answer before it', async () => {
    expect(
      apart(await read(on(parallel(still(lora({ rank: 2 }), 1), c))), await read(on(compose(still(lora({ rank: 2 }), 1), c)))),
    ).toBeGreaterThan(1e-4);
  });
  it('merges as it computes, biases included', async () => {
    for (const m of [on(parallel(a, b, c)), on(average([a, c], [0.3, 0.7]))])
      expect(apart(await read(merge(m)), await read(m))).toBeLessThan(1e-12);
    const g = gpt2Network(62);
    const m = parallel(a0(1), a0(2))(g.base);
    expect(apart(await numbersOf(engine, g, merge(m)), await numbersOf(engine, g, m))).toBeLessThan(1e-12);
  });
});
const a0 = (k: number): Transform => moved(ia3({ where: ['o', 'down'] }), k);

describe('average', () => {
  it('of a method with itself is the method; weights 1 and 0 choose; it is linear in the weights', async () => {
    expect(apart(await read(on(average([a, a]))), await read(on(a)))).toBeLessThan(1e-12);
    expect(apart(await read(on(average([a, b], [1, 0]))), await read(on(a)))).toBeLessThan(1e-12);
    expect(apart(await read(on(average([a, b], [0, 1]))), await read(on(b)))).toBeLessThan(1e-12);
  });
  it('of LoRA over equal places is parallel of halves', async () => {
    const half = (seed: number, alpha: number): Transform => moved(lora({ rank: 2, alpha, seed }), seed);
    expect(apart(await read(on(average([half(1, 4), half(2, 4)]))), await read(on(parallel(half(1, 2), half(2, 2)))))).toBeLessThan(1e-12);
  });
});

describe('every law of a method holds for', () => {
  const listed = (name: string, tiny: (seed: number) => Transform): Listed => ({
    name,
    family: 'hybrid',
    paper: 'arXiv:2110.04366',
    file: 'peft/parallel.ts',
    at: ['linear'],
    placeable: false,
    unfit: {},
    standard: () => tiny(0),
    tiny: ({ seed = 0 } = {}) => tiny(seed),
  });
  const small = (seed: number): Transform => lora({ rank: 2, dropout: 0.25, seed });
  const adapters = (seed: number): readonly [Transform, Transform] => [
    houlsby({ bottleneck: 3, where: 'mlp', seed }),
    parallelAdapter({ bottleneck: 2, seed }),
  ];
  for (const l of [
    listed('parallel', (s) => parallel(small(s), ia3({ where: ['q', 'down'] }))),
    listed('average', (s) => average(adapters(s))),
    listed('gate', (s) => gate(small(s), s)),
    listed('route', (s) => route(adapters(s), s)),
  ])
    it(l.name, async () => {
      const made = await caseOf(l, net, 63, engine);
      for (const law of laws) await law.check(made);
    });
});

describe('what cannot stand side by side is refused', () => {
  it('places inside each other, controllers, kinds without x, and weights that do not sum to 1', () => {
    expect(() => on(parallel(lora({ rank: 2 }), houlsby({ bottleneck: 2 })))).toThrow(
      /attn\.[qv] is inside trunk\.blocks\.0\.attn.*compose/,
    );
    expect(() => on(parallel(adalora({ rank: 2, targetRank: 1 })))).toThrow(/adalora decides between steps/);
    expect(() => on(parallel(compose(lora({ rank: 2 }), lora({ rank: 2 }))))).toThrow(/attaches twice around/);
    expect(() => gate(bitfit())(gpt2Network(1).base)).toThrow(/is a weight, which reads no vectors/);
    expect(() => average([a, b], [0.5, 0.6])).toThrow(/sum to 1/);
    expect(() => parallel()).toThrow(/got none/);
  });
});
