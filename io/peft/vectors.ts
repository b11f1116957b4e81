// Files of methods that train vectors: (IA)³, norm tuning, rows of tokens, and BitFit, which is written as BEFT.
import { z } from 'zod';
import { type Ia3Config, ia3 } from '../../peft/additive/ia3.ts';
import { lnTuning } from '../../peft/additive/lnTuning.ts';
import { bitfit } from '../../peft/selective/bitfit.ts';
import { type TrainableTokensConfig, trainableTokens } from '../../peft/selective/trainableTokens.ts';
import { matches } from '../../peft/site.ts';
import { headShares } from './adapter.ts';
import { orNull, whole } from './config.ts';
import { EXCLUDE, FAN, INIT, TARGETS, yes } from './fields.ts';
import { type AnyFormat, asAny, field, renamed, same, type Table } from './format.ts';
import { matching } from './patterns.ts';
import { namedShortly } from './targets.ts';

const list = orNull(z.union([z.string(), z.array(z.string())]));
const { target_modules } = TARGETS;
export const shaped = ({ data }: Table, ...shape: readonly number[]): Table => ({ data, shape });

const IA3_FIELDS = { target_modules, ...EXCLUDE, ...FAN, feedforward_modules: field(list, null), init_ia3_weights: yes(true) } as const;
const last = (path: string): string => path.split('.').at(-1)!;
const isFeedforward = (o: Ia3Config, path: string): boolean => matches(o.feedforward, path);

/** ia3_l: [out, 1], or [1, in] for what is rescaled before it is multiplied. A list names by any end of a name, dot or not. */
const IA3 = asAny<Ia3Config, typeof IA3_FIELDS>({
  peftType: 'IA3',
  method: 'ia3',
  fields: IA3_FIELDS,
  on: 'linear',
  conv1d: true,
  byRows: ['ia3_l'],
  options: ({ feedforward_modules: which }, places) => {
    const modules = places.map((p) => p.module);
    const inner =
      typeof which === 'string'
        ? new Set(matching(which, modules).keys())
        : new Set(modules.filter((m) => which?.some((e) => m.endsWith(e))));
    return (place) => ({ feedforward: inner.has(place!.module) ? [last(place!.path)] : [], queries: true });
  },
  attach: (o) => ia3(o),
  config: (at, { modules }) => {
    const inner = at.filter((a) => isFeedforward(a.options, a.path)).map((a) => a.module);
    const outer = at.filter((a) => !isFeedforward(a.options, a.path)).map((a) => a.module);
    const short = (some: readonly string[]): string[] => {
      const names = some.length === 0 ? [] : namedShortly(some, modules);
      return some.length > 0 && modules.every((m) => some.includes(m) || !names.some((n) => m.endsWith(n))) ? names : [...some];
    };
    const ends = short(inner);
    return { feedforward_modules: ends, target_modules: [...short(outer), ...ends] };
  },
  decode: (get) => {
    const l = get('ia3_l');
    return { l: shaped(l, l.data.length) };
  },
  encode: ({ l }, { options, path, place }) => {
    if (isFeedforward(options, path)) return { ia3_l: shaped(l!, 1, l!.data.length) };
    const out = Math.max(outputsOf(place?.layer.fields.weight) ?? 0, l!.data.length);
    // a fused projection whose queries are left alone
    return { ia3_l: { data: Float64Array.from({ length: out }, (_, k) => l!.data[k - out + l!.data.length] ?? 1), shape: [out, 1] } };
  },
  joined: (pieces) => {
    const { of } = pieces[0]!.rows;
    const data = new Float64Array(of).fill(1);
    for (const { own, rows } of pieces) data.set(own.l!.data, rows.from);
    return { options: { ...pieces[0]!.options, queries: true }, own: { l: { data, shape: [of] } } };
  },
  normal: ({ feedforward, queries }) => ({ feedforward, queries }),
});
/** Rows of a weight that is a leaf or parameter. */
function outputsOf(weight: unknown): number | null {
  const fields =
    typeof weight === 'function' && 'fields' in weight
      ? (weight.fields as { readonly value?: { readonly shape: readonly number[] } })
      : null;
  return fields?.value?.shape[0] ?? null;
}

