// Every configuration string of AdapterHub's `adapters` on BERT: what it answers, the gradient of every trained tensor, and how many there are;
// and its composition blocks. (Three AdamW steps of each: hubConfigurations.long.test.ts.)
import { expect, test } from 'vitest';
import { float64 } from '../../core/engines/float64.ts';
import { grad } from '../../core/grad.ts';
import { rng } from '../../core/rng.ts';
import { size } from '../../core/shape.ts';
import { stateOf } from '../../core/tensor.ts';
import { bert, encoder } from '../../nn/encoder.ts';
import { freeze } from '../../nn/freeze.ts';
import { classifier } from '../../nn/heads.ts';
import { trainable } from '../../nn/tree.ts';
import { adapterHubAliases } from '../../peft/adapterHub.ts';
import { off } from './fixtures.ts';
import { answer, hub, loss, modelOf, type Name, names, standard, TOLERANCE } from './hubCases.ts';
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
  const outputs = { logits: answer(model), loss: loss(model), ...Object.fromEntries(grads.map((g, k) => [all[k]![1], g])) };
  const got = await (await engine.compile(engine.store(), { outputs })).run();
  expect(off(got.logits!, f.logits)).toBeLessThan(TOLERANCE);
  expect(Math.abs(got.loss![0]! - f.loss)).toBeLessThan(TOLERANCE);
  for (const [, path] of all) expect(off(got[path]!, f.grads[named(path)]!), path).toBeLessThan(TOLERANCE);
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
