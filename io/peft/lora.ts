// Files of LoRA and what shares its files: rank-stabilised LoRA, DoRA, and initialisations that leave ordinary factors behind.
//   lora_A.weight [r, in], lora_B.weight [out, r], DoRA: lora_magnitude_vector [out];   s = lora_alpha/r, or lora_alpha/√r, is in the configuration
import { z } from 'zod';
import { dora } from '../../peft/reparameterized/dora.ts';
import { type LoraConfig, lora, type UpdateConfig } from '../../peft/reparameterized/lora.ts';
import { olora } from '../../peft/reparameterized/olora.ts';
import { pissa } from '../../peft/reparameterized/pissa.ts';
import type { Place } from '../names.ts';
import { count, flag, real, whole } from './config.ts';
import { BIAS, count1, dropout, EXCLUDE, FAN, number, patterns, TARGETS, variant, whole0, yes } from './fields.ts';
import {
  type AnyFormat,
  type At,
  asAny,
  type ConfigOf,
  type Format,
  field,
  type Joined,
  mostly,
  type NewConfig,
  type Piece,
  renamed,
  same,
  type Table,
  Unsupported,
} from './format.ts';
import { byPattern } from './targets.ts';
import { ON_EMBEDDINGS, TOKEN_INDICES, TOKENS_BESIDE } from './words.ts';

export const LORA_FIELDS = {
  ...TARGETS,
  ...EXCLUDE,
  ...FAN,
  ...BIAS,
  r: count1(8),
  lora_alpha: number(8, false),
  lora_dropout: dropout,
  use_rslora: yes(false),
  use_dora: yes(false),
  init_lora_weights: field(z.union([flag, z.string()]).nullable().optional(), true),
  rank_pattern: patterns(count),
  alpha_pattern: patterns(real),
  megatron_config: variant,
  megatron_core: field(z.string().nullable().optional(), 'megatron.core'),
  ...TOKEN_INDICES,
  loftq_config: field(z.unknown().optional(), {}),
  eva_config: variant,
  corda_config: variant,
  lora_ga_config: variant,
  velora_config: field(
    z.looseObject({ num_groups: count.optional(), scale: real.optional(), init_type: z.string().optional() }).nullable().optional(),
    null,
  ),
  alora_invocation_tokens: field(z.array(whole).nullable().optional(), null),
  use_qalora: yes(false),
  qalora_group_size: whole0(16),
  monteclora_config: field(
    z
      .looseObject({
        num_samples: count.optional(),
        use_entropy: flag.optional(),
        dirichlet_prior: real.optional(),
        sample_scaler: real.optional(),
        kl_loss_weight: real.optional(),
        buffer_size: whole.optional(),
      })
      .nullable()
      .optional(),
    null,
  ),
  layer_replication: variant,
  lora_bias: yes(false),
  target_parameters: field(z.array(z.string()).nullable().optional(), null),
  use_bdlora: field(
    z
      .looseObject({
        target_modules_bd_a: z.array(z.string()).nullable().optional(),
        target_modules_bd_b: z.array(z.string()).nullable().optional(),
        nblocks: count.optional(),
        match_strict: flag.optional(),
      })
      .nullable()
      .optional(),
    null,
  ),
  arrow_config: field(
    z
      .looseObject({
        top_k: count.optional(),
        router_temperature: real.optional(),
        use_gks: flag.optional(),
        task_adapter_names: z.array(z.string()).nullable().optional(),
        gks_adapter_names: z.array(z.string()).nullable().optional(),
        rng_seed: whole.nullable().optional(), // of the library's search for v_e, which is exact here
      })
      .nullable()
      .optional(),
    null,
  ),
  kasa_config: field(z.looseObject({ beta: real.optional(), gamma: real.optional() }).nullable().optional(), null),
  ensure_weight_tying: yes(false),
} as const;
export type Lora = ConfigOf<typeof LORA_FIELDS>;

export type LoraVariant = (typeof VARIANTS)[number];
const VARIANTS = [
  'use_qalora',
  'use_bdlora',
  'velora_config',
  'monteclora_config',
  'kasa_config',
  'arrow_config',
  'alora_invocation_tokens',
  'layer_replication',
  'lora_bias',
  'target_parameters',
] as const;
const isSet = (v: unknown): boolean =>
  !(v === undefined || v === null || v === false || (typeof v === 'object' && Object.keys(v).length === 0));

/** Refuses variants of LoRA that change its equation, its tensors or the network; all but one. */
export function refuseVariants(c: Pick<Lora, (typeof VARIANTS)[number] | 'init_lora_weights'>, but?: LoraVariant): void {
  const found = VARIANTS.find((name) => name !== but && isSet(c[name]));
  if (found !== undefined)
    throw new Unsupported(`${found} is ${JSON.stringify(c[found])}: a variant of LoRA that this library does not have`);
  const init = c.init_lora_weights;
  if (typeof init === 'string' && /^(corda|lora_ga|pissa_niter)/.test(init))
    throw new Unsupported(
      `init_lora_weights is "${init}": the file goes with a base that this start has changed, and the change cannot be made again without its data. Where the adapter was trained, save it as an ordinary LoRA: save_pretrained(…, path_initial_model_for_weight_conversion=…)`,
    );
}
const init = (c: Lora): string => (typeof c.init_lora_weights === 'string' ? c.init_lora_weights : '');

