// Files of methods whose random matrices stay as they are: VeRA, PVeRA, RandLoRA, UniLoRA, TinyLoRA. Either the file has them, or a seed.
import { z } from 'zod';
import { pvera } from '../../peft/reparameterized/pvera.ts';
import { type RandloraConfig, randlora } from '../../peft/reparameterized/randlora.ts';
import { groupOf, type TinyLoraConfig, tinyLora } from '../../peft/reparameterized/tinyLora.ts';
import { type UniLoraConfig, uniLora } from '../../peft/reparameterized/uniLora.ts';
import { type VeraConfig, vera } from '../../peft/reparameterized/vera.ts';
import { ROOT, weightShape } from './adapter.ts';
import { equal } from './attachments.ts';
import { flag, orNull, share, whole } from './config.ts';
import { BIAS, count1, dropout, FAN, INIT, number, TARGETS, whole0, yes } from './fields.ts';
import {
  type AnyFormat,
  asAny,
  type ConfigOf,
  type Format,
  field,
  type Get,
  type Spot,
  same,
  type Table,
  type Tables,
  Unsupported,
} from './format.ts';
import { numpyRandom } from './numpyRandom.ts';
import { uniforms } from './torchRandom.ts';
import { shaped } from './vectors.ts';

const SAVED = 'Where the adapter was trained, set save_projection=True and save it again';
const notSaved = (c: Spot<unknown>['config']): boolean => c?.save_projection === false;
const seedIn = (c: Spot<unknown>['config'], name: string, otherwise: number): number =>
  typeof c?.[name] === 'number' ? c[name] : otherwise;
/** Throws where what should be drawn again from a seed is not what is there. */
function drawnAgain(now: readonly Table[], drawn: readonly Table[], { path }: Spot<unknown>, what: string): void {
  if (!now.every((t, k) => equal(Float32Array.from(t.data), Float32Array.from(drawn[k]!.data))))
    throw new Error(`savePeft: ${what} at ${path} are not those of the seed in the files that were read; leave out \`like\` to write them`);
}

const PROJECTED = {
  ...TARGETS,
  ...FAN,
  ...BIAS,
  ...INIT,
  projection_prng_key: whole0(0),
  save_projection: yes(true),
} as const;
const VERA_FIELDS = { ...PROJECTED, r: count1(256), vera_dropout: dropout, d_initial: number(0.1) } as const;
const PVERA_FIELDS = {
  ...PROJECTED,
  r: count1(256),
  pvera_dropout: dropout,
  d_initial: number(0.1),
  sample_at_inference: yes(false),
  generator_seed: field(orNull(whole), null),
} as const;
/**
 * …_lambda_d [r], …_lambda_b [out] at each layer; base_model.…_A [r, largest in] and …_B [largest out, r] once for all, or, with
 * save_projection false, Kaiming uniform from the seed alone. PVeRA has twice the rows in A and λ_d.
 */
