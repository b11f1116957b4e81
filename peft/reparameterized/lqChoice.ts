// How LQ-LoRA packs each weight: every weight is taken apart with every scheme, and the budget is spent where it saves most error.

import { square } from '../../core/ops/map.ts';
import type { Rng } from '../../core/rng.ts';
import { size } from '../../core/shape.ts';
import type { Tensor } from '../../core/tensor.ts';
import type { Layer } from '../../nn/layer.ts';
import { tensors } from '../../nn/tree.ts';
import type { Scheme } from '../../quant/quantize.ts';
import type { Env } from '../method.ts';
import { dataOf, examples, scoreSums, weightsOf } from '../sensitivity.ts';
import type { Site } from '../site.ts';
import { allocate } from './lqBudget.ts';
import type { LqLoraConfig } from './lqLora.ts';
import { type LqSplit, split } from './lqSplit.ts';

/** A weight taken apart, and what packs its Q. */
export type Chosen = LqSplit & { readonly scheme: Scheme };

/** Bits of a packed weight, without the table of values, which all share. */
const bitsOf = (packed: Layer<'weight'>): number =>
  [...tensors(packed)].reduce(
    (n, { path, tensor: { source: s } }) => n + (s.kind === 'leaf' && !/(^|\.)values$/.test(path) ? 8 * s.data.byteLength : 0),
    0,
  );

async function fisher(sites: readonly Site<'linear'>[], env: Env): Promise<readonly Float64Array[]> {
  const { batches, loss } = dataOf('lqLora', env);
  return scoreSums('lqLora', weightsOf('lqLora', sites), env, examples(batches, Number.POSITIVE_INFINITY), (model, one, gradients) =>
    gradients(loss(model, one)).map((g): Tensor => square(g)),
  );
}

/** The split and the scheme of each weight, by path. */
export async function chosen(sites: readonly Site<'linear'>[], c: LqLoraConfig, env: Env, r: Rng): Promise<ReadonlyMap<string, Chosen>> {
  const weighed = c.dataAware ? await fisher(sites, env) : null;
  const weights = await Promise.all(sites.map(async (s) => (await env.engine.read(s.weight())).slice()));
  const shapes = sites.map((s) => s.shape as readonly [number, number]);
  const splits = sites.map((s, i) =>
    c.schemes.map((scheme) => split(weights[i]!, shapes[i]!, c, scheme, weighed?.[i] ?? null, r.split(s.path))),
  );
  const bits = splits.map((all, i) => all.map(({ kept }, k) => bitsOf(c.schemes[k]!.pack(kept, shapes[i]!))));
  const numbers = shapes.reduce((n, shape) => n + size(shape), 0);
  const budget = c.bits === null ? Number.POSITIVE_INFINITY : c.bits * numbers;
  const least = bits.reduce((n, of) => n + Math.min(...of), 0);
  if (budget < least)
    throw new RangeError(
      `lqLora: bits ${c.bits} for each number is less than the smallest of the schemes need, ${(least / numbers).toFixed(2)}; give that or more, or smaller schemes`,
    );
  const best = allocate(
    splits.map((all) => all.map((s) => s.error)),
    bits,
    budget,
  );
  return new Map(sites.map((s, i) => [s.path, { ...splits[i]![best[i]!]!, scheme: c.schemes[best[i]!]! }]));
}
