// Every configuration string of AdapterHub's `adapters` on BERT: what it answers, the gradient of every trained tensor, and how many there are;
// and its composition blocks. (Three AdamW steps of each: hubConfigurations.long.test.ts.)
import { expect, test } from 'vitest';
import { float64 } from '../../core/engines/float64.ts';
import { grad } from '../../core/grad.ts';
import { rng } from '../../core/rng.ts';
import { size } from '../../core/shape.ts';
import { stateOf, type Tensor } from '../../core/tensor.ts';
import { bert, encoder } from '../../nn/encoder.ts';
import { freeze } from '../../nn/freeze.ts';
import { classifier } from '../../nn/heads.ts';
import type { Model } from '../../nn/layer.ts';
import { trainable } from '../../nn/tree.ts';
import { adapterHub, adapterHubAliases } from '../../peft/adapterHub.ts';
import { fused } from '../../peft/additive/adapterFusionStages.ts';
import { average, split, stack } from '../../peft/combinators.ts';
import type { Transform } from '../../peft/method.ts';
import { mixed } from '../../peft/mixed.ts';
import { inSpans, repeated } from '../../peft/spans.ts';
import { off } from './fixtures.ts';
import { answer, type Block, baseOf, filledBy, hub, loss, modelOf, type Name, names, standard, TOLERANCE } from './hubCases.ts';
import { hubName } from './hubNames.ts';

const engine = float64();

test.each(names)("%s: logits and gradients are AdapterHub's", async (name) => {
  const f = hub.cases[name];
  const model = modelOf(name);
  const all = [...trainable(model)];
  const named = (path: string): string => hubName(path, f.tensors);
  expect(all.map(([, path]) => named(path)).sort()).toEqual(Object.keys(f.grads).sort()); // every tensor, and no other
  const grads = grad(
    loss(model),
    all.map(([p]) => stateOf(p)),
  );
  const outputs: Record<string, Tensor> = {
    logits: answer(model),
    loss: loss(model),
    ...Object.fromEntries(grads.map((g, k) => [all[k]![1], g])),
  };
  const got = await (await engine.compile(engine.store(), { outputs })).run();
  expect(off(got.logits!, f.logits)).toBeLessThan(TOLERANCE);
  expect(Math.abs(got.loss![0]! - f.loss)).toBeLessThan(TOLERANCE);
  for (const [, path] of all) {
    const wanted = f.grads[named(path)]!;
    expect(off(got[path]!, wanted), path).toBeLessThan(TOLERANCE);
    expect(Math.max(...wanted.data.map(Math.abs)), path).toBeGreaterThan(0); // there is something to compare
  }
});

test('under their defaults, on a BERT of width 128, ours train as many numbers', () => {
  const large = freeze(
    classifier(
      encoder(bert({ vocabulary: 13, width: 128, layers: 2, heads: 4, inner: 96, positions: 12 }), rng(0)),
      { classes: 3 },
      rng(0),
    ),
  );
  const count = (name: Name): number => [...trainable(standard(name)(large)).keys()].reduce((n, p) => n + size(p.shape), 0);
  const matrices = (d: number): number => 4 * (8 * 8 - 8 + d * d - d); // VeRA's: off the diagonals, at q and v of two layers
  const besides: Partial<Record<Name, number>> = {
    ...{ vera: matrices(128), dvora: matrices(128) },
    ...{ loreft: 2 * 257, noreft: 2 * 257, direft: 2 * 257 }, // the second unit of each layer, for a suffix of 0 positions
  };
  for (const name of names) expect(count(name) + (besides[name] ?? 0), name).toBe(hub.counts[name]);
});

test('the names are those it ships, deprecated ones too', () => {
  expect([...names].sort()).toEqual(Object.keys(hub.cases).sort());
  expect(adapterHubAliases).toEqual(hub.aliases);
});

/** Their word for a bottleneck's start, and ours. */
const STARTS: Readonly<Record<string, string>> = { bert: 'bert', mam_adapter: 'zero', houlsby: 'houlsby' };
test('dropout and the start of bottlenecks are those of its defaults', () => {
  for (const name of names) {
    const theirs = [hub.settings[name]].flat();
    for (const [k, { method, config }] of standard(name)
      .parts.filter((p) => p.method.name !== 'invertible')
      .entries()) {
      const c = config as unknown as Readonly<Record<string, unknown>>;
      expect(c.dropout ?? 0, name).toBe(theirs[k]!.dropout ?? 0);
      const start = STARTS[String(theirs[method.name === 'unipelt' ? 1 : k]!.init_weights)];
      if ('bottleneck' in c && start !== undefined && method.name !== 'compacter') expect(c.init, name).toBe(start); // Compacter's matrices are products
    }
  }
});

const base = baseOf('lora');
const seq = (model: Model, f: Block, a: string): Model => filledBy(adapterHub.seq_bn({ reduction: 8 })(model), f, a);
const low = (model: Model, f: Block, a: string, alpha = 4): Model => filledBy(adapterHub.lora({ rank: 2, alpha })(model), f, a);
const flat = (model: Model, f: Block, a: string): Model => filledBy(adapterHub.prefix_tuning_flat({ length: 3 })(model), f, a);
/** A method whose numbers are those of adapter a. */
const having = (make: (model: Model, f: Block, a: string) => Model, f: Block, a: string): Transform =>
  Object.assign((model: Model): Model => freeze(make(model, f, a)), adapterHub.lora());
const both = (make: (model: Model, f: Block, a: string) => Model, f: Block): readonly [Transform, Transform] => [
  having(make, f, 'a'),
  having(make, f, 'b'),
];
const models = (make: (model: Model, f: Block, a: string) => Model, f: Block): Model[] => both(make, f).map((t) => t(base));
const blocks: Readonly<Record<string, (f: Block) => Model>> = {
  stack: (f) => stack(...both(seq, f))(base),
  fuse: (f) => filledBy(fused(models(seq, f))(base), f, 'a,b'),
  split: (f) => split(both(seq, f), [2])(base),
  batchSplit: (f) => mixed(models(seq, f), inSpans(1, 1)),
  batchSplitLora: (f) => mixed(models(low, f), inSpans(1, 1)),
  batchSplitPrefix: (f) => mixed(models(flat, f), inSpans(1, 1)),
  parallel: (f) => repeated(models(seq, f)),
  parallelPrefix: (f) => repeated(models(flat, f)),
  // The library takes a mean of answers that it has weighed already, so that n adapters count an n-th of what its weights say: 0.7 and 0.3
  // are written 1.4 and 0.6 there (normalize_weights=False), and its equal weights are two LoRAs of half the α.
  average: (f) => average(both(seq, f), [0.7, 0.3])(base),
  averageLora: (f) => average(both(low, f), [0.7, 0.3])(base),
  averageAsIs: (f) => average(both((m, g, a) => low(m, g, a, 2), f))(base),
};
test.each(Object.keys(blocks))('%s: logits are those of its composition block', async (name) => {
  expect(Object.keys(blocks)).toEqual(Object.keys(hub.blocks));
  const f = hub.blocks[name]!;
  expect(off(await engine.read(answer(blocks[name]!(f))), f.logits)).toBeLessThan(TOLERANCE);
});