function veras(
  prefix: 'vera' | 'pvera',
  attach: Format<VeraConfig>['attach'],
): Pick<Format<VeraConfig>, 'method' | 'on' | 'conv1d' | 'attach' | 'decode' | 'encode'> {
  const drawn = ({ own, config }: Spot<VeraConfig>): readonly [Table, Table] => {
    const [a, b] = [own.get('A')!, own.get('B')!];
    const draw = uniforms(seedIn(config, 'projection_prng_key', 0));
    const filled = (shape: readonly number[]): Table => ({ data: draw(shape[0]! * shape[1]!, Math.sqrt(6 / shape[1]!)), shape });
    return [filled(a), filled(b)];
  };
  const [dName, bName, A, B] = [`${prefix}_lambda_d`, `${prefix}_lambda_b`, `base_model.${prefix}_A`, `base_model.${prefix}_B`];
  return {
    method: prefix,
    on: 'linear',
    conv1d: true,
    attach,
    decode: (get, spot) => {
      const [a, b] = notSaved(spot.config) ? drawn(spot) : [get(A), get(B)];
      return { lambdaD: get(dName), lambdaB: get(bName), A: a, B: b };
    },
    encode: (own, spot) => {
      const trained = { [dName]: own.lambdaD!, [bName]: own.lambdaB! };
      if (!notSaved(spot.config)) return { ...trained, [A]: own.A!, [B]: own.B! };
      drawnAgain([own.A!, own.B!], drawn(spot), spot, `the matrices of ${prefix}`);
      return trained;
    },
  };
}
const VERA = asAny<VeraConfig, typeof VERA_FIELDS>({
  ...veras('vera', (o) => vera(o)),
  peftType: 'VERA',
  fields: VERA_FIELDS,
  options: (c) => () => ({ rank: c.r ?? 256, dInitial: c.d_initial ?? 0.1, dropout: c.vera_dropout ?? 0 }),
  config: (at) => ({
    r: same(at, 'rank', (o) => o.rank),
    d_initial: same(at, 'dInitial', (o) => o.dInitial),
    vera_dropout: same(at, 'dropout', (o) => o.dropout),
  }),
});
const PVERA = asAny<VeraConfig, typeof PVERA_FIELDS>({
  ...veras('pvera', (o) => pvera(o)),
  peftType: 'PVERA',
  fields: PVERA_FIELDS,
  options: (c) => {
    if (c.sample_at_inference === true)
      throw new Unsupported('sample_at_inference is true: its answers are random; here PVeRA draws in training only. Set it to false');
    return () => ({ rank: c.r ?? 256, dInitial: c.d_initial ?? 0.1, dropout: c.pvera_dropout ?? 0 });
  },
  config: (at) => ({
    r: same(at, 'rank', (o) => o.rank),
    d_initial: same(at, 'dInitial', (o) => o.dInitial),
    pvera_dropout: same(at, 'dropout', (o) => o.dropout),
  }),
});

const RANDLORA_FIELDS = {
  ...PROJECTED,
  r: count1(32),
  sparse: yes(false),
  very_sparse: yes(false),
  randlora_dropout: dropout,
  randlora_alpha: number(640, false),
} as const;
/** randlora_lambda [r, n], randlora_gamma [n, small]; randlora_A [r, 1, small] and randlora_B [large, n, r] once, and at each layer again. */
const RANDLORA = asAny<RandloraConfig, typeof RANDLORA_FIELDS>({
  peftType: 'RANDLORA',
  method: 'randlora',
  fields: RANDLORA_FIELDS,
  on: 'linear',
  conv1d: true,
  options: (c) => {
    if (c.save_projection === false)
      throw new Unsupported(
        `save_projection is false, and the number type that the random matrices are drawn in depends on the machine. ${SAVED}`,
      );
    return () => ({
      rank: c.r ?? 32,
      alpha: c.randlora_alpha ?? 640,
      bases: c.very_sparse === true ? 'verySparse' : c.sparse === true ? 'sparse' : 'dense',
      dropout: c.randlora_dropout ?? 0,
    });
  },
  attach: (o) => randlora(o),
  config: (at) => {
    const bases = same(at, 'bases', (o) => o.bases);
    return {
      r: same(at, 'rank', (o) => o.rank),
      randlora_alpha: same(at, 'alpha', (o) => o.alpha),
      randlora_dropout: same(at, 'dropout', (o) => o.dropout),
      ...(bases === 'dense' ? {} : { [bases === 'sparse' ? 'sparse' : 'very_sparse']: true }),
    };
  },
  decode: (get, { own }) => {
    for (const again of ['randlora_A', 'randlora_B']) if (get.has(again)) get(again);
    const [A, B] = [get('base_model.randlora_A'), get('base_model.randlora_B')];
    return { lambda: get('randlora_lambda'), gamma: get('randlora_gamma'), A: shaped(A, ...own.get('A')!), B };
  },
  encode: ({ lambda, gamma, A, B }) => {
    const a = shaped(A!, A!.shape[0]!, 1, A!.shape[1]!);
    return {
      randlora_lambda: lambda!,
      randlora_gamma: gamma!,
      randlora_A: a,
      randlora_B: B!,
      'base_model.randlora_A': a,
      'base_model.randlora_B': B!,
    };
  },
});

