// AdapterDrop: the first n blocks without adapters, fixed or drawn, and fused adapters pruned by use.
import { expect, test } from 'vitest';
import { float64 } from '../../core/engines/float64.ts';
import { stochastic } from '../../nn/context.ts';
import { tensors } from '../../nn/tree.ts';
import { adapterDrop, dropFirst } from '../../peft/additive/adapterDrop.ts';
import { fused } from '../../peft/additive/adapterFusionStages.ts';
import { houlsby } from '../../peft/additive/houlsby.ts';
import { pfeiffer } from '../../peft/additive/pfeiffer.ts';
import { fusionUse, pruneFused } from '../../peft/additive/pruneFused.ts';
import { stack } from '../../peft/combinators.ts';
import { lora } from '../../peft/reparameterized/lora.ts';
import { fromBlock } from '../../peft/site.ts';
import { backwardPaths, gradients } from '../laws/graph.ts';
import { bertNetwork, gpt2Network, numbersOf, perturb, run } from '../laws/models.ts';
import { apart, trained } from './naive.ts';

const engine = float64();
const net = gpt2Network(3);

test('n = 0 is the full model, n = L the base; between, the last L − n adapters are what specialised training has', async () => {
  const full = perturb(houlsby({ bottleneck: 3 })(net.base), 1);
  expect(await numbersOf(engine, net, dropFirst(full, 0))).toEqual(await numbersOf(engine, net, full));
  expect(await numbersOf(engine, net, dropFirst(full, 2))).toEqual(await numbersOf(engine, net, net.base));
  const paths = [...tensors(dropFirst(full, 1))].flatMap(({ path }) => (path.includes('houlsby') ? [path] : []));
  expect(paths.length).toBe(8);
  expect(paths.every((p) => p.startsWith('trunk.blocks.1.'))).toBe(true);
  expect(() => dropFirst(full, 3)).toThrow(/n 3 must be a whole number from 0 to 2/);
});

test('dropping leaves what is attached elsewhere: LoRA within the branch stays, before or after the adapter', async () => {
  const both = [stack(lora({ rank: 2 }), houlsby({ bottleneck: 3 })), stack(houlsby({ bottleneck: 3 }), lora({ rank: 2 }))];
  const alone = perturb(lora({ rank: 2 })(net.base), 1);
  for (const t of both) {
    const model = perturb(t(net.base), 1);
    expect(apart(await numbersOf(engine, net, dropFirst(model, 2)), await numbersOf(engine, net, alone))).toBe(0);
  }
});

test('specialised: backward visits no block without an adapter; count (L − n)(2md + m + d)', () => {
  const model = perturb(pfeiffer({ bottleneck: 3, where: fromBlock(1, 'mlp') })(net.base), 1);
  expect(trained(model)).toBe(2 * 3 * 8 + 3 + 8);
  const early = backwardPaths(gradients(run(net, model).loss, model)).filter((p) => p.includes('blocks.0') || p.startsWith('embed'));
  expect(early).toEqual([]);
});

test('robust: every run is the full model or one with the first blocks dropped, all of them about equally often', async () => {
  const adapters = perturb(pfeiffer({ bottleneck: 3 })(net.base), 1);
  const model = adapterDrop({ where: 'mlp' })(adapters);
  const possible = [dropFirst(adapters, 0), dropFirst(adapters, 1)]; // n ~ U{0, …, L − 1}
  const expected = await Promise.all(possible.map((m) => numbersOf(engine, net, m)));
  const { output } = run(net, model, stochastic());
  const plan = await engine.compile(engine.store(), { outputs: { output } });
  const hits = [0, 0];
  const runs = 80;
  for (let seed = 0; seed < runs; seed++) {
    const y = (await plan.run({}, seed)).output.slice();
    const n = expected.findIndex((e) => apart(y, e) === 0);
    hits[n]!++;
  }
  expect(hits[0]! + hits[1]!).toBe(runs);
  const chi2 = hits.reduce((s, h) => s + (h - runs / 2) ** 2 / (runs / 2), 0);
  expect(chi2).toBeLessThan(10.83); // χ²₁ exceeds it once in a thousand; the seeds are fixed
  expect(await numbersOf(engine, net, model)).toEqual(expected[0]);
});

test('refused: nothing to drop', () => {
  expect(() => adapterDrop()(net.base)).toThrow(/adapterDrop: no branch of this model has an adapter/);
});

test('pruning keeps the most used adapters of each place; keeping all changes nothing; mean α sums to 1', async () => {
  const bert = bertNetwork(2);
  const models = [1, 2, 3].map((s) => perturb(pfeiffer({ bottleneck: s })(bert.base), s));
  const model = perturb(fused(models)(bert.base), 7);
  const use = await fusionUse(model, [bert.batch], engine);
  expect([...use.keys()]).toEqual(['trunk.blocks.0.mlp', 'trunk.blocks.1.mlp']);
  for (const alpha of use.values()) expect(alpha.reduce((a, b) => a + b)).toBeCloseTo(1, 12);
  expect(apart(await numbersOf(engine, bert, pruneFused(model, use, 3)), await numbersOf(engine, bert, model))).toBe(0);
  const pruned = pruneFused(model, use, 1);
  for (const [path, alpha] of use) {
    const best = alpha.indexOf(Math.max(...alpha));
    const kept = [...tensors(pruned)].filter((t) => t.path.startsWith(`${path}.adapterFusion.down.`));
    expect(kept.map((t) => t.tensor.shape[0])).toEqual([best + 1]); // bottlenecks are 1, 2, 3
    const key = (m: typeof model): unknown => [...tensors(m)].find((t) => t.path === `${path}.adapterFusion.key`)!.tensor;
    expect(key(pruned)).toBe(key(model)); // the fusion layer is the trained one
  }
  expect(() => pruneFused(model, use, 4)).toThrow(/cannot keep 4 of the 3 adapters/);
  await expect(fusionUse(bert.base, [bert.batch], engine)).rejects.toThrow(/has no AdapterFusion/);
});
