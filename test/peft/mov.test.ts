// MoV and MoLoRA: mixtures against their equations, one expert as the method without a router, and the balance loss.
import { expect, test } from 'vitest';
import { float64 } from '../../core/engines/float64.ts';
import { leaf, type Tensor } from '../../core/tensor.ts';
import { context } from '../../nn/context.ts';
import { ia3 } from '../../peft/additive/ia3.ts';
import { molora } from '../../peft/additive/molora.ts';
import { mov } from '../../peft/additive/mov.ts';
import { routed } from '../../peft/additive/router.ts';
import { gpt2Network, llamaNetwork, perturb, WIDTH } from '../laws/models.ts';
import { affine, apart, layerAt, own, plus, random, rowsOf, softmax, trained } from './naive.ts';

const engine = float64();
const { base } = llamaNetwork(1);
const tokens = 4;

test('MoV rescales an output, or the input of down, with each token’s mixture of vectors', async () => {
  const model = perturb(mov({ experts: 3 })(base), 2);
  for (const at of ['trunk.blocks.0.attn.v', 'trunk.blocks.1.mlp.down']) {
    const p = await own(engine, model, at);
    const W = (await own(engine, base, at)).weight!;
    const x = random(3, [1, tokens, W[0]!.length]);
    const rows = rowsOf(await engine.read(x), W[0]!.length);
    const rescaled = (z: number[][]): number[][] =>
      z.map((row) => {
        const g = softmax(affine([row], p['mov.router']!)[0]!);
        return row.map((v, j) => v * g.reduce((s, share, e) => s + share * p['mov.l']![e]![j]!, 0));
      });
    const expected = at.endsWith('down') ? affine(rescaled(rows), W) : rescaled(affine(rows, W));
    expect(apart(await engine.read(layerAt(model, 'linear', at)(x, context(tokens))), expected.flat())).toBeLessThan(1e-12);
  }
});

test('one expert is (IA)³, or LoRA; counts E·n and E·n, E·r(in + out) and E·in', async () => {
  const one = perturb(mov({ experts: 1 })(base), 4);
  const l = (await own(engine, one, 'trunk.blocks.0.attn.k'))['mov.l']!.flat();
  const x = random(5, [1, tokens, WIDTH]);
  const k = rowsOf(await engine.read(layerAt(base, 'linear', 'trunk.blocks.0.attn.k')(x, context(tokens))), l.length);
  expect(
    apart(
      await engine.read(layerAt(one, 'linear', 'trunk.blocks.0.attn.k')(x, context(tokens))),
      k.flatMap((r) => r.map((v, j) => v * l[j]!)),
    ),
  ).toBeLessThan(1e-13);
  expect(trained(mov({ experts: 3 })(base))).toBe(3 * 2 * trained(ia3()(base)));
  expect(trained(molora({ experts: 3, rank: 2 })(base))).toBe(2 * 3 * (2 * (8 + 8) + 8 + 2 * (8 + 4) + 8)); // q 8 → 8 and v 8 → 4
});

test('MoLoRA adds s·Σ g_e B_e A_e x', async () => {
  const model = perturb(molora({ experts: 3, rank: 2, alpha: 3 })(base), 6);
  const at = 'trunk.blocks.1.attn.q';
  const [p, W] = [await own(engine, model, at), (await own(engine, base, at)).weight!];
  const x = random(7, [1, tokens, WIDTH]);
  const rows = rowsOf(await engine.read(x), WIDTH);
  const added = rows.map((row) => {
    const g = softmax(affine([row], p['molora.router']!)[0]!);
    const y = Array<number>(WIDTH).fill(0);
    for (const e of [0, 1, 2]) {
      const low = affine([row], p['molora.A']!.slice(2 * e, 2 * e + 2));
      for (const [j, v] of affine(
        low,
        p['molora.B']!.map((b) => b.slice(2 * e, 2 * e + 2)),
      )[0]!.entries())
        y[j]! += 1.5 * g[e]! * v;
    }
    return y;
  });
  expect(apart(await engine.read(layerAt(model, 'linear', at)(x, context(tokens))), plus(affine(rows, W), added).flat())).toBeLessThan(
    1e-12,
  );
});

test('the balance loss is least, its weight, when every expert is preferred as often and as surely', async () => {
  const lossOf = async (x: Tensor, router: Tensor): Promise<number> => {
    const seen: Tensor[] = [];
    routed(x, router, { experts: 2, balance: 0.5 }, context(2, { aux: (_, l) => seen.push(l) }), 'r');
    return engine.item(seen[0]!);
  };
  const router = leaf([5, 0, 0, 5], [2, 2]);
  expect(await lossOf(leaf([1, 0, 0, 1], [2, 2]), router)).toBeCloseTo(0.5, 12); // E·(½·½ + ½·½)·0.5
  expect(await lossOf(leaf([1, 0, 1, 0], [2, 2]), router)).toBeGreaterThan(0.99); // one expert gets all
  const quiet: Tensor[] = [];
  routed(random(1, [2, 2]), router, { experts: 2, balance: 0 }, context(2, { aux: (_, l) => quiet.push(l) }), 'r');
  expect(quiet).toEqual([]);
});

test('refused: no experts, negative balance, a rank above the size of the layer', () => {
  const gpt = gpt2Network(1).base;
  expect(() => mov({ experts: 0 })(gpt)).toThrow(/mov: experts 0 must be a whole number/);
  expect(() => molora({ balance: -1 })(gpt)).toThrow(/balance -1/);
  expect(() => molora({ rank: 9 })(gpt)).toThrow(/molora: rank 9 at/);
});
