// AdapterSoup: the mean of adapters, and which domains go into it, by cosines and by a mixture of Gaussians.
import { expect, test } from 'vitest';
import { float64 } from '../../core/engines/float64.ts';
import { rng } from '../../core/rng.ts';
import { params, tensors } from '../../nn/tree.ts';
import { adapterSoup } from '../../peft/additive/adapterSoup.ts';
import { compacter } from '../../peft/additive/compacter.ts';
import { pfeiffer } from '../../peft/additive/pfeiffer.ts';
import { clusteredDomains, similarDomains } from '../../peft/additive/soupDomains.ts';
import { gaussianMixture, maximised, shares } from '../../peft/mixture.ts';
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

/** Texts of a domain: points about a centre. */
const texts = (seed: number, centre: readonly number[], n = 30, spread = 0.3): number[][] => {
  const noise = rng(seed).normal(n * centre.length, spread);
  return Array.from({ length: n }, (_, k) => centre.map((c, i) => c + noise[k * centre.length + i]!));
};
const centres = [
  [3, 0, 0],
  [0, 3, 0],
  [0, 0, 3],
  [-3, 0, 0],
];
const domains = centres.map((c, k) => texts(k, c));

test('similar domains: the mean cosine of all pairs, from a threshold, at most so many', () => {
  const novel = texts(9, [2, 1.5, 0]);
  const cosine = (a: readonly number[], b: readonly number[]): number =>
    a.reduce((s, v, i) => s + v * b[i]!, 0) / (Math.hypot(...a) * Math.hypot(...b));
  const means = domains.map((d) => d.reduce((s, x) => s + novel.reduce((t, y) => t + cosine(x, y), 0), 0) / (d.length * novel.length));
  const order = [0, 1, 2, 3].filter((k) => means[k]! >= 0.15).sort((a, b) => means[b]! - means[a]!);
  expect(similarDomains(domains, novel)).toEqual(order);
  expect(order).toEqual([0, 1]);
  expect(similarDomains(domains, novel, { least: -1, most: 3 })).toEqual([0, 1, 2]);
  expect(similarDomains(domains, novel, { least: 0.99 })).toEqual([]);
});

test('clustered domains: those to whose clusters a tenth of the texts goes, most first', () => {
  const mixed = [...texts(5, centres[2]!, 12), ...texts(6, centres[0]!, 7), ...texts(7, centres[1]!, 1)]; // 60 %, 35 %, 5 %
  expect(clusteredDomains(domains, mixed)).toEqual([2, 0]);
  expect(clusteredDomains(domains, mixed, { least: 0.05 })).toEqual([2, 0, 1]);
  expect(clusteredDomains(domains, mixed, { least: 0.05, most: 1 })).toEqual([2]);
  expect(() => clusteredDomains(domains, [])).toThrow(/need at least one text/);
  expect(() => similarDomains([[[1, 2]]], [[1]])).toThrow(/embeddings of one width/);
});

test('a mixture of Gaussians: shares from the density as written, and steps that never make the rows less likely', () => {
  const rows = domains.flat().map((x) => x.slice(0, 2));
  const mixture = gaussianMixture(rows, 3, { seed: 1 });
  const density = ([x, y]: readonly number[], k: number): number => {
    const [a, b, , d] = mixture.covariances[k]!;
    const [u, v] = [x! - mixture.means[k]![0]!, y! - mixture.means[k]![1]!];
    const det = a! * d! - b! * b!;
    return (mixture.weights[k]! * Math.exp(-(d! * u * u - 2 * b! * u * v + a! * v * v) / (2 * det))) / (2 * Math.PI * Math.sqrt(det));
  };
  const found = shares(mixture, rows);
  for (const [n, x] of rows.entries()) {
    const parts = [0, 1, 2].map((k) => density(x, k));
    const whole = parts.reduce((s, p) => s + p);
    for (const k of [0, 1, 2]) expect(found.shares[n]![k]).toBeCloseTo(parts[k]! / whole, 9);
  }
  let r: number[][] = rows.map((_, n) => [0, 1, 2].map((k) => (n % 3 === k ? 0.8 : 0.1)));
  for (let k = 0, before = Number.NEGATIVE_INFINITY; k < 20; k++) {
    const next = shares(maximised(rows, r, 0), rows);
    expect(next.likelihood).toBeGreaterThanOrEqual(before - 1e-12);
    [r, before] = [next.shares.map((s) => [...s]), next.likelihood];
  }
  expect(() => gaussianMixture(rows, 0)).toThrow(/0 components for 120 rows/);
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