const LN_FIELDS = { target_modules, ...EXCLUDE } as const;
/** ln_tuning_layers.weight, .bias: copies of gain and shift; ours is the change. */
const LN_TUNING = asAny<object, typeof LN_FIELDS>({
  peftType: 'LN_TUNING',
  method: 'lnTuning',
  fields: LN_FIELDS,
  on: 'norm',
  conv1d: true,
  options: () => () => ({}),
  attach: (o) => lnTuning(o),
  config: () => ({}),
  nothing: (shape) => ({ delta: { data: new Float32Array(shape.reduce((n, d) => n * d, 1)), shape } }),
  decode: (get, { path, base }) => {
    const part = path.endsWith('.bias') ? 'bias' : 'weight';
    const [now, was] = [get(`ln_tuning_layers.${part}`), base(part)];
    return { delta: { data: Float64Array.from(now.data, (v, k) => v - was.data[k]!), shape: now.shape } };
  },
  encode: ({ delta }, { path, base }) => {
    const part = path.endsWith('.bias') ? 'bias' : 'weight';
    const was = base(part);
    return { [`ln_tuning_layers.${part}`]: { data: Float64Array.from(delta!.data, (v, k) => v + was.data[k]!), shape: was.shape } };
  },
});

const BEFT_FIELDS = { target_modules, ...INIT } as const;
/** beft_bias [1, out], added to the bias; read back as `beft`. */
const BITFIT = asAny<object, typeof BEFT_FIELDS>({
  peftType: 'BEFT',
  method: 'bitfit',
  fields: BEFT_FIELDS,
  on: 'bias',
  conv1d: false,
  is: () => false,
  options: () => () => ({}),
  attach: (o) => bitfit(o),
  config: () => ({}),
  decode: (get) => {
    const b = get('beft_bias');
    return { delta: shaped(b, b.data.length) };
  },
  encode: ({ delta }) => ({ beft_bias: shaped(delta!, 1, delta!.data.length) }),
});

const TOKEN_FIELDS = {
  token_indices: field(z.array(whole.min(0)), []),
  target_modules,
  init_weights: field(z.boolean().optional(), true),
} as const;
/** trainable_tokens_delta [tokens, d]: the new rows themselves, at the embedding, and at a head that shares its table once more. */
const TOKENS = asAny<TrainableTokensConfig, typeof TOKEN_FIELDS>({
  peftType: 'TRAINABLE_TOKENS',
  method: 'trainableTokens',
  fields: TOKEN_FIELDS,
  on: 'table',
  conv1d: true,
  targets: ({ target_modules: which }, places) => {
    const tables = places.filter((p) => p.kind === 'embedding');
    const names = tables.map((p) => p.module);
    const hit =
      which == null
        ? new Set(tables.filter((p) => p.path === 'embed').map((p) => p.module))
        : typeof which === 'string'
          ? new Set(matching(which, names).keys())
          : new Set(names.filter((m) => which.some((e) => m === e || m.endsWith(`.${e}`))));
    const words = tables.some((p) => p.path === 'embed' && hit.has(p.module));
    return places.filter((p) => hit.has(p.module) || (p.path === 'head' && words && headShares(places)));
  },
  options: (c) => () => ({ tokens: c.token_indices, init: c.init_weights === false ? 'normal' : 'row' }),
  attach: (o) => trainableTokens(o),
  config: (at, { modules }) => ({
    token_indices: same(at, 'tokens', (o) => o.tokens.join(' '))
      .split(' ')
      .map(Number),
    target_modules: namedShortly(
      at.filter((a) => a.place?.kind === 'embedding').map((a) => a.module),
      modules,
    ),
    init_weights: same(at, 'init', (o) => o.init) === 'row',
  }),
  ...renamed({ rows: 'trainable_tokens_delta' }),
});

export const VECTORS: readonly AnyFormat[] = [IA3, LN_TUNING, BITFIT, TOKENS];
