// LPT, late prompt tuning: the prompt enters between two blocks, and may be made of what the blocks below say of the text.
//   h ← block_L(… block_{k+1}([P; block_k(… block_1(h))]))[p:],   P ∈ ℝ^{p×d} trained, or for each text
//   naive:  P = W₂ relu(W₁ m + b₁) + b₂, m the first or last token at layer k, W₁ ∈ ℝ^{h×d}, W₂ ∈ ℝ^{pd×h}
//   average, max:  P_i = W₂ relu(pool_i(W₁ H + b₁)) + b₂, the text cut into p adaptive windows, W₂ ∈ ℝ^{d×h}
// Liu et al. 2022, arXiv 2210.11292, §4, and the authors' code. Longer than 80 lines: it has three generators besides the plain prompt.
import { dropout } from '../../core/ops/fused.ts';
import { iota } from '../../core/ops/index.ts';
import { gt, lt, relu, where } from '../../core/ops/map.ts';
import { broadcastTo, concat, reshape } from '../../core/ops/move.ts';
import { maxOver, sum } from '../../core/ops/reduce.ts';
import { param, type Tensor } from '../../core/tensor.ts';
import { type Context, shifted, withTokens } from '../../nn/context.ts';
import { pool } from '../../nn/heads.ts';
import { BASE, layer } from '../../nn/layer.ts';
import { substitute } from '../../nn/tree.ts';
import { defineMethod } from '../attach.ts';
import { dropoutFits, lengthFits, wholeNumber } from '../check.ts';
import type { Site } from '../site.ts';
import { readsWhole, realTokens } from './reading.ts';

export interface LptConfig {
  readonly length: number; // p
  readonly after: number | null; // k, the blocks below the prompt; null: half of them
  readonly generator: null | 'naive' | 'average' | 'max'; // null: the rows are trained as they are
  readonly hidden: number; // h of a generator
  readonly reads: 'first' | 'last'; // the token a naive generator reads
  readonly dropout: number; // of what a generator makes
}
/** P alone, or a generator. */
type Lpt = { readonly P?: Tensor; readonly W1?: Tensor; readonly b1?: Tensor; readonly W2?: Tensor; readonly b2?: Tensor };

const late = (site: Site<'trunk'>, c: LptConfig): number => c.after ?? Math.floor(site.within('block').length / 2);
const rowsMade = (c: LptConfig): number => (c.generator === 'naive' ? c.length : 1); // rows of one answer of W₂

/** 1 where token t of a text lies in its window i, of n tokens cut as evenly as whole tokens go: ⌊in/p⌋ ≤ t < ⌈(i+1)n/p⌉. [B, p, T] */
function windows(H: Tensor, p: number, real: Tensor | null): Tensor {
  const [b, t] = H.shape as readonly [number, number, number];
  const n = real === null ? t : reshape(sum(real, [1], true), [b, 1, 1]);
  const i = reshape(iota(p), [p, 1]);
  const at = iota(t);
  const inside = lt(i.mul(n), at.add(1).mul(p)).mul(gt(i.add(1).mul(n), at.mul(p)));
  return broadcastTo(real === null ? inside : inside.mul(reshape(real, [b, 1, t])), [b, p, t]);
}

/** The prompt of each text [B, p, d], or of all [p, d]. */
function rows(t: Lpt, c: LptConfig, H: Tensor, ctx: Context, name: string): Tensor {
  if (t.P !== undefined) return t.P;
  const [b, tokens, d] = H.shape as readonly [number, number, number];
  const real = realTokens(H, ctx);
  const down = (x: Tensor): Tensor => x.matmul(t.W1!.T).add(t.b1!);
  const read = (): Tensor => {
    if (c.generator === 'naive') return down(pool(H, real, c.reads)); // [B, h]
    const inside = windows(H, c.length, real);
    if (c.generator === 'average') return inside.matmul(down(H)).div(sum(inside, [2], true)); // [B, p, h]
    const masked = where(reshape(inside, [b, c.length, tokens, 1]), reshape(down(H), [b, 1, tokens, c.hidden]), -1e30);
    return maxOver(masked, [2]);
  };
  const made = reshape(relu(read()).matmul(t.W2!.T).add(t.b2!), [b, c.length, d]);
  const mask = c.dropout === 0 ? null : ctx.draw.bernoulli(name, made.shape, 1 - c.dropout);
  return mask === null ? made : dropout(made, mask, 1 - c.dropout);
}

