// Files of methods that train a few numbers at fixed places: SHiRA and Super-Tuning (entries of the weight), FourierFT and WaveFT (of its spectrum).
import { z } from 'zod';
import { leaf } from '../../core/tensor.ts';
import type { Model } from '../../nn/layer.ts';
import { layers, mapTensors, tensors } from '../../nn/tree.ts';
import { type FourierConfig, fourierft } from '../../peft/reparameterized/fourierft.ts';
import { type LoraConfig, lora } from '../../peft/reparameterized/lora.ts';
import { type WaveftConfig, waveft } from '../../peft/reparameterized/waveft.ts';
import { placesAt } from '../../peft/select.ts';
import { type ShiraConfig, shira } from '../../peft/selective/shira.ts';
import { type SupertuningConfig, supertuning } from '../../peft/selective/supertuning.ts';
import type { Place } from '../names.ts';
import { tableOf, weightShape } from './adapter.ts';
import { equal } from './attachments.ts';
import { count, orNull, real, whole } from './config.ts';
import { BIAS, count1, dropout, EXCLUDE, FAN, INIT, number, patterns, TARGETS, yes } from './fields.ts';
import { type AnyFormat, asAny, evenly, field, mostly, renamed, type Spot, same, type Table, Unsupported } from './format.ts';
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

const notTheirs = (method: string, spot: Pick<Spot<unknown>, 'path' | 'config'>): string =>
  `savePeft: the places of ${method} at ${spot.path} are not those that seed ${seedOf(spot)} gives in PyTorch, and a file has only the seed. Attach it, then take theirs before training: withTorchPlaces(model)`;

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
      throw new Error(notTheirs('fourierft', spot));
    return { fourierft_spectrum: c! };
  },
});

const WAVEFT_FIELDS = {
  ...TARGETS,
  ...EXCLUDE,
  ...FAN,
  ...BIAS,
  ...INIT,
  n_frequency: count1(2592),
  scaling: number(25),
  wavelet_family: field(z.string().optional(), 'db1'),
  use_idwt: yes(true),
  random_loc_seed: field(orNull(whole), SEED),
  n_frequency_pattern: patterns(count),
  proportional_parameters: yes(false),
} as const;
/** Where the library draws them with a seed: in a table of the weight's size made even, whose quarters are sums and differences. */
function drawnWaves([out, into]: readonly [number, number], n: number, haar: boolean, seed: number): { row: Table; col: Table } {
  const places = firstOfRandperm(out * into, n, seed).map((p) => [Math.floor(p / into), p % into] as const);
  const [rows, cols] = [Math.ceil(out / 2), Math.ceil(into / 2)];
  const at = places.map(([p, q]) => (haar ? [(p % rows) + (q < cols ? 0 : rows), (q % cols) + (p < rows ? 0 : cols)] : [p, q]));
  const table = (d: 0 | 1): Table => ({ data: Int32Array.from(at, (place) => place[d]!), shape: [n] });
  return { row: table(0), col: table(1) };
}
/** With proportional_parameters each layer has its share of n·layers by its size. */
function shares(n: number, places: readonly Place[]): (module: string) => number {
  const sizes = new Map(places.map((p) => [p.module, weightShape(p)[0] * weightShape(p)[1]]));
  const all = [...sizes.values()].reduce((a, b) => a + b, 0);
  return (module) => Math.max(1, evenly((sizes.get(module)! / all) * (n * sizes.size)));
}
/** waveft_spectrum [n]; the places are in the seed alone. */
const WAVEFT = asAny<WaveftConfig, typeof WAVEFT_FIELDS>({
  peftType: 'WAVEFT',
  method: 'waveft',
  fields: WAVEFT_FIELDS,
  on: 'linear',
  conv1d: true,
  options: (c, places) => {
    const haar = c.use_idwt ?? true;
    if (haar && (c.wavelet_family ?? 'db1') !== 'db1')
      throw new Unsupported(`wavelet_family is ${JSON.stringify(c.wavelet_family)}; only "db1" (Haar) is there`);
    const n =
      c.proportional_parameters === true
        ? shares(c.n_frequency ?? 2592, places)
        : byPattern(
            c.n_frequency_pattern as Readonly<Record<string, number>> | null,
            [...new Set(places.map((p) => p.module))],
            c.n_frequency ?? 2592,
          );
    return (place) => ({ coefficients: n(place!.module), scaling: c.scaling ?? 25, haar });
  },
  attach: (o) => waveft(o),
  config: (at) => {
    const n = mostly(at, (o) => o.coefficients);
    return {
      n_frequency: n.usual,
      n_frequency_pattern: n.others,
      scaling: same(at, 'scaling', (o) => o.scaling),
      use_idwt: same(at, 'haar', (o) => o.haar),
    };
  },
  decode: (get, spot) => ({
    c: get('waveft_spectrum'),
    ...drawnWaves(weightShape(spot.place!), spot.options.coefficients, spot.options.haar, seedOf(spot)),
  }),
  encode: ({ c, row, col }, spot) => {
    const drawn = drawnWaves(weightShape(spot.place!), spot.options.coefficients, spot.options.haar, seedOf(spot));
    if (!equal(row!.data, drawn.row.data) || !equal(col!.data, drawn.col.data)) throw new Error(notTheirs('waveft', spot));
    return { waveft_spectrum: c! };
  },
});

