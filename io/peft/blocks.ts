// Files of methods whose update has a structure: C3A (circulant blocks), GraLoRA (a LoRA for each block), DeLoRA (unit pieces), Lily (shared factors).
import { z } from 'zod';
import { type C3aConfig, c3a } from '../../peft/reparameterized/c3a.ts';
import { type DeloraConfig, delora } from '../../peft/reparameterized/delora.ts';
import { type GraloraConfig, gralora } from '../../peft/reparameterized/gralora.ts';
import { type LilyConfig, lily } from '../../peft/reparameterized/lily.ts';
import { count, flag, real } from './config.ts';
import { BIAS, count1, dropout, EXCLUDE, FAN, INIT, number, patterns, TARGETS, whole0 } from './fields.ts';
import { type AnyFormat, asAny, field, mostly, permuted, renamed, same } from './format.ts';
import { byPattern } from './targets.ts';

type Patterns = Readonly<Record<string, number>> | null;

const C3A_INITS = { xavier: 'xavier_uniform', kaiming: 'kaiming_uniform', gaussian: 'gaussian', zero: true } as const;
const C3A_FIELDS = {
  ...TARGETS,
  ...BIAS,
  block_size: count1(256),
  block_size_pattern: patterns(count),
  init_weights: field(
    z
      .union([flag, z.enum(['gaussian', 'kaiming_uniform', 'xavier_uniform'])])
      .nullable()
      .optional(),
    'xavier_uniform',
  ),
} as const;
/** c3a_kernel [out/b, in/b, b]. */
const C3A = asAny<C3aConfig, typeof C3A_FIELDS>({
  peftType: 'C3A',
  method: 'c3a',
  fields: C3A_FIELDS,
  on: 'linear',
  conv1d: false,
  options: (c, places) => {
    const size = byPattern(c.block_size_pattern as Patterns, [...new Set(places.map((p) => p.module))], c.block_size ?? 256);
    const found = Object.entries(C3A_INITS).find(([, theirs]) => theirs === c.init_weights)?.[0] ?? 'xavier';
    return (place) => ({ blockSize: size(place!.module), init: found as C3aConfig['init'] });
  },
  attach: (o) => c3a(o),
  config: (at) => {
    const size = mostly(at, (o) => o.blockSize);
    return { block_size: size.usual, block_size_pattern: size.others, init_weights: C3A_INITS[same(at, 'init', (o) => o.init)] };
  },
  ...renamed({ w: 'c3a_kernel' }),
});

const GRALORA_FIELDS = {
  ...TARGETS,
  ...FAN,
  ...BIAS,
  ...INIT,
  r: count1(32),
  hybrid_r: whole0(0),
  alpha: number(64, false),
  gralora_dropout: dropout,
  gralora_k: count1(2),
} as const;
/** gralora_A [k, in/k, r] and gralora_B [k, r, out/k]: r counts the k blocks of the other side and each one's ranks; the plain LoRA's as usual. */
const GRALORA = asAny<GraloraConfig, typeof GRALORA_FIELDS>({
  peftType: 'GRALORA',
  method: 'gralora',
  fields: GRALORA_FIELDS,
  on: 'linear',
  conv1d: true,
  options: (c) => () => ({
    rank: c.r ?? 32,
    alpha: c.alpha ?? 64,
    blocks: c.gralora_k ?? 2,
    hybrid: c.hybrid_r ?? 0,
    dropout: c.gralora_dropout ?? 0,
  }),
  attach: (o) => gralora(o),
  config: (at) => ({
    r: same(at, 'rank', (o) => o.rank),
    alpha: same(at, 'alpha', (o) => o.alpha),
    gralora_k: same(at, 'blocks', (o) => o.blocks),
    hybrid_r: same(at, 'hybrid', (o) => o.hybrid),
    gralora_dropout: same(at, 'dropout', (o) => o.dropout),
  }),
  decode: (get, { options: { rank, blocks: k, hybrid } }) => {
    const [A, B] = [get('gralora_A'), get('gralora_B')];
    return {
      A: permuted(A, [0, 2, 3, 1], [k, A.shape[1]!, k, rank / k]), // [k in, k out, r/k, in/k]
      B: permuted(B, [0, 2, 1]),
      ...(hybrid === 0 ? {} : { wholeA: get('gralora_A_general.weight'), wholeB: get('gralora_B_general.weight') }),
    };
  },
  encode: ({ A, B, wholeA, wholeB }, { options: { rank, blocks: k } }) => ({
    gralora_A: { data: permuted(A!, [0, 3, 1, 2]).data, shape: [k, A!.shape[3]!, rank] },
    gralora_B: permuted(B!, [0, 2, 1]),
    ...(wholeA === undefined ? {} : { 'gralora_A_general.weight': wholeA, 'gralora_B_general.weight': wholeB! }),
  }),
});