/**
 * The prompt gets no learned positions, since those are added below it; with rotary ones it stands in front of the text. Blocks below it
 * cost neither its length nor a backward pass. The authors insert after the middle block: 20 rows as they are, 5 of the naive generator,
 * 10 of a pooling one, whose h is 128 or 256. P ~ N(0, 1), linear layers U(±1/√in). Windows count real tokens, padding at the right. A
 * generator reads the whole text, so it is refused in a language model. Count: pd; with a generator dh + h + (h + 1)pd, or (h + 1)d.
 */
export const lpt = defineMethod<'trunk', LptConfig, Lpt>({
  name: 'lpt',
  family: 'additive',
  paper: 'arXiv:2210.11292',
  at: 'trunk',
  defaults: { length: 20, after: null, generator: null, hidden: 256, reads: 'first', dropout: 0.1, where: 'trunk' },
  check: (site, c) => {
    lengthFits('lpt', site, c.length);
    for (const name of ['length', 'hidden'] as const) wholeNumber('lpt', name, c[name]);
    dropoutFits('lpt', c.dropout);
    const [k, blocks] = [late(site, c), site.within('block').length];
    if (!Number.isInteger(k) || k < 0 || k >= blocks)
      throw new RangeError(
        `lpt: after ${k} at ${site.path} must be a whole number from 0 to ${blocks - 1}: some block must hear the prompt`,
      );
    if (c.generator !== null) readsWhole('lpt', site);
  },
  init: (site, c, r) => {
    const [d, { length: p, hidden: h }] = [site.dim('width'), c];
    if (c.generator === null) return { train: { P: param(r.split('P').normal(p * d), [p, d]) } };
    const draw = (name: string, n: number, from: number): Float32Array =>
      r.split(name).uniform(n, -1 / Math.sqrt(from), 1 / Math.sqrt(from));
    const out = rowsMade(c) * d;
    return {
      train: {
        W1: param(draw('W1', h * d, d), [h, d]),
        b1: param(draw('b1', h, d), [h], { decay: false }),
        W2: param(draw('W2', out * h, h), [out, h]),
        b2: param(draw('b2', out, h), [out], { decay: false }),
      },
    };
  },
  around: (call, t, c, site) => {
    const place = new Map(site.within('block').map((b) => [b.path, b.index]));
    const [k, last] = [late(site, c), place.size - 1];
    return substitute(
      call,
      'block',
      (l, path) => {
        const i = place.get(path);
        if (i === undefined || i < k) return null;
        return layer('block', { [BASE]: l }, () => (h, ctx) => {
          if (ctx.cache?.filled) return l(h, shifted(ctx, c.length)); // the rows are in the cache of this block
          const [b, , d] = h.shape as readonly [number, number, number];
          const x = i === k ? concat([broadcastTo(rows(t, c, h, ctx, `${site.field} rows`), [b, c.length, d]), h], 1) : h;
          const y = l(x, withTokens(ctx, c.length));
          return i === last ? y.slice(1, c.length) : y;
        });
      },
      site.path,
    );
  },
  count: (sites, c) => {
    const one = (d: number): number => (c.generator === null ? c.length * d : d * c.hidden + c.hidden + (c.hidden + 1) * rowsMade(c) * d);
    const train = sites.reduce((n, s) => n + one(s.dim('width')), 0);
    return { train, stored: train };
  },
  startsAsBase: () => 'no',
});
