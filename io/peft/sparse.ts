// Files of methods that train a few numbers at fixed places: SHiRA (entries of the weight) and FourierFT (of its spectrum).
import { z } from 'zod';
import { leaf } from '../../core/tensor.ts';
import type { Model } from '../../nn/layer.ts';
import { layers, mapTensors, tensors } from '../../nn/tree.ts';
import { type FourierConfig, fourierft } from '../../peft/reparameterized/fourierft.ts';
import { placesAt } from '../../peft/select.ts';
import { type ShiraConfig, shira } from '../../peft/selective/shira.ts';
import { tableOf, weightShape } from './adapter.ts';
import { count, orNull, whole } from './config.ts';
import { BIAS, count1, EXCLUDE, FAN, INIT, number, patterns, TARGETS } from './fields.ts';
import { type AnyFormat, asAny, field, mostly, type Spot, same, type Table } from './format.ts';
import { byPattern } from './targets.ts';
import { firstOfRandperm } from './torchRandom.ts';

const SHIRA_FIELDS = {
  target_modules: TARGETS.target_modules,
  ...FAN,
  ...INIT,
  r: count1(32),
  mask_type: field(z.string().optional(), 'random'),
  random_seed: field(orNull(whole), null),
} as const;
/** shira_weight [k] and shira_indices [2, k]: rows, then columns; ours are sorted by place and stored as a sparse matrix has them. */
const SHIRA = asAny<ShiraConfig, typeof SHIRA_FIELDS>({
  peftType: 'SHIRA',
  method: 'shira',
  fields: SHIRA_FIELDS,
  on: 'weight',
  conv1d: false,
  options: (c) => () => ({ rank: c.r ?? 32, mask: 'random', scale: 1 }),
  normal: ({ rank, scale }) => ({ rank, mask: 'random', scale }), // how places were chosen is not needed any more: they are in the file
  attach: (o) => shira(o),
  config: (at) => ({ r: same(at, 'rank', (o) => o.rank) }),
  decode: (get, { place }) => {
    const shape = weightShape(place!);
    const [values, indices] = [get('shira_weight'), get('shira_indices')];
    const k = values.data.length;
    const flat = Float64Array.from({ length: k }, (_, j) => indices.data[j]! * shape[1] + indices.data[k + j]!);
    const order = Array.from(flat.keys()).sort((a, b) => flat[a]! - flat[b]!);
    const { start, col } = placesAt(flat, shape);
    return {
      values: { data: Float32Array.from(order, (j) => values.data[j]!), shape: [k] },
      start: tableOf(start)!,
      col: tableOf(col)!,
    };
  },
  encode: ({ values, start, col }, { options: { scale } }) => {
    const k = values!.data.length;
    const indices = new Int32Array(2 * k);
    for (let row = 0; row + 1 < start!.data.length; row++)
      for (let j = start!.data[row]!; j < start!.data[row + 1]!; j++) {
        indices[j] = row;
        indices[k + j] = col!.data[j]!;
      }
    return {
      shira_weight: { data: Float64Array.from(values!.data, (v) => v * scale), shape: [k] },
      shira_indices: { data: indices, shape: [2, k] },
    };
  },
});

const FOURIER_FIELDS = {
  ...TARGETS,
  ...EXCLUDE,
  ...FAN,
  ...BIAS,
  n_frequency: count1(1000),
  scaling: number(150),
  random_loc_seed: field(orNull(whole), 777),
  n_frequency_pattern: patterns(count),
  init_weights: field(z.boolean().optional(), false),
} as const;
const SEED = 777;
/** Rows u and columns v of the spectrum that the library draws with a seed. */
function drawnPlaces([out, into]: readonly [number, number], n: number, seed: number): { u: Table; v: Table } {
  const places = firstOfRandperm(out * into, n, seed);
  const table = (f: (p: number) => number): Table => ({ data: Float32Array.from(places, f), shape: [n] });
  return { u: table((p) => Math.floor(p / into)), v: table((p) => p % into) };
}
const seedOf = ({ config }: Pick<Spot<unknown>, 'config'>): number =>
  typeof config?.random_loc_seed === 'number' ? config.random_loc_seed : SEED;

/** fourierft_spectrum [n]; the places are in the seed alone. */
const FOURIERFT = asAny<FourierConfig, typeof FOURIER_FIELDS>({
  peftType: 'FOURIERFT',
  method: 'fourierft',
  fields: FOURIER_FIELDS,
  on: 'linear',
  conv1d: true,
  options: (c, places) => {
    const n = byPattern(
      c.n_frequency_pattern as Readonly<Record<string, number>> | null,
      [...new Set(places.map((p) => p.module))],
      c.n_frequency ?? 1000,
    );
    return (place) => ({ coefficients: n(place!.module), scaling: c.scaling ?? 150, init: c.init_weights === true ? 'zero' : 'normal' });
  },
  attach: (o) => fourierft(o),
  config: (at) => {
    const n = mostly(at, (o) => o.coefficients);
    return {
      n_frequency: n.usual,
      n_frequency_pattern: n.others,
      scaling: same(at, 'scaling', (o) => o.scaling),
      init_weights: same(at, 'init', (o) => o.init) === 'zero',
    };
  },
  decode: (get, spot) => ({
    c: get('fourierft_spectrum'),
    ...drawnPlaces(weightShape(spot.place!), spot.options.coefficients, seedOf(spot)),
  }),
  encode: ({ c, u, v }, spot) => {
    const drawn = drawnPlaces(weightShape(spot.place!), spot.options.coefficients, seedOf(spot));
    if (![u!.data, v!.data].every((own, i) => own.every((p, k) => p === [drawn.u, drawn.v][i]!.data[k])))
      throw new Error(
        `savePeft: the places of fourierft at ${spot.path} are not those that seed ${seedOf(spot)} gives in PyTorch, and a file has only the seed. Attach it, then take theirs before training: withTorchPlaces(model)`,
      );
    return { fourierft_spectrum: c! };
  },
});

/** A model whose FourierFT stands at the places that PyTorch draws with seed 777: needed before training what `savePeft` is to write. */
export function withTorchPlaces(model: Model): Model {
  const now = new Map<unknown, Table>();
  for (const { layer } of layers(model)) {
    if (layer.attached?.method !== 'fourierft') continue;
    const own = new Map([...tensors(layer.fields[layer.attached.field] ?? null)].map(({ path, tensor }) => [path, tensor]));
    const w = layer.attached.under;
    const { u, v } = drawnPlaces(weightShape({ layer: w }), own.get('u')!.shape[0]!, SEED);
    now.set(own.get('u'), u).set(own.get('v'), v);
  }
  return mapTensors(model, (t) => {
    const table = now.get(t);
    return table === undefined ? t : leaf(table.data, table.shape);
  });
}

export const SPARSE: readonly AnyFormat[] = [SHIRA, FOURIERFT];
