// Files of AdaMSS: the projection, and two factors for each cluster. Which outputs are in which cluster follows from the weight (adamssClusters.ts).
//   adamss_newB [R, in] or, with a bias, [R, in + 1];   adamss_A.k [r_k, R] and adamss_B.k [rows_k, r_k] of cluster k
import { z } from 'zod';
import type { Engine } from '../../core/engine.ts';
import { isLayer, type Model } from '../../nn/layer.ts';
import { product, type Svd, transposed } from '../../peft/linalg.ts';
import type { Options, Transform } from '../../peft/method.ts';
import { type AdamssConfig, adamss, adamssOver } from '../../peft/reparameterized/adamss.ts';
import { membersOf, numbersOf, placesOf, type Start, startFrom, withBias, withoutBias } from '../../peft/reparameterized/adamssStart.ts';
import { pick, type Where } from '../../peft/site.ts';
import { clusterings, svdLowrank } from './adamssClusters.ts';
import { shapes, weightShape } from './adapter.ts';
import { equal } from './attachments.ts';
import { flag, orNull, share } from './config.ts';
import { count1, number, TARGETS, whole0, yes } from './fields.ts';
import { type AnyFormat, asAny, field, type Spot, same, type Table, Unsupported } from './format.ts';

const FIELDS = {
  ...TARGETS,
  init_weights: field(orNull(z.union([flag, z.string()])), 'orthogonal'),
  r: count1(100),
  num_subspaces: count1(5),
  subspace_rank: count1(1),
  use_asa: yes(false),
  asa_target_subspaces: count1(50),
  init_warmup: whole0(50),
  final_warmup: whole0(1000),
  mask_interval: count1(100),
  asa_importance_beta: number(0.85),
  asa_uncertainty_beta: number(0.85),
  asa_schedule_exponent: number(3),
  use_dynamic_rank: yes(false),
  svd_threshold: field(share.optional(), 0.1, true),
  random_seed: whole0(0),
} as const;
const SEED = 0;

type Sizes = Pick<AdamssConfig, 'directions' | 'subspaces'>;
interface Repeated {
  readonly parts: Svd;
  /** Cluster by cluster its rows, in every way that rounding leaves open; null: in too many. */
  readonly ways: readonly (readonly (readonly number[])[])[] | null;
}
/** What PEFT makes of the [W | b] of a layer. */
function repeated(name: string, whole: Float64Array, out: number, c: Sizes, seed: number): Repeated {
  const cols = whole.length / out;
  const R = Math.min(c.directions, out, cols);
  if (R * Math.min(out, cols) < 16)
    throw new Unsupported(
      `adamss at ${name}: ${R} directions of a weight of ${out} × ${cols} start from fewer than 16 random numbers, which PyTorch draws in another way; take more directions`,
    );
  const parts = svdLowrank(whole, out, cols, R, seed);
  const ways = clusterings(parts.u, out, R, Math.min(c.subspaces, out), parts.s[0]! / parts.s[R - 1]!);
  return { parts, ways: ways?.map(membersOf) ?? null };
}
const OPEN =
  'some outputs are as near to one cluster as to another, so that float32 rounding says where they belong. That is always so where directions (r) is not below the number of outputs';

const seedOf = ({ config }: Pick<Spot<unknown>, 'config'>): number => (typeof config?.random_seed === 'number' ? config.random_seed : SEED);
function repeatedAt(spot: Spot<AdamssConfig>): Repeated {
  const shape = weightShape(spot.place!);
  const bias = isLayer(spot.place!.layer.fields.bias ?? null) ? spot.base('bias').data : null;
  return repeated(spot.place!.module, withBias(spot.base('weight').data, bias, shape), shape[0], spot.options, seedOf(spot));
}
/** Whether the rows of a projection span what those of `parts` do, as far as 16-bit numbers tell. Orthonormal rows: |v|² is what is within and what is not. */
function spans({ data, shape: [R, cols] }: Table, { vt, s }: Svd): boolean {
  if (R !== s.length || cols !== vt.length / s.length) return false;
  const within = product(data, transposed(vt, R, cols), R, cols, R);
  return s.every((_, k) => {
    const square = (of: ArrayLike<number>, n: number): number =>
      Array.from({ length: n }, (_v, i) => of[k * n + i]! ** 2).reduce((a, b) => a + b, 0);
    const all = square(data, cols);
    return all > 0 && all - square(within, R) <= 5e-3 ** 2 * all;
  });
}
const REMEDY = 'Where it was trained, merge it: model.merge_and_unload()';
const OURS =
  'Attach it as PEFT does before training: await adamssAsPeft(model, options, engine); with what loadPeft read, pass like: loaded.files. saveAdapter(model, folder) writes any';

