// A table of vectors looked up by id.

import { gather } from '../core/ops/index.ts';
import type { Rng } from '../core/rng.ts';
import { param } from '../core/tensor.ts';
import { type Layer, layer } from './layer.ts';
import { weight } from './linear.ts';

/** ids [B, T] → rows of weight [V, D]: [B, T, D]. Ids outside the table are refused when they are fed. */
export const embedding = (table: Layer<'weight'>): Layer<'embedding'> =>
  layer('embedding', { weight: table }, (f) => (ids) => gather(f.weight(), ids));

/** A fresh table: N(0, std²). */
export const newTable = (rows: number, width: number, r: Rng, std = 0.02): Layer<'weight'> =>
  weight(param(r.normal(rows * width, std), [rows, width]));