const UNILORA_FIELDS = {
  ...TARGETS,
  ...FAN,
  ...BIAS,
  ...INIT,
  r: count1(4),
  proj_seed: whole0(42),
  theta_d_length: count1(256),
  unilora_dropout: dropout,
  init_theta_d_bound: number(0.02),
  save_indices: yes(false),
} as const;
type Uni = Spot<UniLoraConfig>;
const THETA = 'base_model.unilora_theta_d';
const SIDES = ['A', 'B'] as const;
/** How many elements A and B have at each layer. */
const elements = ({ places, options: { rank } }: Uni): number[][] =>
  places.map((p) =>
    weightShape(p)
      .map((n) => rank * n)
      .toReversed(),
  );
/** Every element's index in the order of the network, as NumPy shuffles them: the same for all layers, so remembered by what they follow from. */
const shuffled = new WeakMap<Uni['places'], Int32Array>();
function indicesOf(spot: Uni): Int32Array {
  const known = shuffled.get(spot.places);
  if (known !== undefined) return known;
  const { size } = spot.options;
  const total = elements(spot)
    .flat()
    .reduce((a, b) => a + b, 0);
  const each = Math.floor(total / size);
  const r = numpyRandom(seedIn(spot.config, 'proj_seed', 42));
  const list = Int32Array.from({ length: total }, (_, k) => Math.floor(k / each));
  list.set(total % size === 0 ? [] : r.choice(size, total % size), each * size);
  shuffled.set(spot.places, r.shuffle(list));
  return list;
}
/** What the seed gives at one layer, and 1/√(how often) for every number. */
function ofSeed(spot: Uni): { readonly indexA: Table; readonly indexB: Table; readonly norm: Table } {
  const all = indicesOf(spot);
  const sizes = elements(spot);
  const here = spot.places.findIndex((p) => p.path === spot.place!.path);
  const from = sizes
    .slice(0, here)
    .flat()
    .reduce((a, b) => a + b, 0);
  const [a] = sizes[here] as [number];
  const used = new Float64Array(spot.options.size);
  for (const i of all) used[i]!++;
  return {
    indexA: { data: all.slice(from, from + a), shape: spot.own.get('indexA')! },
    indexB: { data: all.slice(from + a, from + a + sizes[here]![1]!), shape: spot.own.get('indexB')! },
    norm: { data: Float32Array.from(used, (n) => (n === 0 ? 0 : 1 / Math.sqrt(n))), shape: [used.length] },
  };
}
/** The scale of every number, out of all layers' scales. */
function normIn(get: Get, { places, options: { size } }: Uni): Table {
  const data = new Float32Array(size);
  for (const p of places)
    for (const side of SIDES) {
      const [index, scale] = ['indices', 'scales'].map((n) => get(`${ROOT}${p.module}.unilora_${n}_${side}`).data) as [
        Table['data'],
        Table['data'],
      ];
      for (const [k, i] of index.entries()) {
        if (!(i >= 0 && i < size) || (data[i] !== 0 && data[i] !== scale[k]))
          throw new Error(`${p.module}: unilora_indices_${side} has ${i}, which is outside of theta_d, or has several scales`);
        data[i] = scale[k]!;
      }
    }
  return { data, shape: [size] };
}
/** base_model.unilora_theta_d [d]; with save_indices unilora_indices_A, … and unilora_scales_A, … at each layer, else from the seed alone. */
const UNILORA = asAny<UniLoraConfig, typeof UNILORA_FIELDS>({
  peftType: 'UNILORA',
  method: 'uniLora',
  fields: UNILORA_FIELDS,
  on: 'linear',
  conv1d: true,
  options: (c) => () => ({
    rank: c.r ?? 4,
    size: c.theta_d_length ?? 256,
    bound: c.init_theta_d_bound ?? 0.02,
    dropout: c.unilora_dropout ?? 0,
  }),
  attach: (o) => uniLora(o),
  config: (at) => ({
    r: same(at, 'rank', (o) => o.rank),
    theta_d_length: same(at, 'size', (o) => o.size),
    init_theta_d_bound: same(at, 'bound', (o) => o.bound),
    unilora_dropout: same(at, 'dropout', (o) => o.dropout),
    save_indices: true,
  }),
  decode: (get, spot) => {
    const theta = get(THETA);
    if (spot.config?.save_indices !== true) return { theta, ...ofSeed(spot) };
    return { theta, norm: normIn(get, spot), indexA: get('unilora_indices_A'), indexB: get('unilora_indices_B') };
  },
  encode: ({ theta, norm, indexA, indexB }, spot) => {
    if (spot.config !== null && spot.config.save_indices !== true) {
      const drawn = ofSeed(spot);
      drawnAgain([indexA!, indexB!], [drawn.indexA, drawn.indexB], spot, 'the indices of uniLora');
      return { [THETA]: theta! };
    }
    const scales = ({ data, shape }: Table): Table => ({ data: Float64Array.from(data, (i) => norm!.data[i]!), shape });
    return {
      [THETA]: theta!,
      unilora_indices_A: { ...indexA!, dtype: 'I64' },
      unilora_indices_B: { ...indexB!, dtype: 'I64' },
      unilora_scales_A: scales(indexA!),
      unilora_scales_B: scales(indexB!),
    };
  },
});

