// Files of methods whose update is a product of small tables: LoHa, LoKr, HiRA, VB-LoRA, Poly, MiSS and Bone.
import { z } from 'zod';
import { bone } from '../../peft/reparameterized/bone.ts';
import { type HiraConfig, hira } from '../../peft/reparameterized/hira.ts';
import { loha } from '../../peft/reparameterized/loha.ts';
import { type LokrConfig, lokr } from '../../peft/reparameterized/lokr.ts';
import type { LycorisConfig } from '../../peft/reparameterized/lycoris.ts';
import { type MissConfig, miss } from '../../peft/reparameterized/miss.ts';
import { type PolyConfig, poly } from '../../peft/reparameterized/poly.ts';
import type { Place } from '../names.ts';
import { count, real } from './config.ts';
import { BIAS, count1, dropout, EXCLUDE, FAN, INIT, patterns, TARGETS, whole0, yes } from './fields.ts';
import { type AnyFormat, type At, asAny, type ConfigOf, field, mostly, type NewConfig, renamed, same, Unsupported } from './format.ts';
import { onDiagonal, stacked } from './lora.ts';
import { byPattern } from './targets.ts';
import { VBLORA } from './vblora.ts';

const ranked = (c: { readonly rank_pattern?: unknown; readonly r?: number | undefined }, places: readonly Place[], otherwise: number) =>
  byPattern(c.rank_pattern as Readonly<Record<string, number>> | null, [...new Set(places.map((p) => p.module))], c.r ?? otherwise);

const LYCORIS_FIELDS = {
  ...TARGETS,
  ...EXCLUDE,
  ...INIT,
  rank_pattern: patterns(count),
  alpha_pattern: patterns(real),
  r: count1(8),
  alpha: field(real.optional(), 8),
  rank_dropout: dropout,
  module_dropout: dropout,
  use_effective_conv2d: yes(false),
} as const;
function lycoris(c: ConfigOf<typeof LYCORIS_FIELDS>, places: readonly Place[]): (place: Place | null) => LycorisConfig {
  const rank = ranked(c, places, 8);
  const alpha = byPattern(
    c.alpha_pattern as Readonly<Record<string, number>> | null,
    [...new Set(places.map((p) => p.module))],
    c.alpha ?? 8,
  );
  return (place) => ({
    rank: rank(place!.module),
    alpha: alpha(place!.module),
    rankDropout: c.rank_dropout ?? 0,
    moduleDropout: c.module_dropout ?? 0,
  });
}
const fromLycoris = (at: readonly At<LycorisConfig>[]): NewConfig<typeof LYCORIS_FIELDS> => {
  const [rank, alpha] = [mostly(at, (o) => o.rank), mostly(at, (o) => o.alpha)];
  return {
    r: rank.usual,
    alpha: alpha.usual,
    rank_pattern: rank.others,
    alpha_pattern: alpha.others,
    rank_dropout: same(at, 'rankDropout', (o) => o.rankDropout),
    module_dropout: same(at, 'moduleDropout', (o) => o.moduleDropout),
  };
};

const LOHA = asAny<LycorisConfig, typeof LYCORIS_FIELDS>({
  peftType: 'LOHA',
  method: 'loha',
  fields: LYCORIS_FIELDS,
  on: 'linear',
  conv1d: false,
  options: lycoris,
  attach: (o) => loha(o),
  config: fromLycoris,
  ...renamed({ A1: 'hada_w1_a', B1: 'hada_w1_b', A2: 'hada_w2_a', B2: 'hada_w2_b' }),
});

const LOKR_FIELDS = {
  ...LYCORIS_FIELDS,
  decompose_both: yes(false),
  decompose_factor: whole0(-1),
  rank_dropout_scale: yes(false),
} as const;
const LOKR_NAMES: Readonly<Record<string, string>> = {
  w1: 'lokr_w1',
  w1a: 'lokr_w1_a',
  w1b: 'lokr_w1_b',
  w2: 'lokr_w2',
  w2a: 'lokr_w2_a',
  w2b: 'lokr_w2_b',
};
/** Which factors are split follows from sizes and rank, here as there. */
const LOKR = asAny<LokrConfig, typeof LOKR_FIELDS>({
  peftType: 'LOKR',
  method: 'lokr',
  fields: LOKR_FIELDS,
  on: 'linear',
  conv1d: false,
  options: (c, places) => {
    const of = lycoris(c, places);
    return (place) => ({
      ...of(place),
      factor: c.decompose_factor ?? -1,
      decomposeBoth: c.decompose_both ?? false,
      rescale: c.rank_dropout_scale ?? false,
      init: c.init_weights === 'lycoris' ? 'lycoris' : 'zero',
    });
  },
  attach: (o) => lokr(o),
  config: (at) => ({
    ...fromLycoris(at),
    decompose_factor: same(at, 'factor', (o) => o.factor),
    decompose_both: same(at, 'decomposeBoth', (o) => o.decomposeBoth),
    rank_dropout_scale: same(at, 'rescale', (o) => o.rescale),
    init_weights: same(at, 'init', (o) => o.init) === 'lycoris' ? 'lycoris' : true,
  }),
  decode: (get, { own }) => Object.fromEntries([...own.keys()].map((name) => [name, get(LOKR_NAMES[name]!)])),
  encode: (own) => Object.fromEntries(Object.entries(own).map(([name, t]) => [LOKR_NAMES[name]!, t])),
});