const SUPER_FIELDS = {
  target_modules: TARGETS.target_modules,
  ...INIT,
  sparsity: number(0.99),
  select_top: yes(true),
  r: field(orNull(count), null),
  lora_alpha: field(orNull(real), null),
  lora_dropout: dropout,
  save_precomputed_indices: yes(true),
} as const;
/** Flat places in the library's order: by size of the weight's entries. Of equal entries the earlier comes first, where the library says nothing. */
function bySize(spot: Spot<SupertuningConfig>, places: Iterable<number>): number[] {
  const w = spot.base('weight').data;
  const sign = spot.options.select === 'largest' ? -1 : 1;
  return [...places].sort((a, b) => sign * (Math.abs(w[a]!) - Math.abs(w[b]!)) || a - b);
}
/** The places that follow from the weight, where the file has none; refused where equal entries leave them open. */
function chosenAgain(spot: Spot<SupertuningConfig>, n: number): number[] {
  const w = spot.base('weight').data;
  const all = bySize(spot, w.keys());
  const tie = all.slice(0, n).findIndex((p, k) => Math.abs(w[p]!) === Math.abs(w[all[k + 1]!] ?? Number.NaN));
  if (tie >= 0)
    throw new Unsupported(
      `save_precomputed_indices is false, and ${spot.place!.module} has equal weights, whose order the file does not tell. Where the adapter was trained, set save_precomputed_indices=True and save it again`,
    );
  return all.slice(0, n);
}
/** With `r`, a LoRA at the same layers (Supra): supertuning_lora_A.weight [r, in], supertuning_lora_B.weight [out, r]; α is 2r when it is not given. */
const SUPRA = asAny<LoraConfig, typeof SUPER_FIELDS>({
  peftType: 'SUPERTUNING',
  method: 'lora',
  fields: SUPER_FIELDS,
  on: 'linear',
  conv1d: false,
  is: (c) => c.r != null,
  options:
    ({ r, lora_alpha: alpha, lora_dropout: dropout = 0 }) =>
    () => ({ rank: r!, alpha: alpha ?? 2 * r!, rankStabilized: false, dropout, init: 'kaiming' }),
  attach: (o) => lora(o),
  config: (at) => {
    if (same(at, 'rankStabilized', (o) => o.rankStabilized))
      throw new Unsupported('the lora beside supertuning is rankStabilized, and Supra scales by α/r; save it apart, or change alpha');
    return {
      r: same(at, 'rank', (o) => o.rank),
      lora_alpha: same(at, 'alpha', (o) => o.alpha),
      lora_dropout: same(at, 'dropout', (o) => o.dropout),
    };
  },
  ...renamed({ A: 'supertuning_lora_A.weight', B: 'supertuning_lora_B.weight' }),
});
/** supertuning_values [k], supertuning_indices [k]: flat places, by the size of what is there. */
const SUPERTUNING = asAny<SupertuningConfig, typeof SUPER_FIELDS>({
  peftType: 'SUPERTUNING',
  method: 'supertuning',
  fields: SUPER_FIELDS,
  on: 'weight',
  conv1d: false,
  beside: [SUPRA],
  options: (c) => () => ({ sparsity: c.sparsity ?? 0.99, select: (c.select_top ?? true) ? 'largest' : 'smallest' }),
  attach: (o) => supertuning(o),
  config: (at) => ({ sparsity: same(at, 'sparsity', (o) => o.sparsity), select_top: same(at, 'select', (o) => o.select) === 'largest' }),
  decode: (get, spot) => {
    const values = get('supertuning_values');
    const n = values.data.length;
    const flat = get.has('supertuning_indices') ? get('supertuning_indices').data : chosenAgain(spot, n);
    const order = Array.from({ length: n }, (_, k) => k).sort((a, b) => flat[a]! - flat[b]!);
    const { start, col } = placesAt(flat, weightShape(spot.place!));
    return { values: { data: Float32Array.from(order, (k) => values.data[k]!), shape: [n] }, start: tableOf(start)!, col: tableOf(col)! };
  },
  encode: ({ values, start, col }, spot) => {
    const places = flatPlaces(start!, col!, weightShape(spot.place!)[1]);
    const at = new Map(places.map((p, k) => [p, k]));
    const order = bySize(spot, places);
    const n = order.length;
    const kept = spot.config?.save_precomputed_indices !== false;
    if (!kept && chosenAgain(spot, n).some((p, k) => p !== order[k]))
      throw new Error(`savePeft: the places of supertuning at ${spot.path} are not those of the weight; leave out \`like\` to write them`);
    return {
      supertuning_values: { data: Float64Array.from(order, (p) => values!.data[at.get(p)!]!), shape: [n] },
      ...(kept ? { supertuning_indices: { data: Int32Array.from(order), shape: [n] } } : {}),
    };
  },
});
/** Flat places of a sparse matrix with rows of `width`. */
function flatPlaces(start: Table, col: Table, width: number): number[] {
  const places: number[] = [];
  for (let row = 0; row + 1 < start.data.length; row++)
    for (let j = start.data[row]!; j < start.data[row + 1]!; j++) places.push(row * width + col.data[j]!);
  return places;
}

/** A model whose FourierFT and WaveFT stand at the places that PyTorch draws with seed 777: needed before training what `savePeft` is to write. */
export function withTorchPlaces(model: Model): Model {
  const now = new Map<unknown, Table>();
  for (const { layer } of layers(model)) {
    const method = layer.attached?.method;
    if (layer.attached === null || (method !== 'fourierft' && method !== 'waveft')) continue;
    const own = new Map([...tensors(layer.fields[layer.attached.field] ?? null)].map(({ path, tensor }) => [path, tensor]));
    const [shape, n] = [weightShape({ layer: layer.attached.under }), own.get('c')!.shape[0]!];
    const { haar } = layer.attached.application.config as Partial<WaveftConfig>;
    const drawn = method === 'fourierft' ? drawnPlaces(shape, n, SEED) : drawnWaves(shape, n, haar ?? true, SEED);
    for (const [name, table] of Object.entries(drawn)) now.set(own.get(name), table);
  }
  return mapTensors(model, (t) => {
    const table = now.get(t);
    return table === undefined ? t : leaf(table.data, table.shape);
  });
}

export const SPARSE: readonly AnyFormat[] = [SHIRA, FOURIERFT, WAVEFT, SUPERTUNING];
