// S4, AutoPEFT and LLM-Adapters: budgets kept, spindles, the greedy procedure and the searches on objectives with a known best.
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { float64 } from '../../core/engines/float64.ts';
import { rng } from '../../core/rng.ts';
import { decoder, gpt2, llama } from '../../nn/decoder.ts';
import { freeze } from '../../nn/freeze.ts';
import { autopeft, autopeftSpace } from '../../peft/hybrid/autopeft.ts';
import { llmAdapters } from '../../peft/hybrid/llmAdapters.ts';
import { s4 } from '../../peft/hybrid/s4.ts';
import { s4Plan } from '../../peft/hybrid/s4Plan.ts';
import { type Design, s4Search } from '../../peft/hybrid/s4Search.ts';
import { groupings, spindle } from '../../peft/hybrid/s4Spaces.ts';
import { dominates, paretoFront } from '../../peft/pareto.ts';
import { evolve, paretoSearch, randomSearch, type Space } from '../../peft/search.ts';
import { llamaNetwork, numbersOf } from '../laws/models.ts';
import { apart, trained } from './naive.ts';

const six = freeze(decoder(gpt2({ vocabulary: 11, width: 8, layers: 6, heads: 2, positions: 64, inner: 12 }), rng(1)));

describe('s4', () => {
  it('spindles cover the layers, thin at both ends', () => {
    for (let L = 4; L <= 48; L++) {
      const [a, b, c, d] = spindle(L) as [number, number, number, number];
      expect([a + b + c + d, a >= 1, a === d, b >= a && c >= a, b - c <= 1]).toEqual([L, true, true, true, true]);
    }
    expect(spindle(12)).toEqual([2, 4, 4, 2]);
    expect(() => spindle(3)).toThrow(/3 layers do not make four groups/);
  });
  it('groupings cover the layers with at least one in each', () => {
    for (let L = 4; L <= 24; L++)
      for (const sizes of groupings(L).values())
        expect([sizes.reduce((a, b) => a + b), Math.min(...sizes) >= 1, sizes.length]).toEqual([L, true, 4]);
  });
  it('keeps any budget, and leaves less than one unit of each method of each layer unused', () => {
    fc.assert(
      fc.property(fc.integer({ min: 1800, max: 3400 }), (budget) => {
        const plan = s4Plan(six, { budget });
        const used = trained(s4(plan)(six));
        const units = plan.reduce(
          (n, g) => n + g.blocks.length * ((g.adapter > 0 ? 17 : 0) + (g.lora > 0 ? 32 : 0) + (g.prefix > 0 ? 16 : 0)),
          0,
        );
        expect(used).toBeLessThanOrEqual(budget);
        expect(budget - used).toBeLessThan(units);
        expect(plan.flatMap((g) => g.blocks)).toEqual([0, 1, 2, 3, 4, 5]);
      }),
      { numRuns: 20 },
    );
  });
  it('has the mixtures of the paper, and refuses budgets that cannot be met', () => {
    const kinds = s4Plan(six, { budget: 4000 }).map((g) => [g.adapter > 0, g.lora > 0, g.prefix > 0, g.bitfit]);
    expect(kinds).toEqual([
      [true, true, false, false],
      [true, false, true, false],
      [true, false, true, true],
      [false, true, true, true],
    ]);
    expect(() => s4Plan(six, { budget: 100 })).toThrow(
      /group 1 gets 16 scalars per layer, too few for adapter \+ lora.*raise the budget above 100/,
    );
    expect(() => s4Plan(six, { budget: 4000, sizes: [1, 1, 1, 1] })).toThrow(/do not cover the 6 blocks/);
    expect(s4Plan(six, { budget: 4000, shares: [0, 1, 1, 0] }).flatMap((g) => g.blocks)).toEqual([1, 2, 3, 4]);
  });
  it('is found by the greedy procedure where the score is the sum of its parts', async () => {
    const best = [['lora'], ['adapter', 'prefix'], ['bitfit'], ['lora', 'prefix']];
    const score = async (d: Design): Promise<number> => {
      const pattern = Math.abs(d.sizes[0]! - 1) + Math.abs(d.sizes[1]! - 2) + Math.abs(d.sizes[2]! - 2);
      const uniform = new Set(d.shares.filter((s) => s > 0)).size;
      const groups = d.strategies.reduce(
        (n, s, k) =>
          n +
          (d.shares[k] === 0 ? 5 : s.filter((x) => !best[k]!.includes(x)).length + best[k]!.filter((x) => !s.includes(x as never)).length),
        0,
      );
      return -10 * pattern - 3 * uniform - groups;
    };
    const { design, decisions } = await s4Search(score, { layers: 6, samples: 6, seed: 2 });
    expect(decisions.map((d) => d.part)).toEqual(['grouping', 'allocation', 'tuned', 'group 1', 'group 2', 'group 3', 'group 4']);
    expect(decisions[0]!.chosen).toBe('spindle');
    expect(decisions[1]!.chosen).toBe('uniform');
    expect(design.strategies.map((s) => [...s].sort())).toEqual(best.map((s) => [...s].sort()));
    expect((await s4Search(score, { layers: 6, samples: 6, seed: 2 })).design).toEqual(design);
  });
});

