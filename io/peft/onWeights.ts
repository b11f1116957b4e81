// Files of methods that rework a layer's weight, bias or output as a whole: DEFT, PEANuT, GLoRA, OSF, RoAd, BEFT.
import { z } from 'zod';
import { type DeftConfig, deft } from '../../peft/reparameterized/deft.ts';
import { type GloraConfig, glora } from '../../peft/reparameterized/glora.ts';
import { type OsfConfig, osf } from '../../peft/reparameterized/osf.ts';
import { type PeanutConfig, peanut } from '../../peft/reparameterized/peanut.ts';
import { type RoadConfig, road } from '../../peft/reparameterized/road.ts';
import { beft } from '../../peft/selective/beft.ts';
import { weightShape } from './adapter.ts';
import { count, orNull, pattern, real } from './config.ts';
import { BIAS, count1, dropout, EXCLUDE, FAN, INIT, number, TARGETS, whole0, yes } from './fields.ts';
import { type AnyFormat, asAny, field, renamed, same, type Table, Unsupported } from './format.ts';
import { matching } from './patterns.ts';
import { shaped } from './vectors.ts';

const DEFT_FIELDS = {
  ...TARGETS,
  ...EXCLUDE,
  ...FAN,
  ...BIAS,
  ...INIT,
  r: count1(8),
  decomposition_method: field(z.string().optional(), 'relu'),
  init_scale: number(1),
  alpha: field(orNull(real), null),
  para: yes(false),
  deft_dropout: dropout,
} as const;
/** deft_P [out, r], deft_R [r, in]; r is at most the layer's outputs. */
const DEFT = asAny<DeftConfig, typeof DEFT_FIELDS>({
  peftType: 'DEFT',
  method: 'deft',
  fields: DEFT_FIELDS,
  on: 'weight',
  conv1d: true,
  options: (c) => {
    const { decomposition_method: decomposition = 'relu' } = c;
    if (decomposition !== 'relu' && decomposition !== 'qr')
      throw new Unsupported(`decomposition_method is ${JSON.stringify(decomposition)}; "relu" and "qr" are there`);
    if ((c.deft_dropout ?? 0) !== 0) throw new Unsupported(`deft_dropout is ${c.deft_dropout}; DEFT has no dropout here`);
    return (place) => ({
      rank: Math.min(c.r ?? 8, weightShape(place!)[0]),
      alpha: c.alpha || null,
      removal: c.para ?? false,
      decomposition,
    });
  },
  attach: (o) => deft(o),
  config: (at) => ({
    r: same(at, 'rank', (o) => o.rank),
    alpha: same(at, 'alpha', (o) => o.alpha),
    para: same(at, 'removal', (o) => o.removal),
    decomposition_method: same(at, 'decomposition', (o) => o.decomposition),
  }),
  decode: (get, { options: { removal } }) => ({ P: get('deft_P'), ...(removal ? {} : { R: get('deft_R') }) }),
  encode: ({ P, R }) => ({ deft_P: P!, ...(R === undefined ? {} : { deft_R: R }) }),
});

const PEANUT_FIELDS = {
  ...TARGETS,
  ...EXCLUDE,
  ...INIT,
  r: count1(32),
  depth: whole0(0),
  act_fn: field(z.string().optional(), 'relu'),
  scaling: number(1),
} as const;
/** peanut_A.weight [r, out], peanut_B.weight [out, r], peanut_encoders.k.weight and peanut_decoders.k.weight [r, r]. */
const PEANUT = asAny<PeanutConfig, typeof PEANUT_FIELDS>({
  peftType: 'PEANUT',
  method: 'peanut',
  fields: PEANUT_FIELDS,
  on: 'weight',
  conv1d: false,
  options: (c) => {
    if ((c.act_fn ?? 'relu') !== 'relu') throw new Unsupported(`act_fn is ${JSON.stringify(c.act_fn)}; only "relu" is there`);
    return () => ({ rank: c.r ?? 32, depth: c.depth ?? 0, scale: c.scaling ?? 1 });
  },
  attach: (o) => peanut(o),
  config: (at) => ({
    r: same(at, 'rank', (o) => o.rank),
    depth: same(at, 'depth', (o) => o.depth),
    scaling: same(at, 'scale', (o) => o.scale),
  }),
  decode: (get, { own }) => Object.fromEntries([...own.keys()].map((name) => [name, get(`peanut_${name}.weight`)])),
  encode: (own) => Object.fromEntries(Object.entries(own).map(([name, t]) => [`peanut_${name}.weight`, t])),
});

