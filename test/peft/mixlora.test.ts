// MixLoRA: the mixture of the best experts against its equation, the balance loss, all experts alike, and counts.
import { expect, test } from 'vitest';
import { float64 } from '../../core/engines/float64.ts';
import type { Tensor } from '../../core/tensor.ts';
import { context } from '../../nn/context.ts';
import { mixlora } from '../../peft/additive/mixlora.ts';
import { mixloraExperts } from '../../peft/additive/mixloraExperts.ts';
import { llamaNetwork, perturb, WIDTH } from '../laws/models.ts';
import { affine, apart, layerAt, own, plus, random, rowsOf, scaled, silu, softmax, trained } from './naive.ts';

const engine = float64();
const { base } = llamaNetwork(1);
const at = 'trunk.blocks.0.mlp';
const [E, K, r, tokens] = [4, 2, 2, 5];
const c = { experts: E, topK: K, rank: r, alpha: 3, balance: 0.5 };
const x = random(3, [1, tokens, WIDTH]);

test('a token hears its two best experts, by shares that sum to 1; the balance loss counts both choices', async () => {
  const model = perturb(mixloraExperts(c)(base), 2, 1);
  const p = await own(engine, model, at);
  const W = async (name: string) => (await own(engine, base, `${at}.${name}`)).weight!;
  const weights = { gate: await W('gate'), up: await W('up'), down: await W('down') };
  const order = ['gate', 'up', 'down'] as const; // as the layers stand in the tree
  const rows = rowsOf(await engine.read(x), WIDTH);
  const shares = rows.map((row) => softmax(affine([row], p['mixloraExperts.router']!)[0]!));
  const best = shares.map((g) => [...g.keys()].sort((a, b) => g[b]! - g[a]!).slice(0, K));
  const ffn = (row: number[], e: number): number[] => {
    const through = (name: (typeof order)[number], v: number[]): number[] => {
      const k = e * order.length + order.indexOf(name);
      const update = affine(affine([v], p[`mixloraExperts.A.${k}`]!), p[`mixloraExperts.B.${k}`]!);
      return plus(
        affine([v], weights[name]),
        scaled(update, () => 1.5),
      )[0]!;
    };
    const up = through('up', row);
    return through(
      'down',
      through('gate', row).map((v, j) => silu(v) * up[j]!),
    );
  };
  const expected = rows.flatMap((row, t) => {
    const whole = best[t]!.reduce((s, e) => s + shares[t]![e]!, 0);
    const heard = best[t]!.map((e) => ffn(row, e).map((v) => (v * shares[t]![e]!) / whole));
    return heard[0]!.map((v, j) => v + heard[1]![j]!);
  });
  const losses: Tensor[] = [];
  const y = layerAt(model, 'branch', at)(x, context(tokens, { aux: (_, l) => losses.push(l) }));
  expect(apart(await engine.read(y), expected)).toBeLessThan(1e-12);
  expect(new Set(best.flat()).size).toBeGreaterThan(K); // tokens differ in their choice
  const balance = [0, 1, 2, 3].reduce((s, e) => {
    const chosen = best.filter((b) => b.includes(e)).length / tokens;
    return s + chosen * (shares.reduce((n, g) => n + g[e]!, 0) / tokens);
  }, 0);
  expect(await engine.item(losses[0]!)).toBeCloseTo(0.5 * E * balance, 12);
});

test('counts E·Σ r(in + out) + E·d, and LoRA on the attention', () => {
  const experts = trained(mixloraExperts(c)(base));
  expect(experts).toBe(2 * E * (3 * r * (WIDTH + 12) + WIDTH)); // two blocks; gate, up and down are 8 by 12
  expect(trained(mixlora({ ...c, attention: 'q' })(base)) - experts).toBe(2 * r * 2 * WIDTH);
});

test('refused: more choices than experts, no experts, negative balance', () => {
  expect(() => mixloraExperts({ experts: 2, topK: 3, rank: 1 })(base)).toThrow(/topK 3 of 2 experts/);
  expect(() => mixloraExperts({ experts: 0 })(base)).toThrow(/experts 0/);
  expect(() => mixlora({ balance: -1, rank: 1 })(base)).toThrow(/balance -1/);
});
