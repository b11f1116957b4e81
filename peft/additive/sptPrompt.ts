// SPT, selective prompt tuning: at every block a gate between the prompt that comes from the block below and a new one.
//   P̃_i = (1 − τ a_i) P̂_{i−1} + τ a_i P_i,   [P̂_i; h_i] = block_i([P̃_i; h_{i−1}]),   a_i = sigmoid(α_i),  P̂_0 = 0;   answer h_L
// Zhu & Tan 2023, arXiv 2310.20127 (EMNLP 2023).
// The blocks with the largest gates are then prompted for good: `kept`, by sptKept.ts. Prompts and gates: sptRows.ts.
import { concat } from '../../core/ops/move.ts';
import type { Tensor } from '../../core/tensor.ts';
import { shifted, withTokens } from '../../nn/context.ts';
import { BASE, layer } from '../../nn/layer.ts';
import { substitute } from '../../nn/tree.ts';
import { defineMethod } from '../attach.ts';
import { between } from '../check.ts';
import type { Site } from '../site.ts';
import { checkGenerator, GENERATOR, generated, generatorSize, inserted } from './promptGenerator.ts';
import { rowsBefore } from './reading.ts';
import { gateOf, generatorOf, newRows, prompted, type SptPrompt, type SptPromptConfig } from './sptRows.ts';

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
  takes: GENERATOR,
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
  init: (site, c, r) => ({ train: newRows(site, c, r) }),
  around: (call, t, c, site) => {
    const place = new Map(site.within('block').map((b) => [b.path, b.index]));
    const [at, last, p] = [prompted(site, c), place.size - 1, c.length];
    return substitute(
      call,
      'block',
      (l, path) => {
        const i = place.get(path);
        if (i === undefined || i < at[0]!) return null;
        const n = at.indexOf(i);
        return layer('block', { [BASE]: l }, ({ [BASE]: l }) => (h, ctx) => {
          if (ctx.cache?.filled) return l(h, shifted(ctx, p)); // the rows are in the cache of this block
          const others = rowsBefore(h, ctx) - (n === 0 ? 0 : p); // of methods beneath; ours stand next to the text
          const next = (): Tensor => {
            if (n < 0) return h;
            const gate = gateOf(t, c, n);
            const text = h.slice(1, n === 0 ? others : others + p);
            const fresh = generated(generatorOf(t, n), c, text, ctx, `${site.field} rows`).mul(gate);
            const mixed = (below: Tensor): Tensor => fresh.add(below.sub(below.mul(gate)));
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
    const gates = (s: Site<'trunk'>): number => (c.kept.length === 0 ? s.within('block').length : 0);
    const train = sites.reduce((n, s) => n + gates(s) + prompted(s, c).length * generatorSize(c, s.dim('width')), 0);
    return { train, stored: train };
  },
  startsAsBase: () => 'no',
});