const DELORA_FIELDS = {
  ...TARGETS,
  ...EXCLUDE,
  ...BIAS,
  ...INIT,
  r: count1(8),
  delora_lambda: number(15, false),
  module_dropout: dropout,
  rank_pattern: patterns(count),
  lambda_pattern: patterns(real),
} as const;
/** delora_A [r, in], delora_B [out, r], delora_lambda [1], delora_w_norm [in]. */
const DELORA = asAny<DeloraConfig, typeof DELORA_FIELDS>({
  peftType: 'DELORA',
  method: 'delora',
  fields: DELORA_FIELDS,
  on: 'linear',
  conv1d: false,
  options: (c, places) => {
    const modules = [...new Set(places.map((p) => p.module))];
    const rank = byPattern(c.rank_pattern as Patterns, modules, c.r ?? 8);
    const lambda = byPattern(c.lambda_pattern as Patterns, modules, c.delora_lambda ?? 15);
    return (place) => ({ rank: rank(place!.module), lambda: lambda(place!.module), dropout: c.module_dropout ?? 0 });
  },
  attach: (o) => delora(o),
  config: (at) => {
    const [rank, lambda] = [mostly(at, (o) => o.rank), mostly(at, (o) => o.lambda)];
    return {
      r: rank.usual,
      rank_pattern: rank.others,
      delora_lambda: lambda.usual,
      lambda_pattern: lambda.others,
      module_dropout: same(at, 'dropout', (o) => o.dropout),
    };
  },
  ...renamed({ A: 'delora_A', B: 'delora_B', lambda: 'delora_lambda', norm: 'delora_w_norm' }),
});

const LILY_FIELDS = { ...TARGETS, ...EXCLUDE, ...INIT, r: count1(32), stride_A: count1(1), num_B: count1(2), scaling: number(1) } as const;
/** lily_A.weight [r, in], lily_B.weight [N·r, out], lily_router.weight [N, r]; what layers share is there for each of them. */
const LILY = asAny<LilyConfig, typeof LILY_FIELDS>({
  peftType: 'LILY',
  method: 'lily',
  fields: LILY_FIELDS,
  on: 'linear',
  conv1d: false,
  options: (c) => () => ({ rank: c.r ?? 32, stride: c.stride_A ?? 1, experts: c.num_B ?? 2, scale: c.scaling ?? 1 }),
  attach: (o) => lily(o),
  config: (at) => ({
    r: same(at, 'rank', (o) => o.rank),
    stride_A: same(at, 'stride', (o) => o.stride),
    num_B: same(at, 'experts', (o) => o.experts),
    scaling: same(at, 'scale', (o) => o.scale),
  }),
  decode: (get, { options: { rank, experts } }) => {
    const B = get('lily_B.weight');
    return { A: get('lily_A.weight'), B: permuted(B, [0, 2, 1], [experts, rank, B.shape[1]!]), router: get('lily_router.weight') };
  },
  encode: ({ A, B, router }, { options: { rank, experts } }) => ({
    'lily_A.weight': A!,
    'lily_B.weight': { data: permuted(B!, [0, 2, 1]).data, shape: [experts * rank, B!.shape[1]!] },
    'lily_router.weight': router!,
  }),
});

export const BLOCKS: readonly AnyFormat[] = [C3A, GRALORA, DELORA, LILY];
