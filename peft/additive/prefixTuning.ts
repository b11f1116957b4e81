// Prefix tuning: p trained keys and values in front of those of the text, at every attention layer.
//   attend(q, [P_k; k], [P_v; v]);   [P_k,1, P_v,1, …, P_k,L, P_v,L] = W₂ tanh(W₁ E + b₁) + b₂, or trained as they are
// Li & Liang 2021, arXiv 2101.00190, §4.2–4.3. The MLP is for training: `finish` leaves the table it makes.
// Longer than 80 lines: tables as they are, by the MLP or from a text, with dropout and a choice of layers.
import { dropout } from '../../core/ops/fused.ts';
import type { Numbers } from '../../core/plan.ts';
import { defineMethod } from '../attach.ts';
import { dropoutFits, lengthFits, wholeNumber } from '../check.ts';
import { PLACES, type Site, type Where } from '../site.ts';
import { flatten, newPrefix, newPrefixHidden, type Prefix, prefixFrom, prefixHiddenSize, prefixSize } from './prefix.ts';
import { type DropHeads, prefixed, tableWidths } from './prefixAttention.ts';
import { checkText, fromText } from './prefixFromText.ts';

export interface PrefixTuningConfig {
  readonly length: number; // p
  readonly bottleneck: number | null; // width m of the MLP; null: the table itself is trained
  readonly init: 'normal' | 'zero' | { readonly ids: readonly number[] }; // zero: the last layer; ids: a real text's keys and values
  readonly attend: Where; // which attention layers
  readonly dropout: number; // on the keys and values of the prefix
  readonly shift: boolean; // the text's positions start at p; false leaves them where they are, as AdapterHub does
}

/**
 * The text's positions start at p; prefix keys are used as they are, without rotation. Defaults: p = 10 and m = 512 as in the
 * paper's GPT-2 runs; E ~ N(0, 1), linear layers U(±1/√in). Starting from a text's keys and values (`init: { ids }`, p ids) needs
 * `prepare` and `bottleneck: null`.
 * Count: pd + dm + m + (m + 1)·2LHkD trained with the MLP, 2LpHkD without; 2LpHkD stored. Length 0 is the base; a prefix of zeros is
 * not, since zero keys take their share of attention.
 */
export const prefixTuning = defineMethod<'trunk', PrefixTuningConfig, Prefix, null, readonly (readonly Numbers[])[] | null>({
  name: 'prefixTuning',
  family: 'additive',
  paper: 'arXiv:2101.00190',
  at: 'trunk',
  defaults: { length: 10, bottleneck: 512, init: 'normal', attend: 'attend', dropout: 0, shift: true, where: 'trunk' },
  takes: { bottleneck: [null, Number], init: ['normal', 'zero', Object], attend: PLACES },
  check: (site, c) => {
    if (c.shift || c.length === 0) lengthFits('prefixTuning', site, c.length);
    else wholeNumber('prefixTuning', 'length', c.length);
    if (c.bottleneck !== null) wholeNumber('prefixTuning', 'bottleneck', c.bottleneck);
    dropoutFits('prefixTuning', c.dropout);
    tableWidths(site, c.attend);
    if (typeof c.init === 'object') checkText(site, c, c.init.ids);
  },
  prepareIf: (c) => typeof c.init === 'object' && c.length > 0,
  prepare: async (sites, c, { engine }) => (typeof c.init === 'object' ? fromText(sites, c.init.ids, c.attend, engine) : null),
  init: (site, c, r, { prepared }) => {
    const w = c.length === 0 ? [] : tableWidths(site, c.attend);
    const numbers = prepared?.[site.index];
    if (numbers !== undefined) return { train: prefixFrom(w, c.length, numbers) };
    const mlp = c.bottleneck === null || c.length === 0 ? null : newPrefixHidden(c.length, site.dim('width'), c.bottleneck, r);
    return { train: newPrefix(w, c.length, mlp, c.init === 'zero', r) };
  },
  around: (call, t, c, site) => {
    if (c.length === 0) return call;
    const drop: DropHeads = (heads, part, ctx) => {
      const mask = c.dropout === 0 ? null : ctx.draw.bernoulli(`${site.field} ${part}`, heads.shape, 1 - c.dropout);
      return mask === null ? heads : dropout(heads, mask, 1 - c.dropout);
    };
    return prefixed(call, site, c, () => flatten(t), drop);
  },
  finish: (t) => ({ table: flatten(t) }),
  count: (sites, c) => {
    const one = (s: Site<'trunk'>, m: number | null): number =>
      c.length === 0
        ? 0
        : prefixSize(tableWidths(s, c.attend), c.length, m) + (m === null ? 0 : prefixHiddenSize(c.length, s.dim('width'), m));
    const all = (m: number | null): number => sites.reduce((n, s) => n + one(s, m), 0);
    return { train: all(c.bottleneck), stored: all(null) };
  },
  startsAsBase: (c) => (c.length === 0 ? 'bitwise' : 'no'),
});
