// A law of mixtures in folders: whatever their options, what is written is read as the same model, and written again as the same bytes.
import { mkdtemp, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import fc from 'fast-check';
import { expect } from 'vitest';
import { float64 } from '../../core/engines/float64.ts';
import { rng } from '../../core/rng.ts';
import { loadPeft } from '../../io/peft/load.ts';
import { savePeft } from '../../io/peft/save.ts';
import { withValues } from '../../nn/freeze.ts';
import type { Model } from '../../nn/layer.ts';
import { trainable } from '../../nn/tree.ts';
import { arrowOf } from '../../peft/reparameterized/arrowOf.ts';
import { lora } from '../../peft/reparameterized/lora.ts';
import { xloraOf } from '../../peft/reparameterized/xloraOf.ts';
import { filesIn } from '../oracle/hfExperts.ts';
import { logitsOf } from '../oracle/hfFiles.ts';
import { networks } from '../oracle/networks.ts';

/** Every trained number moved. */
export function trained(model: Model, seed: number): Model {
  const r = rng(seed);
  const moved = [...trainable(model)].map(([p, path]) => {
    const by = r.split(path).normal(p.value.length, 0.3);
    return [p, Float32Array.from(p.value, (v, k) => v + by[k]!)] as const;
  });
  return withValues(model, new Map(moved));
}
const n = networks.llama;
async function isRead(model: Model, root: string): Promise<void> {
  const [one, two] = [await mkdtemp(join(root, 'law-')), await mkdtemp(join(root, 'law-'))];
  await savePeft(model, one);
  const loaded = await loadPeft(n.base, one);
  expect(loaded.warnings).toEqual([]);
  expect(Array.from(await logitsOf(float64(), loaded.model, n, {}))).toEqual(Array.from(await logitsOf(float64(), model, n, {})));
  await savePeft(loaded.model, two, { like: loaded.files });
  for (const f of await filesIn(one)) expect(Buffer.compare(await readFile(join(two, f)), await readFile(join(one, f))), f).toBe(0);
}

const seed = fc.nat(1000);
const alpha = fc.integer({ min: 1, max: 9 });
const xloras = fc.record({
  depth: fc.integer({ min: 1, max: 3 }),
  hidden: fc.integer({ min: 1, max: 5 }),
  dropout: fc.constantFrom(0, 0.25),
  layerwise: fc.boolean(),
  softmax: fc.boolean(),
  temperature: fc.constantFrom(0.5, 1, 3),
  topK: fc.constantFrom(null, 1, 2),
  weight: fc.constantFrom(1, 0.75),
  trainExperts: fc.boolean(),
});
const experts = fc.array(fc.record({ rank: fc.integer({ min: 1, max: 3 }), alpha, rankStabilized: fc.boolean() }), {
  minLength: 2,
  maxLength: 3,
});
export const xlorasAreRead = (numRuns: number, root: string): Promise<void> =>
  fc.assert(
    fc.asyncProperty(xloras, experts, seed, async (options, each, k) => {
      const models = each.map((o, e) => trained(lora({ ...o, where: ['q', 'up'] })(n.base), k + e));
      await isRead(trained(xloraOf(models, options)(n.base), k), root);
    }),
    { numRuns },
  );

const arrows = fc.record({ topK: fc.integer({ min: 1, max: 3 }), temperature: fc.constantFrom(0.5, 1, 3) });
export const arrowsAreRead = (numRuns: number, root: string): Promise<void> =>
  fc.assert(
    fc.asyncProperty(arrows, fc.array(alpha, { minLength: 3, maxLength: 4 }), seed, async (options, alphas, k) => {
      const models = alphas.map((a, e) => trained(lora({ rank: 2, alpha: a, where: ['q', 'up'] })(n.base), k + e));
      await isRead(arrowOf(models, options)(n.base), root);
    }),
    { numRuns },
  );