/**
 * The clusters that PEFT makes here, of a file chosen by its clusters' sizes where rounding leaves several ways; a new file has nobody to choose. Throws where they are not to be had.
 */
function clustersOf(spot: Spot<AdamssConfig>, sizes: readonly number[], projection: Table): readonly (readonly number[])[] {
  const fresh = spot.config === null;
  const { parts, ways } = repeatedAt(spot);
  const refuse = (why: string): never => {
    throw new Unsupported(`adamss at ${spot.place!.module}: ${why}. ${fresh ? OURS : REMEDY}`);
  };
  const seed = `random_seed ${seedOf(spot)} on a CPU`;
  if (!spans(projection, parts))
    return refuse(
      fresh
        ? `its projection is not what PEFT draws with ${seed}`
        : `adamss_newB is not what this weight gives with ${seed}: the adapter is of another base model, or was made on a GPU, which draws other numbers`,
    );
  if (ways === null) return refuse(OPEN);
  const fitting = ways.filter((way) => way.length === sizes.length && way.every((rows, k) => rows.length === sizes[k]));
  if (fitting.length === 0)
    return refuse(
      `its clusters have ${sizes.join(', ')} outputs, and made again ${ways[0]!.map((rows) => rows.length).join(', ')}${fresh ? '' : ': another version of scikit-learn may have made them'}`,
    );
  return (fresh ? ways : fitting).length > 1 ? refuse(OPEN) : fitting[0]!;
}
/** How many tensors are there under a name with numbers from 0. */
function many(has: (name: string) => boolean, name: string): number {
  let n = 0;
  while (has(`${name}.${n}`)) n++;
  return n;
}

