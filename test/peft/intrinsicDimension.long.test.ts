// Intrinsic dimension as it was measured (Aghajanyan et al. 2021, §3): the more directions, the nearer to full fine-tuning, and a pretrained network
// gets far with fewer directions than it has weights. This network is small: 4,096 of its 99,968 do not reach 90 % (d₉₀), 64 gain 46 % already.
import { expect, test } from 'vitest';
import { type Demo, demo, restore } from '../../cli/demo.ts';
import { compare } from '../../cli/methodTrain.ts';
import { openEngine } from '../../core/open.ts';
import { unfreeze } from '../../nn/freeze.ts';
import type { Model } from '../../nn/layer.ts';
import { trainable } from '../../nn/tree.ts';
import { evaluate } from '../../optim/evaluate.ts';
import { said } from '../../peft/reparameterized/said.ts';

const DIMS = [64, 256, 1024, 4096];
const inBlocks = (path: string): boolean => /\bblocks\./.test(path);

test('loss over dimension falls, and 64 directions gain more than a third of what full fine-tuning does', async () => {
  const engine = await openEngine();
  const task: Demo = (await demo({ engine }))!;
  const o = { engine, steps: 100, seeds: 1, rates: [0.002, 0.01, 0.05, 0.2] };
  const loss = async (name: string, make: (seed: number) => Model): Promise<number> => {
    const about = { name, family: 'reparameterized', place: ['weight'], mergeable: true, composable: 'any' } as const;
    return (await compare(about, async (seed) => make(seed), task, o))!.losses[0]!;
  };
  const base = await evaluate(task.base, { engine, measure: restore, batches: task.test });
  const whole = unfreeze(task.base, inBlocks);
  const full = await loss('full', () => whole);
  const size = [...trainable(whole).keys()].reduce((n, p) => n + p.value.length, 0);
  const curve: number[] = [];
  for (const dim of DIMS) curve.push(await loss(`said ${dim}`, (seed) => said({ dim, seed, where: inBlocks })(task.base)));
  const shares = curve.map((l) => (base - l) / (base - full));
  console.log(
    `base ${base.toFixed(3)}, full ${full.toFixed(3)}; ${DIMS.map((d, k) => `${d}: ${curve[k]!.toFixed(3)} (${(100 * shares[k]!).toFixed(0)} %)`).join(', ')}; ${size} weights`,
  );
  for (let k = 1; k < DIMS.length; k++) expect(curve[k], `${DIMS[k]} directions`).toBeLessThan(curve[k - 1]! + 0.01);
  expect(shares[0]).toBeGreaterThan(1 / 3);
  expect(shares.at(-1)).toBeGreaterThan(shares[0]!);
  engine.close();
}, 1_200_000);