/** Rank, alpha and scaling at each module. */
export function optionsOf(c: Lora, places: readonly Place[], but?: LoraVariant): (place: Place | null) => LoraConfig {
  refuseVariants(c, but);
  const modules = [...new Set(places.map((p) => p.module))];
  const rank = byPattern(c.rank_pattern as Readonly<Record<string, number>> | null, modules, c.r ?? 8);
  const alpha = byPattern(c.alpha_pattern as Readonly<Record<string, number>> | null, modules, c.lora_alpha ?? 8);
  return (place) => ({
    rank: rank(place!.module),
    alpha: alpha(place!.module),
    rankStabilized: c.use_rslora ?? false,
    dropout: c.lora_dropout ?? 0,
    init: init(c) === 'gaussian' ? 'gaussian' : 'kaiming',
  });
}
export const configOf = (at: readonly At<UpdateConfig & { readonly init?: string }>[]): NewConfig<typeof LORA_FIELDS> => {
  const [rank, alpha] = [mostly(at, (o) => o.rank), mostly(at, (o) => o.alpha)];
  return {
    r: rank.usual,
    lora_alpha: alpha.usual,
    rank_pattern: rank.others,
    alpha_pattern: alpha.others,
    use_rslora: same(at, 'rankStabilized', (o) => o.rankStabilized),
    lora_dropout: same(at, 'dropout', (o) => o.dropout),
    init_lora_weights: same(at, 'init', (o) => o.init) === 'gaussian' ? 'gaussian' : true,
  };
};

/** [A₁; A₂; …] */
export const stacked = (tables: readonly Table[]): Table => {
  const width = tables[0]!.shape[1]!;
  const data = Float64Array.from(tables.flatMap((t) => [...t.data]));
  return { data, shape: [data.length / width, width] };
};
/** B's side by side on the diagonal: rows of the whole matrix, columns one after the other. */
export function onDiagonal(pieces: readonly Piece<unknown>[]): Table {
  const ranks = pieces.map((p) => p.own.B!.shape[1]!);
  const [rows, columns] = [pieces[0]!.rows.of, ranks.reduce((n, r) => n + r, 0)];
  const data = new Float64Array(rows * columns);
  let first = 0;
  for (const [k, { own, rows: at }] of pieces.entries()) {
    const [b, r] = [own.B!.data, ranks[k]!];
    for (let i = at.from; i < at.to; i++) for (let j = 0; j < r; j++) data[i * columns + first + j] = b[(i - at.from) * r + j]!;
    first += r;
  }
  return { data, shape: [rows, columns] };
}
/** LoRAs on parts of one matrix as a LoRA on it: ranks add up, and the scaling stays what it was. Null where the scalings differ. */
function joined(pieces: readonly Piece<LoraConfig>[]): Joined<LoraConfig> | null {
  const [first] = pieces;
  const { rankStabilized, rank: r, alpha: a } = first!.options;
  const scale = (o: LoraConfig): number => (rankStabilized ? o.alpha / Math.sqrt(o.rank) : o.alpha / o.rank);
  if (pieces.some((p) => p.options.rankStabilized !== rankStabilized || scale(p.options) !== scale(first!.options))) return null;
  const rank = pieces.reduce((n, p) => n + p.options.rank, 0);
  const alpha = rankStabilized ? a * Math.sqrt(rank / r) : (a * rank) / r;
  return { options: { ...first!.options, rank, alpha }, own: { A: stacked(pieces.map((p) => p.own.A!)), B: onDiagonal(pieces) } };
}

export const names = { A: 'lora_A.weight', B: 'lora_B.weight' };
/** Words besides, where LoRA on them is the ordinary one. */
export const WORDS: readonly AnyFormat[] = [ON_EMBEDDINGS, TOKENS_BESIDE];
const shared = { peftType: 'LORA', fields: LORA_FIELDS, on: 'linear', conv1d: true, options: optionsOf, beside: WORDS } as const;
const kept = (
  method: 'pissa' | 'olora',
  attach: Format<UpdateConfig, typeof LORA_FIELDS>['attach'],
): Format<UpdateConfig, typeof LORA_FIELDS> => ({
  ...shared,
  ...renamed(names),
  method,
  is: (c) => c.use_dora !== true && init(c) === method,
  options: (c, places) => {
    const of = optionsOf(c, places);
    return (place) => {
      const { init: _, ...o } = of(place);
      return o;
    };
  },
  attach,
  config: (at) => ({ ...configOf(at), init_lora_weights: method }),
});

export const plainLora: Format<LoraConfig, typeof LORA_FIELDS> = {
  ...shared,
  ...renamed(names),
  method: 'lora',
  is: (c) => c.use_dora !== true,
  attach: (o) => lora(o),
  config: configOf,
  byRows: [names.B],
  joined,
};
/** PiSSA and OLoRA files that were not converted: the same start is taken out of the same weight again. */
export const LORA: readonly ReturnType<typeof asAny>[] = [
  asAny<LoraConfig, typeof LORA_FIELDS>({
    ...shared,
    ...renamed({ ...names, m: 'lora_magnitude_vector' }),
    method: 'dora',
    is: (c) => c.use_dora === true,
    attach: (o) => dora(o),
    beside: [TOKENS_BESIDE], // on embeddings the library has a DoRA of its own
    config: (at) => ({ ...configOf(at), use_dora: true }),
    byRows: [names.B, 'lora_magnitude_vector'],
  }),
  asAny(kept('pissa', (o) => pissa(o))),
  asAny(kept('olora', (o) => olora(o))),
  asAny(plainLora),
];