export const ADAMSS: AnyFormat = asAny<AdamssConfig, typeof FIELDS>({
  peftType: 'ADAMSS',
  method: 'adamss',
  fields: FIELDS,
  on: 'linear',
  conv1d: false,
  options: (c) => {
    const budget = {
      ...{ target: c.asa_target_subspaces ?? 50, from: c.init_warmup ?? 50, to: c.final_warmup ?? 1000, interval: c.mask_interval ?? 100 },
      ...{ beta1: c.asa_importance_beta ?? 0.85, beta2: c.asa_uncertainty_beta ?? 0.85, exponent: c.asa_schedule_exponent ?? 3 },
    };
    return () => ({
      directions: c.r ?? 100,
      subspaces: c.num_subspaces ?? 5,
      rank: c.subspace_rank ?? 1,
      threshold: c.use_dynamic_rank === true ? (c.svd_threshold ?? 0.1) : null,
      budget: c.use_asa === true ? budget : null,
    });
  },
  attach: (o, starts) => adamssOver(starts as ReadonlyMap<string, Start>)(o), // the seam: they are of `start`
  start: (get, spot): Start => {
    const sizes = Array.from({ length: many(get.has, 'adamss_B') }, (_, k) => get(`adamss_B.${k}`).shape[0]!);
    const projection = get('adamss_newB');
    const rows = clustersOf(spot, sizes, projection);
    const clusters = rows.map((of, k) => {
      const { data, shape } = get(`adamss_A.${k}`);
      if (shape.length !== 2 || shape[1] !== projection.shape[0])
        throw new Unsupported(`${spot.place!.module}: adamss_A.${k} is ${shapes(shape, [spot.options.rank, projection.shape[0]!])}`);
      return { rows: of, rank: shape[0]!, A: Float64Array.from(data) };
    });
    const R = projection.shape[0]!;
    return { directions: R, clusters, ...withoutBias(projection.data, R, weightShape(spot.place!)[1]) };
  },
  config: (at) => {
    const [threshold, budget] = [same(at, 'threshold', (o) => o.threshold), at[0]!.options.budget];
    same(at, 'budget', (o) => JSON.stringify(o.budget));
    return {
      r: same(at, 'directions', (o) => o.directions),
      num_subspaces: same(at, 'subspaces', (o) => o.subspaces),
      subspace_rank: same(at, 'rank', (o) => o.rank),
      use_dynamic_rank: threshold !== null,
      ...(threshold === null ? {} : { svd_threshold: threshold }),
      use_asa: budget !== null,
      ...(budget === null
        ? {}
        : {
            ...{ asa_target_subspaces: budget.target, init_warmup: budget.from, final_warmup: budget.to, mask_interval: budget.interval },
            ...{ asa_importance_beta: budget.beta1, asa_uncertainty_beta: budget.beta2, asa_schedule_exponent: budget.exponent },
          }),
    };
  },
  unsaved: ['place', 'average', 'spread', 'on'],
  decode: (get, { own, place }) => {
    const projection = get('adamss_newB');
    const [R, into] = [projection.shape[0]!, weightShape(place!)[1]];
    const { V, shift } = withoutBias(projection.data, R, into);
    const factors = Array.from({ length: many((name) => own.has(name), 'A') }, (_, k) => [
      [`A.${k}`, get(`adamss_A.${k}`)] as const,
      [`B.${k}`, get(`adamss_B.${k}`)] as const,
    ]);
    return {
      ...Object.fromEntries(factors.flat()),
      V: { data: V, shape: [R, into] },
      ...(shift === null ? {} : { shift: { data: shift, shape: [R] } }),
    };
  },
  encode: (own, spot) => {
    const n = many((name) => name in own, 'A');
    const sizes = Array.from({ length: n }, (_, k) => own[`B.${k}`]!.shape[0]!);
    const [R, into] = own.V!.shape as [number, number];
    const shift = own.shift?.data ?? null;
    const projection = { data: withBias(own.V!.data, shift, [R, into]), shape: [R, into + (shift === null ? 0 : 1)] };
    const rows = clustersOf(spot, sizes, projection);
    if (!equal(own.place!.data, placesOf(rows))) throw new Error(`the clusters at ${spot.path} have other outputs. ${OURS}`);
    const factors = Array.from({ length: n }, (_, k) => [
      [`adamss_A.${k}`, own[`A.${k}`]!] as const,
      [`adamss_B.${k}`, own[`B.${k}`]!] as const,
    ]);
    return { ...Object.fromEntries(factors.flat()), adamss_newB: projection };
  },
});

/**
 * AdaMSS in the clusters that PEFT makes of these weights, needed before training what `savePeft` is to write:
 *   const method = await adamssAsPeft(model, { subspaces: 3 }, engine);   const tuned = method(model)
 * Throws where float32 rounding decides about an output, with the layers to leave out.
 */
export async function adamssAsPeft(model: Model, options: Options<AdamssConfig>, engine: Engine): Promise<Transform> {
  const { seed: _, ...own } = options;
  const c = { ...(adamss.method.defaults as AdamssConfig & { readonly where: Where }), ...own };
  const starts = new Map<string, Start>();
  const open: string[] = [];
  for (const s of pick(model, 'linear', c.where, 'adamss')) {
    const [out, into] = s.shape as [number, number];
    const { parts, ways } = repeated(s.path, await numbersOf(s, { engine }), out, c, SEED);
    if (ways?.length === 1) starts.set(s.path, startFrom(parts, ways[0]!, into, c));
    else open.push(s.path);
  }
  if (open.length > 0)
    throw new Error(
      `adamssAsPeft: at ${open.join(', ')} ${OPEN}. Leave these layers out (where), or change directions by one: other numbers are drawn then`,
    );
  return adamssOver(starts)(options);
}
