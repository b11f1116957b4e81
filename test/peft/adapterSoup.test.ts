// AdapterSoup: the mean of adapters, and which domains are nearest.
import { expect, test } from 'vitest';
import { float64 } from '../../core/engines/float64.ts';
import { params, tensors } from '../../nn/tree.ts';
import { adapterSoup, nearestDomains } from '../../peft/additive/adapterSoup.ts';
import { compacter } from '../../peft/additive/compacter.ts';
import { pfeiffer } from '../../peft/additive/pfeiffer.ts';
import { lora } from '../../peft/reparameterized/lora.ts';
import { gpt2Network, numbersOf, perturb } from '../laws/models.ts';
import { apart } from './naive.ts';

const engine = float64();
const net = gpt2Network(3);
const adapters = [1, 2, 3].map((s) => perturb(pfeiffer({ bottleneck: 3 })(net.base), s));

test('every tensor of the soup is the mean, weighted where asked; the base is the base', async () => {
  for (const weights of [undefined, [0.5, 0.5, 0], [0.2, 0.3, 0.5]]) {
    const soup = adapterSoup(adapters, weights);
    const w = weights ?? [1 / 3, 1 / 3, 1 / 3];
    const tables = adapters.map((m) => [...tensors(m)]);
    for (const [i, { path, tensor }] of [...tensors(soup)].entries()) {
      if (!path.includes('.pfeiffer.')) {
        expect(tensor).toBe(tables[0]![i]!.tensor);
        continue;
      }
      const all = await Promise.all(tables.map(async (t) => (await engine.read(t[i]!.tensor)).slice()));
      expect(
        apart(
          await engine.read(tensor),
          Array.from(all[0]!, (_, j) => all.reduce((s, a, k) => s + w[k]! * a[j]!, 0)),
        ),
      ).toBeLessThan(1e-12);
    }
  }
});

test('equal adapters make themselves; order does not matter; the mean of adapters is not the mean of answers', async () => {
  const one = await numbersOf(engine, net, adapters[0]!);
  expect(apart(await numbersOf(engine, net, adapterSoup([adapters[0]!, adapters[0]!, adapters[0]!])), one)).toBeLessThan(1e-12);
  const soup = await numbersOf(engine, net, adapterSoup(adapters));
  expect(apart(await numbersOf(engine, net, adapterSoup([adapters[2]!, adapters[0]!, adapters[1]!])), soup)).toBeLessThan(1e-12);
  const answers = await Promise.all(adapters.map((m) => numbersOf(engine, net, m)));
  expect(
    apart(
      soup,
      Array.from(soup, (_, i) => answers.reduce((s, a) => s + a[i]! / 3, 0)),
    ),
  ).toBeGreaterThan(1e-4);
});

test('a tensor that all places share stays one parameter', () => {
  const shared = [1, 2].map((s) => perturb(compacter({ n: 2, bottleneck: 4 })(net.base), s));
  expect([...params(adapterSoup(shared)).values()]).toEqual([...params(shared[0]!).values()]);
});

test('the nearest domains by the angle between mean embeddings, best first', () => {
  const domains = [
    [[1, 0]],
    [
      [0, 2],
      [0, 4],
    ],
    [[3, 3]],
  ];
  expect(nearestDomains(domains, [[0.1, 5]], 2)).toEqual([1, 2]);
  expect(
    nearestDomains(
      domains,
      [
        [9, 1],
        [9, -1],
      ],
      3,
    ),
  ).toEqual([0, 2, 1]);
  expect(() => nearestDomains(domains, [[1, 1]], 4)).toThrow(/l 4 must be a whole number from 1 to 3/);
});

test('refused: nothing, other sizes, other methods, another base, too few weights', () => {
  expect(() => adapterSoup([])).toThrow(/nothing to average/);
  expect(() => adapterSoup([net.base])).toThrow(/no method is attached/);
  expect(() => adapterSoup([adapters[0]!, pfeiffer({ bottleneck: 2 })(net.base)])).toThrow(
    /model 1 has .*pfeiffer.down of shape \[2, 8\], not \[3, 8\]/,
  );
  expect(() => adapterSoup([adapters[0]!, lora({ rank: 2 })(net.base)])).toThrow(/model 1 has no trunk.blocks.0.mlp.pfeiffer.down/);
  expect(() => adapterSoup([adapters[0]!, pfeiffer({ bottleneck: 3 })(gpt2Network(4).base)])).toThrow(/model 1 has another base/);
  expect(() => adapterSoup(adapters, [1])).toThrow(/3 models need as many numbers/);
});