describe('searches', () => {
  /** Ten digits, each with a best value; the size is their sum. */
  const goal = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3];
  const space: Space<readonly number[]> = {
    draw: (r) => goal.map(() => r.below(10)),
    mutate: (c, r) => c.with(r.below(10), r.below(10)),
    size: (c) => c.reduce((a, b) => a + b),
    key: (c) => c.join(''),
  };
  const off = async (c: readonly number[]): Promise<number> => c.reduce((n, v, i) => n + Math.abs(v - goal[i]!), 0);
  const lowest = (all: readonly { loss: number }[]): number => Math.min(...all.map((t) => t.loss));
  it('the front is what nothing dominates, and everything else is dominated', () => {
    fc.assert(
      fc.property(
        fc.array(fc.record({ config: fc.nat(), loss: fc.integer({ min: 0, max: 6 }), size: fc.integer({ min: 0, max: 6 }) })),
        (all) => {
          const front = paretoFront(all);
          for (const f of front) expect(all.some((t) => dominates(t, f))).toBe(false);
          for (const t of all) expect(front.some((f) => dominates(f, t) || (f.loss === t.loss && f.size === t.size))).toBe(true);
          for (const [k, f] of front.entries())
            if (k > 0) expect([f.size > front[k - 1]!.size, f.loss < front[k - 1]!.loss]).toEqual([true, true]);
        },
      ),
    );
    expect(paretoFront([{ config: 1, loss: Number.NaN, size: 1 }])).toEqual([]);
  });
  it('never evaluate twice or above the limit, follow their seed, and beat random draws at equal evaluations', async () => {
    const wins = { evolve: 0, pareto: 0 };
    for (let seed = 0; seed < 10; seed++) {
      const o = { evaluations: 120, limit: 50, seed };
      const [a, b, c] = [
        await randomSearch(space, off, o),
        await evolve(space, off, o),
        await paretoSearch(space, off, { ...o, first: 20 }),
      ];
      for (const tried of [a, b, c]) {
        expect(tried.length).toBe(120);
        expect(new Set(tried.map((t) => space.key(t.config))).size).toBe(120);
        expect(Math.max(...tried.map((t) => t.size))).toBeLessThanOrEqual(50);
      }
      expect(await evolve(space, off, o)).toEqual(b);
      if (lowest(b) < lowest(a)) wins.evolve++;
      if (lowest(c) < lowest(a)) wins.pareto++;
    }
    expect(wins.evolve).toBeGreaterThanOrEqual(9);
    expect(wins.pareto).toBeGreaterThanOrEqual(8);
  });
  it('end when the space is exhausted, and say when the limit leaves nothing', async () => {
    const two: Space<number> = { draw: (r) => r.below(2), mutate: (c) => 1 - c, size: (c) => c, key: String };
    expect((await randomSearch(two, async (c) => c, { evaluations: 10 })).length).toBe(2);
    await expect(randomSearch(two, async (c) => c, { evaluations: 10, limit: -1 })).rejects.toThrow(/at most -1 scalars.*raise the limit/);
  });
});

describe('autopeft', () => {
  it('counts what it trains, draws and mutates only what trains something, within the sizes of the paper', () => {
    const space = autopeftSpace(six);
    const r = rng(5);
    for (let k = 0, c = space.draw(r); k < 30; k++, c = space.mutate(c, r)) {
      expect(space.size(c)).toBe(trained(autopeft(c)(six)));
      expect([c.serial, c.parallel, c.prefix].every((n) => [0, 1, 2, 4, 8].includes(n))).toBe(true);
    }
    expect(() => autopeft({ serial: 1, parallel: 0, prefix: 0, layers: [false] })).toThrow(/trains nothing/);
  });
});

describe('llmAdapters', () => {
  it('puts each method where the paper found it best; a fresh one computes what the base does, except the prefix', async () => {
    const net = llamaNetwork(71);
    const base = await numbersOf(float64(), net, net.base);
    const small = { bottleneck: 3, rank: 2, length: 2 };
    const d = 8;
    const adapter = 2 * (2 * 3 * d + 3 + d);
    const counts = { prefix: 2 * 2 * 2 * 4, series: adapter, parallel: adapter, lora: 2 * 2 * (16 + 12 + 12 + 20 + 20) } as const;
    for (const placement of ['prefix', 'series', 'parallel', 'lora'] as const) {
      const model = llmAdapters(placement, small)(net.base);
      expect(trained(model), placement).toBe(counts[placement]);
      const distance = apart(await numbersOf(float64(), net, model), base);
      if (placement === 'prefix') expect(distance).toBeGreaterThan(1e-6);
      else expect(distance).toBeLessThan(1e-12);
    }
    expect(() =>
      llmAdapters('lora', { rank: 99 })(freeze(decoder(llama({ vocabulary: 11, width: 8, layers: 1, heads: 2, positions: 8 }), rng(1)))),
    ).toThrow(/rank 99/);
  });
});
