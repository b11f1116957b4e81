// Prompt tuning: p trained rows in front of the embedded text, and nothing else.
//   h = trunk([P; embed(x)])[p:],   P ∈ ℝ^{p×d};  the text's positions start at p
// Lester et al. 2021, arXiv 2104.08691, §2.
import type { Numbers } from '../../core/plan.ts';
import type { Rng } from '../../core/rng.ts';
import { param, type Tensor } from '../../core/tensor.ts';
import { defineMethod } from '../attach.ts';
import { idsFit, lengthFits, wholeNumber } from '../check.ts';
import { embedded, promptBeforeBlocks, promptInFront } from './promptRows.ts';

/**
 * `normal` N(0, 1) as in Hugging Face PEFT; `uniform` U(±0.5) as in the paper; or the vectors of real tokens, which needs
 * `prepare`: `{ ids }`, a text's or class labels' ids repeated or cut to p, or `{ vocabulary: n }`, ids sampled among the first n.
 */
export type PromptInit = 'normal' | 'uniform' | { readonly ids: readonly number[] } | { readonly vocabulary: number };

export interface PromptTuningConfig {
  readonly length: number; // p
  readonly init: PromptInit;
  readonly place: 'embedding' | 'blocks'; // in front of the embedded text, or of it with positions (and BERT's first norm), as AdapterHub has it
}

const idsFor = ({ length, init }: PromptTuningConfig, r: Rng): number[] =>
  Array.from({ length }, (_, i) =>
    typeof init !== 'object' ? 0 : 'ids' in init ? init.ids[i % init.ids.length]! : r.below(init.vocabulary),
  );

/**
 * Count: p·d. The default length is where the paper sees most of the gain; its final runs have 100. It wants a large learning rate
 * (0.3 in the paper). Length 0 is the base.
 */
export const promptTuning = defineMethod<'trunk', PromptTuningConfig, { readonly P?: Tensor }, null, readonly Numbers[] | null>({
  name: 'promptTuning',
  family: 'additive',
  paper: 'arXiv:2104.08691',
  at: 'trunk',
  defaults: { length: 20, init: 'normal', place: 'embedding', where: 'trunk' },
  takes: { init: ['normal', 'uniform', Object], place: ['embedding', 'blocks'] },
  check: (site, c) => {
    if (c.place === 'embedding' || c.length === 0) lengthFits('promptTuning', site, c.length);
    else wholeNumber('promptTuning', 'length', c.length);
    if (typeof c.init === 'object') idsFit('promptTuning', site, 'ids' in c.init ? c.init.ids : [c.init.vocabulary - 1]);
  },
  prepareIf: (c) => typeof c.init === 'object' && c.length > 0,
  prepare: async (sites, c, { engine }, r) => {
    const numbers: Numbers[] = [];
    for (const s of sites) numbers.push((await engine.read(embedded(s, idsFor(c, r.split(s.path))))).slice());
    return numbers;
  },
  init: (site, { length: p, init }, r, { prepared }) => {
    const d = site.dim('width');
    if (p === 0) return { train: {} };
    const value = prepared?.[site.index] ?? (init === 'uniform' ? r.uniform(p * d, -0.5, 0.5) : r.normal(p * d));
    return { train: { P: param(value, [p, d]) } };
  },
  around: (call, { P }, c, site) => {
    if (P === undefined) return call;
    return c.place === 'embedding' ? promptInFront(call, P) : promptBeforeBlocks(call, P, site.path);
  },
  byRow: true,
  count: (sites, { length }) => {
    const train = sites.reduce((n, s) => n + length * s.dim('width'), 0);
    return { train, stored: train };
  },
  startsAsBase: (c) => (c.length === 0 ? 'bitwise' : 'no'),
});
