// NOAH: subnets are the leading rows of the supernet, training one leaves the others' rows, and evolution keeps its limits.
import { expect, test } from 'vitest';
import { rng } from '../../core/rng.ts';
import { trainable } from '../../nn/tree.ts';
import { type NoahConfig, noah } from '../../peft/hybrid/noah.ts';
import { noahSearch } from '../../peft/hybrid/noahSearch.ts';
import { noahSpace } from '../../peft/hybrid/noahSpace.ts';
import { inherit, noahSupernet } from '../../peft/hybrid/noahSupernet.ts';
import { llamaNetwork, perturb } from '../laws/models.ts';
import { trained } from './naive.ts';

const { base } = llamaNetwork(1);
const space = noahSpace(base, { sizes: [1, 2, 3], depths: [0, 1, 2], mutation: 1, depthChange: 1 });
const small = { prompt: [2, 0], lora: [1, 2], adapter: [0, 3] };
const valuesOf = (m: typeof base) => new Map([...trainable(m)].map(([p, path]) => [path, p]));

test('a subnet is the leading rows and columns of the supernet, and goes back there', () => {
  const whole = perturb(noah(space.largest)(base), 2);
  const sub = inherit(whole, noah(small)(base));
  const [all, some] = [valuesOf(whole), valuesOf(sub)];
  for (const [path, p] of some) {
    const from = all.get(path)!;
    const [cols, wide] = [p.shape.at(-1)!, from.shape.at(-1)!];
    for (const [k, v] of [...p.value].entries()) expect(v).toBe(Math.fround(from.value[Math.floor(k / cols) * wide + (k % cols)]!));
  }
  const back = valuesOf(inherit(perturb(sub, 3), whole));
  let changed = 0;
  for (const [path, p] of back) changed += [...p.value].filter((v, k) => v !== Math.fround(all.get(path)!.value[k]!)).length;
  expect(changed).toBe(trained(sub)); // its numbers and no others
});

test('size is what is trained; training a supernet visits subnets and keeps its shape', async () => {
  expect(space.size(small)).toBe(trained(noah(small)(base)));
  const seen: number[] = [];
  const train = async (m: typeof base): Promise<typeof base> => {
    seen.push(trained(m));
    return perturb(m, seen.length);
  };
  const whole = await noahSupernet(base, space, { rounds: 4, train });
  expect(trained(whole)).toBe(space.size(space.largest));
  expect(seen.length).toBe(4);
  expect(new Set(seen).size).toBeGreaterThan(1);
});

test('children: one module type whole from either parent; sizes kept where a module stays', () => {
  const [a, b] = [small, space.largest];
  const r = rng(5);
  for (let k = 0; k < 30; k++) {
    const child = space.cross(a, b, r);
    for (const m of ['prompt', 'lora', 'adapter'] as const) expect([a[m], b[m]]).toContainEqual(child[m]);
    const next = space.mutate(b, r);
    for (const m of ['prompt', 'lora', 'adapter'] as const) for (const [i, n] of next[m].entries()) expect([0, b[m][i]]).toContain(n);
  }
});

test('evolution finds a better one than its random start, within the limits, none twice', async () => {
  const accuracy = async (c: NoahConfig): Promise<number> =>
    [...c.lora, ...c.adapter, ...c.prompt].reduce((s, n, k) => s - (n - (k % 4)) ** 2 / 100, 1);
  const o = { limit: 400, least: 40, population: 6, select: 3, mutations: 3, crossovers: 3, seed: 1 };
  const found = await noahSearch(space, accuracy, { ...o, epochs: 6 });
  const start = await noahSearch(space, accuracy, { ...o, epochs: 0 });
  expect(found[0]!.accuracy).toBeGreaterThan(start[0]!.accuracy);
  expect(found.map((t) => t.accuracy)).toEqual(found.map((t) => t.accuracy).sort((a, b) => b - a));
  expect(new Set(found.map((t) => space.key(t.config))).size).toBe(found.length);
  for (const t of found) expect(t.size >= 40 && t.size <= 400).toBe(true);
  await expect(noahSearch(space, accuracy, { limit: 0 })).rejects.toThrow(/no configuration of 1 to 0/);
  expect(() => noah({ prompt: [0], lora: [0], adapter: [0] })).toThrow(/trains nothing/);
  expect(() => noahSpace(base, { depths: [3] })).toThrow(/depth 3 does not fit the 2 blocks/);
});
