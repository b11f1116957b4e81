// SPT, selective prompt tuning: at every block a gate between the prompt that comes from the block below and a new one.
//   P̃_i = (1 − τ a_i) P̂_{i−1} + τ a_i P_i,   [P̂_i; h_i] = block_i([P̃_i; h_{i−1}]),   a_i = sigmoid(α_i),  P̂_0 = 0;   answer h_L
// Zhu & Tan 2023, arXiv 2310.20127 (EMNLP 2023). The blocks with the largest gates are then prompted for good: `kept`, by `sptKept`.
// Longer than 100 lines: a search and its result are one method.
import { sigmoid } from '../../core/ops/map.ts';
import { concat } from '../../core/ops/move.ts';
import { param, paramOf, type Tensor } from '../../core/tensor.ts';
import { shifted, withTokens } from '../../nn/context.ts';
import { BASE, layer, type Model } from '../../nn/layer.ts';
import { substitute } from '../../nn/tree.ts';
import { defineMethod } from '../attach.ts';
import { between, wholeNumber } from '../check.ts';
import { largest } from '../select.ts';
import type { Site } from '../site.ts';
import {
  checkGenerator,
  type Generator,
  type GeneratorConfig,
  generated,
  generatorSize,
  inserted,
  newGenerator,
} from './promptGenerator.ts';
import { rowsBefore } from './reading.ts';
import { ownOf } from './sourcePrompts.ts';

export interface SptPromptConfig extends GeneratorConfig {
  readonly tau: number; // τ: how much of the prompt from below an open gate replaces
  readonly kept: readonly number[]; // blocks that have a new prompt, with a_i = 1; empty: all have, and their gates are trained
}
/** For each prompted block in turn: P or W1, b1, W2, b2; and all gates, alpha [n], while they are trained. */
type SptPrompt = { readonly alpha?: Tensor } & { readonly [K in keyof Generator]?: readonly Tensor[] };
const NAMES = ['P', 'W1', 'b1', 'W2', 'b2'] as const;

const prompted = (site: Site<'trunk'>, c: SptPromptConfig): readonly number[] =>
  c.kept.length === 0 ? site.within('block').map((b) => b.index) : c.kept;

/**
 * Known from the paper's abstract and from surveys: a learnable probabilistic gate at every layer decides between the prompt from below
 * and a newly generated one, and the layers to prompt are selected by it. From memory, not verified: the equation with τ. Not verified
 * either: α = 0 at first, zeros below the first prompt, and the paper's generator, for which those of LPT are offered (null: rows as they
 * are, which serves language models too). Its bi-level training (SPT-DARTS) is left out: gates train with the prompts. Count: L gates and
 * L prompts; or the kept prompts.
 */
export const sptPrompt = defineMethod<'trunk', SptPromptConfig, SptPrompt>({
  name: 'sptPrompt',
  family: 'additive',
  paper: 'arXiv:2310.20127',
  at: 'trunk',
  defaults: { length: 10, tau: 1, kept: [], generator: null, hidden: 256, reads: 'first', dropout: 0.1, where: 'trunk' },
  check: (site, c) => {
    checkGenerator('sptPrompt', site, c);
    between('sptPrompt', 'tau', c.tau, Number.MIN_VALUE, 1, true);
    const blocks = site.within('block').length;
    const bad = c.kept.find((k, n) => !Number.isInteger(k) || k >= blocks || k < 0 || (n > 0 && k <= c.kept[n - 1]!));
    if (bad !== undefined)
      throw new RangeError(
        `sptPrompt: kept names block ${bad}; it must list blocks of ${site.path}, 0 … ${blocks - 1}, in order and each once`,
      );
  },
  init: (site, c, r) => {
    const at = prompted(site, c);
    const each = at.map((i) => newGenerator(c, site.dim('width'), r.split(`block ${i}`)));
    const listed = NAMES.flatMap((k) => (each[0]![k] === undefined ? [] : [[k, each.map((g) => g[k]!)] as const]));
    const alpha = c.kept.length > 0 ? {} : { alpha: param(new Float32Array(at.length), [at.length], { decay: false }) };
    return { train: { ...Object.fromEntries(listed), ...alpha } };
  },
  around: (call, t, c, site) => {
    const place = new Map(site.within('block').map((b) => [b.path, b.index]));
    const [at, last, p] = [prompted(site, c), place.size - 1, c.length];
    const gate = (n: number): Tensor | number => (t.alpha === undefined ? c.tau : sigmoid(t.alpha.slice(0, n, n + 1)).mul(c.tau));
    return substitute(
      call,
      'block',
      (l, path) => {
        const i = place.get(path);
        if (i === undefined || i < at[0]!) return null;
        const n = at.indexOf(i);
        const own = Object.fromEntries(NAMES.flatMap((k) => (t[k] === undefined || n < 0 ? [] : [[k, t[k][n]!]]))) as Generator;
        return layer('block', { [BASE]: l }, ({ [BASE]: l }) => (h, ctx) => {
          if (ctx.cache?.filled) return l(h, shifted(ctx, p)); // the rows are in the cache of this block
          const others = rowsBefore(h, ctx) - (n === 0 ? 0 : p); // of methods beneath; ours stand next to the text
          const next = (): Tensor => {
            if (n < 0) return h;
            const text = h.slice(1, n === 0 ? others : others + p);
            const fresh = generated(own, c, text, ctx, `${site.field} rows`).mul(gate(n));
            const mixed = (below: Tensor): Tensor => fresh.add(below.sub(below.mul(gate(n))));
            const rows = n === 0 ? fresh : mixed(h.slice(1, others, others + p)); // with P̂ of the block below
            return inserted(concat([...(others === 0 ? [] : [h.slice(1, 0, others)]), text], 1), others, rows);
          };
          const y = l(next(), withTokens(ctx, p));
          return i === last ? y.slice(1, p) : y;
        });
      },
      site.path,
    );
  },
  count: (sites, c) => {
    const one = (s: Site<'trunk'>): number =>
      prompted(s, c).length * generatorSize(c, s.dim('width')) + (c.kept.length === 0 ? s.within('block').length : 0);
    const train = sites.reduce((n, s) => n + one(s), 0);
    return { train, stored: train };
  },
  startsAsBase: () => 'no',
});

/** The blocks with the `most` largest gates of a trained model, in order: what to attach a new `sptPrompt({ kept })` with and train again. */
export function sptKept(model: Model, most: number): number[] {
  const { own } = ownOf<SptPrompt, SptPromptConfig>(model, 'sptPrompt');
  const gates = own.alpha === undefined ? null : paramOf(own.alpha);
  if (gates === null) throw new Error('sptKept: the gates of this model are not trained any more; give it the model of the search');
  wholeNumber('sptKept', 'most', most);
  return largest([gates.value], most)[0]!;
}
