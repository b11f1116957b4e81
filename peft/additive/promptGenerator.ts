// What late prompts share: rows that are trained as they are, or made of what a layer hears of the text.
//   naive:  P = W₂ relu(W₁ m + b₁) + b₂, m the first or last token's state, W₁ ∈ ℝ^{h×d}, W₂ ∈ ℝ^{pd×h}
//   average, max:  P_i = W₂ relu(pool_i(W₁ H + b₁)) + b₂, the text cut into p adaptive windows, W₂ ∈ ℝ^{d×h}
// Liu et al. 2022, arXiv 2210.11292, §4.2, and the authors' code.
import { dropout } from '../../core/ops/fused.ts';
import { iota } from '../../core/ops/index.ts';
import { gt, lt, relu, where } from '../../core/ops/map.ts';
import { broadcastTo, concat, reshape } from '../../core/ops/move.ts';
import { maxOver, sum } from '../../core/ops/reduce.ts';
import type { Rng } from '../../core/rng.ts';
import { param, type Tensor } from '../../core/tensor.ts';
import type { Context } from '../../nn/context.ts';
import { pool } from '../../nn/heads.ts';
import { dropoutFits, lengthFits, wholeNumber } from '../check.ts';
import type { Site } from '../site.ts';
import { readsWhole, realTokens } from './reading.ts';

export interface GeneratorConfig {
  readonly length: number; // p
  readonly generator: null | 'naive' | 'average' | 'max'; // null: the rows are trained as they are
  readonly hidden: number; // h of a generator
  readonly reads: 'first' | 'last'; // the token a naive generator reads
  readonly dropout: number; // of what a generator makes
}
export const GENERATOR = { generator: [null, 'naive', 'average', 'max'], reads: ['first', 'last'] } as const;
/** P [p, d] alone, or a generator. */
export type Generator = { readonly P?: Tensor } & Partial<Record<'W1' | 'b1' | 'W2' | 'b2', Tensor>>;

const rowsMade = (c: GeneratorConfig): number => (c.generator === 'naive' ? c.length : 1); // rows of one answer of W₂

/** A generator reads the whole text, so it is refused in a language model. */
export function checkGenerator(method: string, site: Site<'trunk'>, c: GeneratorConfig): void {
  lengthFits(method, site, c.length);
  for (const name of ['length', 'hidden'] as const) wholeNumber(method, name, c[name]);
  dropoutFits(method, c.dropout);
  if (c.generator !== null) readsWhole(method, site);
}

/** P ~ N(0, 1); linear layers U(±1/√in). */
export function newGenerator(c: GeneratorConfig, d: number, r: Rng): Generator {
  const { length: p, hidden: h } = c;
  if (c.generator === null) return { P: param(r.split('P').normal(p * d), [p, d]) };
  const draw = (name: string, n: number, from: number): Float32Array => r.split(name).uniform(n, -1 / Math.sqrt(from), 1 / Math.sqrt(from));
  const out = rowsMade(c) * d;
  return {
    W1: param(draw('W1', h * d, d), [h, d]),
    b1: param(draw('b1', h, d), [h], { decay: false }),
    W2: param(draw('W2', out * h, h), [out, h]),
    b2: param(draw('b2', out, h), [out], { decay: false }),
  };
}

/** pd; with a generator dh + h + (h + 1)pd, or (h + 1)d of the pooling ones. */
export const generatorSize = (c: GeneratorConfig, d: number): number =>
  c.generator === null ? c.length * d : d * c.hidden + c.hidden + (c.hidden + 1) * rowsMade(c) * d;

/** 1 where token t of a text lies in its window i, of n tokens cut as evenly as whole tokens go: ⌊in/p⌋ ≤ t < ⌈(i+1)n/p⌉. [B, p, T] */
function windows(H: Tensor, p: number, real: Tensor | null): Tensor {
  const [b, t] = H.shape as readonly [number, number, number];
  const n = real === null ? t : reshape(sum(real, [1], true), [b, 1, 1]);
  const i = reshape(iota(p), [p, 1]);
  const at = iota(t);
  const inside = lt(i.mul(n), at.add(1).mul(p)).mul(gt(i.add(1).mul(n), at.mul(p)));
  return broadcastTo(real === null ? inside : inside.mul(reshape(real, [b, 1, t])), [b, p, t]);
}

/** The prompt of each text, [B, p, d], where a block hears H [B, T, d]; `name` is for what dropout draws. */
export function generated(t: Generator, c: GeneratorConfig, H: Tensor, ctx: Context, name: string): Tensor {
  const [b, tokens, d] = H.shape as readonly [number, number, number];
  if (t.P !== undefined) return broadcastTo(t.P, [b, c.length, d]);
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

/** h [B, T, d] with rows [B, p, d] before its token `at`. */
export const inserted = (h: Tensor, at: number, rows: Tensor): Tensor =>
  concat([...(at === 0 ? [] : [h.slice(1, 0, at)]), rows, h.slice(1, at)], 1);
