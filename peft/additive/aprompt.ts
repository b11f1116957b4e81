// APrompt, attention prompt tuning: each attention hears a prompt of its own in front of its input, and has prompts of two more kinds inside.
//   x = [P; h] where a block's attention hears h, but no answer is kept for P;   in each head   softmax(Q Kᵀ/√D) V   with
//   Q = [q | R_q],  K = [[P_k; k] | R_k],  V = [P_v; v],  so that  Q Kᵀ = q [P_k; k]ᵀ + R_q R_kᵀ:  places learn which places to look at
//   P ∈ ℝ^{p×d};   key-value prompts P_k, P_v ∈ ℝ^{b×D};   query-key prompts R_q ∈ ℝ^{n×a}, R_k ∈ ℝ^{(b+n)×a} for the n tokens of x
// Wang et al. 2023 (EMNLP), §4. Inside the heads: apromptAttention.ts.
import { broadcastTo, concat } from '../../core/ops/move.ts';
import { size } from '../../core/shape.ts';
import { param, type Tensor } from '../../core/tensor.ts';
import { shifted, withTokens } from '../../nn/context.ts';
import { BASE, type Layer, layer, ofKind } from '../../nn/layer.ts';
import { layers, substitute } from '../../nn/tree.ts';
import { defineMethod } from '../attach.ts';
import { wholeNumber } from '../check.ts';
import type { Site } from '../site.ts';
import { type APromptConfig, type AttentionPrompts, attentionSizes, underPrompts } from './apromptAttention.ts';
import { residualOf } from './residualStream.ts';

type APrompt = AttentionPrompts & { readonly P: Tensor }; // [p, d]
const shapes = (site: Site<'block'>, c: APromptConfig): { readonly [K in keyof APrompt]: readonly number[] } => ({
  P: [c.length, site.dim('width')],
  ...attentionSizes(site.within('attend')[0]!, c),
});

/**
 * p = 10 as in the paper, where a and b are chosen from 1, 5, 10, 20 and 50, and a classifier's head is trained besides. Places are counted
 * from the first row that the attention hears, prompts included. Not said in what could be read: that query-key prompts are columns (“small
 * matrices” are appended to Q and K, and K alone has both kinds) is as the code of E2VPT has it (2307.13770, two authors are the same), and
 * so is the start U(±√(6/(rows·width))) of each table, per head. Count for each block: pd + 2bHkD + naH + (b + n)aHk, n = p + longest text.
 */
export const aprompt = defineMethod<'block', APromptConfig, APrompt>({
  name: 'aprompt',
  family: 'additive',
  paper: 'https://aclanthology.org/2023.emnlp-main.567',
  at: 'block',
  defaults: { length: 10, queryKey: 10, keyValue: 10, tokens: 512, where: /./ },
  check: (_, c) => {
    for (const name of ['length', 'queryKey', 'keyValue', 'tokens'] as const) wholeNumber('aprompt', name, c[name]);
  },
  init: (site, c, r) => {
    const all = shapes(site, c);
    const draw = (name: keyof APrompt): Tensor => {
      const bound = Math.sqrt(6 / (all[name].at(-2)! * all[name].at(-1)!));
      return param(r.split(name).uniform(size(all[name]), -bound, bound), all[name]);
    };
    const [queryPlaces, keyPlaces] = [draw('queryPlaces'), draw('keyPlaces')];
    return { train: { P: draw('P'), keys: draw('keys'), values: draw('values'), queryPlaces, keyPlaces } };
  },
  around: (call, t, { length: p }, { path: at }) => {
    const norm1 = [...layers(call, at)].find(({ path }) => path === `${at}.norm1`)?.layer;
    const attn = (l: Layer<'branch'>): Layer<'branch'> =>
      layer('branch', { [BASE]: l }, ({ [BASE]: l }) => (x, ctx) => {
        const inside = substitute(l, 'attend', (a) => underPrompts(a, t, at), `${at}.attn`);
        if (ctx.cache?.filled) return inside(x, shifted(ctx, p)); // the rows are in the cache
        const residual = residualOf(ctx, 'aprompt', at);
        const rows = broadcastTo(t.P, [x.shape[0]!, p, x.shape[2]!]);
        const front = residual.norm === null ? ofKind(norm1, 'norm')(rows, ctx) : rows; // x is normed, or will be after the addition
        const c = { ...withTokens(ctx, p), residual: { ...residual, stream: concat([rows, residual.stream], 1) } };
        return inside(concat([front, x], 1), c).slice(1, p);
      });
    return substitute(call, 'branch', (l, path) => (path === `${at}.attn` ? attn(l) : null), at);
  },
  count: (sites, c) => {
    const train = sites.flatMap((s) => Object.values(shapes(s, c))).reduce((n, shape) => n + size(shape), 0);
    return { train, stored: train };
  },
  startsAsBase: () => 'no',
});