const form = (...names: readonly [string, ...string[]]) => field(z.enum(names).optional(), names[0]);
const GLORA_FIELDS = {
  target_modules: TARGETS.target_modules,
  ...BIAS,
  ...INIT,
  r: count1(8),
  config_A_B: form('lora', 'vector', 'constant', 'none'),
  config_C: form('lora', 'vector', 'none'),
  config_D_E: form('constant', 'vector', 'none'),
} as const;
const PARTS = ['A', 'B', 'C', 'D', 'E'] as const;
const zeros = (...shape: readonly number[]): Table => ({ data: new Float32Array(shape.reduce((n, d) => n * d, 1)), shape });
/** glora_A … glora_E: .Xd and .Xu where low-rank, else .X, and .zeros where left out. Vectors of D and E and single numbers have one dimension. */
const GLORA = asAny<GloraConfig, typeof GLORA_FIELDS>({
  peftType: 'GLORA',
  method: 'glora',
  fields: GLORA_FIELDS,
  on: 'linear',
  conv1d: false,
  options: (c) => {
    const [ab, de] = [(c.config_A_B ?? 'lora') as GloraConfig['A'], (c.config_D_E ?? 'constant') as GloraConfig['D']];
    return () => ({ rank: c.r ?? 8, A: ab, B: ab, C: (c.config_C ?? 'lora') as GloraConfig['C'], D: de, E: de });
  },
  attach: (o) => glora(o),
  config: (at) => {
    for (const [one, other] of ['AB', 'DE'] as const)
      if (at.some(({ options: o }) => o[one as 'A' | 'D'] !== o[other as 'B' | 'E']))
        throw new Unsupported(`${one} and ${other} of GLoRA have different forms, and a file has one form for both`);
    return {
      r: same(at, 'rank', (o) => o.rank),
      config_A_B: same(at, 'A', (o) => o.A),
      config_C: same(at, 'C', (o) => o.C),
      config_D_E: same(at, 'D', (o) => o.D),
    };
  },
  decode: (get, { own }) =>
    Object.fromEntries(
      PARTS.flatMap((part) => {
        const [shape, key] = [own.get(part), `glora_${part}`];
        if (own.has(`${part}up`))
          return [
            [part, get(`${key}.Xd`)],
            [`${part}up`, get(`${key}.Xu`)],
          ];
        if (shape !== undefined) return [[part, shaped(get(`${key}.X`), ...shape)]];
        if (get(`${key}.zeros`).data.some((v) => v !== 0))
          throw new Error(`${key}.zeros is not zero: it stands for a part that is left out`);
        return [];
      }),
    ),
  encode: (own, { place }) => {
    const [out, into] = weightShape(place!);
    const sides = { A: [out, into], B: [out, into], C: [into, 1], D: [out], E: [out] };
    return Object.fromEntries(
      PARTS.flatMap((part) => {
        const [t, up, key] = [own[part], own[`${part}up`], `glora_${part}`];
        if (up !== undefined)
          return [
            [`${key}.Xd`, t!],
            [`${key}.Xu`, up],
          ];
        if (t === undefined) return [[`${key}.zeros`, zeros(...sides[part])]];
        const flat = part === 'D' || part === 'E' || t.data.length === 1;
        return [[`${key}.X`, flat ? shaped(t, t.data.length) : t]];
      }),
    );
  },
});

const OSF_FIELDS = {
  target_modules: TARGETS.target_modules,
  ...INIT,
  effective_rank: field(orNull(real), null),
  rank_pattern: field(pattern(real), null),
  target_svd_config: field(z.unknown().optional(), null),
} as const;
/** osf_svd_params.U_low [out, k − e], S_low [k − e], V_low [k − e, in]; the large directions are taken out of the same weight again. */
const OSF = asAny<OsfConfig, typeof OSF_FIELDS>({
  peftType: 'OSF',
  method: 'osf',
  fields: OSF_FIELDS,
  on: 'linear',
  conv1d: false,
  options: (c, places) => {
    const modules = places.map((p) => p.module);
    const found = Object.entries(c.rank_pattern ?? {}).map(
      ([p, rank]) => [new Set(matching(p, modules, { before: '', after: '' }).keys()), rank] as const,
    );
    return (place) => {
      const smaller = Math.min(...weightShape(place!));
      const rank = found.find(([set]) => set.has(place!.module))?.[1] ?? c.effective_rank ?? null;
      if (rank === null) return { kept: Math.floor(smaller / 2) };
      return { kept: Math.min(smaller, Math.trunc(rank > 0 && rank < 1 ? smaller * rank : rank)) };
    };
  },
  attach: (o) => osf(o),
  config: (at) => {
    const kept = at.map(({ options, place }) => options.kept ?? Math.floor(Math.min(...weightShape(place!)) / 2));
    return kept.every((e) => e === kept[0])
      ? { effective_rank: kept[0]! }
      : { rank_pattern: Object.fromEntries(at.map((a, k) => [`${a.module.replaceAll('.', '\\.')}$`, kept[k]!])) };
  },
  ...renamed({ U: 'osf_svd_params.U_low', S: 'osf_svd_params.S_low', V: 'osf_svd_params.V_low' }),
  unsaved: ['keptU', 'keptV'],
});

const ROAD_FIELDS = {
  target_modules: TARGETS.target_modules,
  ...INIT,
  variant: form('road_1', 'road_2', 'road_4'),
  group_size: field(count.optional(), 64),
} as const;
const ROAD = asAny<RoadConfig, typeof ROAD_FIELDS>({
  peftType: 'ROAD',
  method: 'road',
  fields: ROAD_FIELDS,
  on: 'linear',
  conv1d: false,
  options: (c) => () => ({ variant: Number((c.variant ?? 'road_1').slice(-1)) as RoadConfig['variant'], groupSize: c.group_size ?? 64 }),
  attach: (o) => road(o),
  config: (at) => ({ variant: `road_${same(at, 'variant', (o) => o.variant)}`, group_size: same(at, 'groupSize', (o) => o.groupSize) }),
  ...renamed({ theta: 'road_theta', alpha: 'road_alpha' }),
});

const BEFT_FIELDS = { target_modules: TARGETS.target_modules, ...INIT } as const;
/** beft_bias [1, out], added to what the layer gives. */
const BEFT = asAny<object, typeof BEFT_FIELDS>({
  peftType: 'BEFT',
  method: 'beft',
  fields: BEFT_FIELDS,
  on: 'linear',
  conv1d: false,
  options: () => () => ({}),
  attach: (o) => beft(o),
  config: () => ({}),
  decode: (get) => {
    const b = get('beft_bias');
    return { delta: shaped(b, b.data.length) };
  },
  encode: ({ delta }) => ({ beft_bias: shaped(delta!, 1, delta!.data.length) }),
});

export const ON_WEIGHTS: readonly AnyFormat[] = [BEFT, DEFT, PEANUT, GLORA, OSF, ROAD];
