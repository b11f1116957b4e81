// What a file of LoRA holds of words besides: LoRA on embeddings, and tokens whose rows are trained (trainable_token_indices).
//   lora_embedding_A [r, V], lora_embedding_B [d, r]; token_adapter.trainable_tokens_delta [tokens, d], the new rows themselves
import { z } from 'zod';
import { type LoraEmbeddingConfig, loraEmbedding } from '../../peft/reparameterized/loraEmbedding.ts';
import { type TrainableTokensConfig, trainableTokens } from '../../peft/selective/trainableTokens.ts';
import type { Place } from '../names.ts';
import { headShares } from './adapter.ts';
import { count, orNull, real, whole } from './config.ts';
import { count1, number, patterns, yes } from './fields.ts';
import { asAny, field, mostly, renamed, same, Unsupported } from './format.ts';
import { byPattern } from './targets.ts';

const indices = z.array(whole.min(0));
export const TOKEN_INDICES = { trainable_token_indices: field(orNull(z.union([indices, z.record(z.string(), indices)])), null) } as const;

const UPDATE_FIELDS = {
  r: count1(8),
  lora_alpha: number(8, false),
  use_rslora: yes(false),
  rank_pattern: patterns(count),
  alpha_pattern: patterns(real),
  ensure_weight_tying: yes(false),
} as const;
type Numbers = Readonly<Record<string, number>>;

/** On a table that the head shares, the head keeps it, as with `ensure_weight_tying: false` in the library. */
export const ON_EMBEDDINGS = asAny<LoraEmbeddingConfig, typeof UPDATE_FIELDS>({
  peftType: 'LORA',
  method: 'loraEmbedding',
  fields: UPDATE_FIELDS,
  on: 'embedding',
  conv1d: true,
  options: (c, places) => {
    const modules = places.map((p) => p.module);
    const rank = byPattern(c.rank_pattern as Numbers | null, modules, c.r ?? 8);
    const alpha = byPattern(c.alpha_pattern as Numbers | null, modules, c.lora_alpha ?? 8);
    return (place) => ({ rank: rank(place!.module), alpha: alpha(place!.module), rankStabilized: c.use_rslora ?? false });
  },
  refuses: ({ tied }, c) =>
    tied && c?.ensure_weight_tying === true && /embed_tokens/.test(JSON.stringify(c.target_modules))
      ? 'ensure_weight_tying is true, and the head shares the table of embed_tokens: the library adapts both then, and this one the lookup alone. Merge it where it was trained, or train it with ensure_weight_tying=False'
      : null,
  attach: (o) => loraEmbedding(o),
  config: (at, { beside }) => {
    const stabilized = same(at, 'rankStabilized', (o) => o.rankStabilized);
    if (beside !== null && beside.use_rslora !== stabilized)
      throw new Unsupported(`rankStabilized is ${stabilized} on embeddings and ${beside.use_rslora} on layers, and a file has one`);
    const [r, alpha] =
      beside === null ? [mostly(at, (o) => o.rank).usual, mostly(at, (o) => o.alpha).usual] : [beside.r, beside.lora_alpha];
    const others = (value: (o: LoraEmbeddingConfig) => number, usual: unknown): Numbers =>
      Object.fromEntries(at.filter((a) => value(a.options) !== usual).map((a) => [a.module, value(a.options)]));
    return {
      r: r as number,
      lora_alpha: alpha as number,
      use_rslora: stabilized,
      rank_pattern: { ...(beside?.rank_pattern as Numbers | undefined), ...others((o) => o.rank, r) },
      alpha_pattern: { ...(beside?.alpha_pattern as Numbers | undefined), ...others((o) => o.alpha, alpha) },
    };
  },
  ...renamed({ A: 'lora_embedding_A', B: 'lora_embedding_B' }),
});

const DELTA = 'token_adapter.trainable_tokens_delta';
/** Which tokens at which module: a list is of the embedding. A head that shares its table follows it. */
function tokensAt(
  given: readonly number[] | Readonly<Record<string, readonly number[]>>,
  places: readonly Place[],
): ReadonlyMap<Place, readonly number[]> {
  const [embed, head] = ['embed', 'head'].map((path) => places.find((p) => p.path === path));
  const named = Array.isArray(given) ? [[embed!.module, given as readonly number[]] as const] : Object.entries(given);
  const found = new Map<Place, readonly number[]>();
  for (const [name, tokens] of named) {
    const at = places.filter((p) => p.module.endsWith(name));
    if (at.length === 0)
      throw new Unsupported(
        `trainable_token_indices names ${name}; this model has tables of words at ${places.map((p) => p.module).join(', ')}`,
      );
    for (const p of at) found.set(p, tokens);
  }
  if (!headShares(places)) return found;
  const [words, answers] = [found.get(embed!), found.get(head!)];
  if (answers !== undefined && answers.join() !== words?.join())
    throw new Unsupported(
      `trainable_token_indices has ${words === undefined ? 'no' : 'other'} tokens for ${embed!.module} than for ${head!.module}, which shares its table here; name the same for both, or untie the model first`,
    );
  return words === undefined ? found : found.set(head!, words);
}

/** The rows that a file of another method trains besides. */
export const TOKENS_BESIDE = asAny<TrainableTokensConfig, typeof TOKEN_INDICES>({
  peftType: 'LORA',
  method: 'trainableTokens',
  fields: TOKEN_INDICES,
  on: 'table',
  conv1d: true,
  alone: true,
  targets: ({ trainable_token_indices: given }, places) => (given == null ? [] : [...tokensAt(given, places).keys()]),
  options: ({ trainable_token_indices: given }, places) => {
    const tokens = given == null ? null : tokensAt(given, places);
    return (place) => ({ tokens: [...tokens!].find(([p]) => p.path === place!.path)![1], init: 'row' });
  },
  normal: ({ tokens }) => ({ tokens, init: 'row' }), // how rows began is not needed any more: they are in the file
  attach: (o) => trainableTokens(o),
  config: (at) => {
    const tied = headShares(at.map((a) => a.place!));
    const own = at.filter((a) => !(tied && a.path === 'head.weight'));
    const last = (module: string): string => module.split('.').at(-1)!;
    return {
      trainable_token_indices:
        own.length === 1 && own[0]!.place!.path === 'embed'
          ? own[0]!.options.tokens
          : Object.fromEntries(own.map((a) => [last(a.module), a.options.tokens])),
    };
  },
  // A head that follows has no rows of its own, except where the file has whole tables as well.
  decode: (get, { place, places }) => ({ rows: get(get.has(DELTA) ? DELTA : follows(place!, places)) }),
  encode: ({ rows }, { place, places, had }) => (follows(place!, places) === DELTA || had(DELTA) ? { [DELTA]: rows! } : {}),
});
/** The key of a place's rows: for a head that shares the embedding's table, the embedding's. */
function follows(place: Place, places: readonly Place[]): string {
  if (place.path !== 'head' || !headShares(places)) return DELTA;
  return `base_model.model.${places.find((p) => p.path === 'embed')!.module}.${DELTA}`;
}