const HIRA_FIELDS = {
  ...TARGETS,
  ...EXCLUDE,
  ...FAN,
  ...INIT,
  r: count1(32),
  hira_dropout: dropout,
  rank_pattern: patterns(count),
} as const;
const HIRA = asAny<HiraConfig, typeof HIRA_FIELDS>({
  peftType: 'HIRA',
  method: 'hira',
  fields: HIRA_FIELDS,
  on: 'weight',
  conv1d: true,
  byRows: ['hira_B'],
  options: (c, places) => {
    const rank = ranked(c, places, 32);
    return (place) => ({ rank: rank(place!.module), init: c.init_weights === 'gaussian' ? 'gaussian' : 'kaiming' });
  },
  attach: (o) => hira(o),
  config: (at) => {
    const rank = mostly(at, (o) => o.rank);
    return { r: rank.usual, rank_pattern: rank.others, init_weights: same(at, 'init', (o) => o.init) === 'gaussian' ? 'gaussian' : true };
  },
  joined: (pieces) => ({
    options: { ...pieces[0]!.options, rank: pieces.reduce((n, p) => n + p.options.rank, 0) },
    own: { A: stacked(pieces.map((p) => p.own.A!)), B: onDiagonal(pieces) },
  }),
  ...renamed({ A: 'hira_A', B: 'hira_B' }),
});

const POLY_FIELDS = {
  target_modules: TARGETS.target_modules,
  ...EXCLUDE,
  ...INIT,
  r: count1(8),
  poly_type: field(z.string().optional(), 'poly'),
  n_tasks: count1(1),
  n_skills: count1(4),
  n_splits: count1(1),
} as const;
const POLY = asAny<PolyConfig, typeof POLY_FIELDS>({
  peftType: 'POLY',
  method: 'poly',
  fields: POLY_FIELDS,
  on: 'linear',
  conv1d: false,
  options: (c) => {
    if ((c.poly_type ?? 'poly') !== 'poly') throw new Unsupported(`poly_type is ${JSON.stringify(c.poly_type)}; only "poly" is known`);
    return () => ({ rank: c.r ?? 8, tasks: c.n_tasks ?? 1, skills: c.n_skills ?? 4, splits: c.n_splits ?? 1 });
  },
  attach: (o) => poly(o),
  config: (at) => ({
    r: same(at, 'rank', (o) => o.rank),
    n_tasks: same(at, 'tasks', (o) => o.tasks),
    n_skills: same(at, 'skills', (o) => o.skills),
    n_splits: same(at, 'splits', (o) => o.splits),
  }),
  ...renamed({ A: 'poly_lora_A', B: 'poly_lora_B', logits: 'poly_router.module_logits' }),
});

const MISS_FIELDS = { ...TARGETS, ...EXCLUDE, ...BIAS, ...INIT, r: count1(64), miss_dropout: dropout, mini_r: count1(1) } as const;
const M = renamed({ M: 'miss_block' });
const MISS = asAny<MissConfig, typeof MISS_FIELDS>({
  peftType: 'MISS',
  method: 'miss',
  fields: MISS_FIELDS,
  on: 'linear',
  conv1d: false,
  is: (c) => c.init_weights !== 'bat',
  options: (c) => () => ({ rank: c.r ?? 64, miniRank: c.init_weights === 'mini' ? (c.mini_r ?? 1) : null, dropout: c.miss_dropout ?? 0 }),
  attach: (o) => miss(o),
  config: (at) => {
    const mini = same(at, 'miniRank', (o) => o.miniRank);
    const own: NewConfig<typeof MISS_FIELDS> = { r: same(at, 'rank', (o) => o.rank), miss_dropout: same(at, 'dropout', (o) => o.dropout) };
    return mini === null ? own : { ...own, mini_r: mini, init_weights: 'mini' };
  },
  ...M,
});
/** Called Bone once, and a form of MiSS since: init_weights "bat". */
const BONE = asAny<{ readonly rank: number }, typeof MISS_FIELDS>({
  peftType: 'MISS',
  method: 'bone',
  fields: MISS_FIELDS,
  on: 'weight',
  conv1d: false,
  is: (c) => c.init_weights === 'bat',
  options: (c) => () => ({ rank: c.r ?? 64 }),
  attach: (o) => bone(o),
  config: (at) => ({ r: same(at, 'rank', (o) => o.rank), init_weights: 'bat' }),
  ...M,
});

export const FACTORED: readonly AnyFormat[] = [LOHA, LOKR, HIRA, VBLORA, POLY, MISS, BONE];
