// A table of vectors looked up by id.

import { gather } from '../core/ops/index.ts';
import type { Rng } from '../core/rng.ts';
import { param } from '../core/tensor.ts';
import { type Layer, layer } from './layer.ts';
import { weight } from './linear.ts';

/**
 * ids [B, T] → rows of weight [V, D]: [B, T, D]. Ids outside the table are refused when they are fed. Id 0 is row `offset`
 * (RoBERTa's positions start after two rows).
 */
export const embedding = (table: Layer<'weight'>, offset = 0): Layer<'embedding'> =>
  layer('embedding', { weight: table, offset }, (f) => (ids, ctx) => gather(f.weight(ctx), f.offset === 0 ? ids : ids.add(f.offset)));

/** A fresh table: N(0, std²). */
export const newTable = (rows: number, width: number, r: Rng, std = 0.02): Layer<'weight'> =>
  weight(param(r.normal(rows * width, std), [rows, width]));
