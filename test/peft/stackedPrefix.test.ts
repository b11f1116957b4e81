// Prefixes under and over gates: scores and values only add up, so two UniPELT attachments may change places.
import { expect, it } from 'vitest';
import { float64 } from '../../core/engines/float64.ts';
import type { Numbers } from '../../core/plan.ts';
import type { Param } from '../../core/tensor.ts';
import { withValues } from '../../nn/freeze.ts';
import { trainable } from '../../nn/tree.ts';
import { prefixTuning } from '../../peft/additive/prefixTuning.ts';
import { unipelt } from '../../peft/hybrid/unipelt.ts';
import { apart, CLOSE } from '../laws/methodCase.ts';
import { networks, numbersOf, perturb } from '../laws/models.ts';

const engine = float64();
const gated = unipelt({ rank: 2, length: 2, prefixBottleneck: null, where: 'attn' });

for (const net of networks(4))
  it(`on ${net.name}, two gated prefixes and low-rank updates commute`, async () => {
    const model = perturb(gated(gated(prefixTuning({ length: 1, bottleneck: null })(net.base))), 4);
    const byPath = new Map([...trainable(model)].map(([p, path]) => [path, p]));
    const swapped = new Map<Param, Numbers>();
    for (const [path, p] of byPath) {
      const other = byPath.get(path.includes('unipelt2') ? path.replace('unipelt2', 'unipelt') : path.replace('unipelt', 'unipelt2'));
      if (other !== undefined && other !== p) swapped.set(p, Float64Array.from(other.value));
    }
    expect(swapped.size).toBeGreaterThan(20);
    const [a, b] = [await numbersOf(engine, net, model), await numbersOf(engine, net, withValues(model, swapped))];
    expect(apart(a, b)).toBeLessThan(CLOSE);
    expect(apart(a, await numbersOf(engine, net, net.base))).toBeGreaterThan(1e-3);
  });