const TINY_FIELDS = {
  ...TARGETS,
  ...FAN,
  ...BIAS,
  ...INIT,
  r: count1(2),
  u: count1(64),
  weight_tying: field(share.optional(), 0, true),
  projection_seed: whole0(42),
  save_projection: field(flag.optional(), true),
  init_v_bound: number(0.02),
  tinylora_dropout: dropout,
  init_weights: field(z.union([flag, z.literal('uniform')]).optional(), true),
} as const;
/** Which of base_model.tinylora_v.0, … [u] the layer's group has. */
const groupKey = ({ places, place, options: { tying } }: Spot<TinyLoraConfig>): string =>
  `base_model.tinylora_v.${groupOf(
    places.findIndex((p) => p.path === place!.path),
    places.length,
    tying,
  )}`;
/** tinylora_A [r, in], tinylora_B [out, r], tinylora_P [u, r, r] at each layer. */
const TINYLORA = asAny<TinyLoraConfig, typeof TINY_FIELDS>({
  peftType: 'TINYLORA',
  method: 'tinyLora',
  fields: TINY_FIELDS,
  on: 'linear',
  conv1d: true,
  options: (c: ConfigOf<typeof TINY_FIELDS>) => {
    if (c.save_projection === false)
      throw new Unsupported(
        `save_projection is false: the random matrices P are in the seed of PyTorch's normal distribution only. ${SAVED}`,
      );
    return (place) => ({
      rank: Math.min(c.r ?? 2, ...weightShape(place!)),
      size: c.u ?? 64,
      tying: c.weight_tying ?? 0,
      init: c.init_weights === 'uniform' ? 'uniform' : 'zero',
      dropout: c.tinylora_dropout ?? 0,
    });
  },
  attach: (o) => tinyLora(o),
  config: (at) => ({
    r: same(at, 'rank', (o) => o.rank),
    u: same(at, 'size', (o) => o.size),
    weight_tying: same(at, 'tying', (o) => o.tying),
    init_weights: same(at, 'init', (o) => o.init) === 'uniform' ? 'uniform' : true,
    tinylora_dropout: same(at, 'dropout', (o) => o.dropout),
  }),
  decode: (get, spot): Tables => ({
    v: get(groupKey(spot)),
    A: get('tinylora_A'),
    B: get('tinylora_B'),
    P: shaped(get('tinylora_P'), ...spot.own.get('P')!),
  }),
  encode: ({ v, A, B, P }, spot) => {
    const r = A!.shape[0]!;
    return { [groupKey(spot)]: v!, tinylora_A: A!, tinylora_B: B!, tinylora_P: shaped(P!, P!.shape[0]!, r, r) };
  },
});

export const PROJECTIONS: readonly AnyFormat[] = [VERA, PVERA, RANDLORA, UNILORA, TINYLORA];
