// DePT: a shorter prompt, and with what that saves a low-rank update of the embedded text, position by position.
//   h = trunk([P; embed(x) + s·(A B)_{1…T}])[m:],   P ∈ ℝ^{m×d}, A ∈ ℝ^{T_max×r}, B ∈ ℝ^{r×d},   s = α/√r in the authors' code, 1 in the paper
// Shi & Lipani 2024, arXiv 2309.05173, §2.
import { gather } from '../../core/ops/index.ts';
import { lt, min } from '../../core/ops/map.ts';
import { reshape } from '../../core/ops/move.ts';
import { ShapeError } from '../../core/shape.ts';
import { param, type Tensor } from '../../core/tensor.ts';
import { defineMethod } from '../attach.ts';
import { between, lengthFits, wholeNumber } from '../check.ts';
import { promptInFront } from './promptRows.ts';

export interface DeptConfig {
  readonly length: number; // m
  readonly rank: number; // r
  readonly tokens: number; // T_max, the longest text
  readonly alpha: number | null; // α; null: s = 1
  readonly matrixRate: number; // learning rate of A and B, times the optimizer's (which is the prompt's)
}

/**
 * A prompt of p rows costs as much as m rows with rank r where m·d + r(T_max + d) = p·d: p = 100 at d = 768 as m = 60, r = 30,
 * T_max = 256. The authors use two learning rates, about 0.3 for the prompt and 1e-4 … 5e-3 for A and B. A ~ U(±1/√r), B zero, so that the
 * text starts unchanged. Rows of A go by the token's position, also under a prefix that moves positions.
 * Count: m·d + r(T_max + d).
 */
export const dept = defineMethod<'trunk', DeptConfig, { readonly P: Tensor; readonly A: Tensor; readonly B: Tensor }>({
  name: 'dept',
  family: 'additive',
  paper: 'arXiv:2309.05173',
  at: 'trunk',
  defaults: { length: 60, rank: 30, tokens: 256, alpha: 8, matrixRate: 0.003, where: 'trunk' },
  takes: { alpha: [null, Number] },
  check: (site, c) => {
    lengthFits('dept', site, c.length);
    for (const name of ['length', 'rank', 'tokens'] as const) wholeNumber('dept', name, c[name]);
    if (c.alpha !== null && !(c.alpha > 0)) throw new RangeError(`dept: alpha ${c.alpha} must be positive, or null for a scale of 1`);
    between('dept', 'matrixRate', c.matrixRate, 0, Number.MAX_VALUE);
    const most = Math.min(c.tokens, site.dim('width'));
    if (c.rank > most) throw new RangeError(`dept: rank ${c.rank} at ${site.path} must be at most ${most}, the smaller side of A B`);
  },
  init: (site, { length, rank, tokens, matrixRate: lr }, r) => {
    const d = site.dim('width');
    return {
      train: {
        P: param(r.split('P').normal(length * d), [length, d]),
        A: param(r.split('A').uniform(tokens * rank, -1 / Math.sqrt(rank), 1 / Math.sqrt(rank)), [tokens, rank], { lr }),
        B: param(new Float32Array(rank * d), [rank, d], { lr }),
      },
    };
  },
  around: (call, { P, A, B }, { tokens, rank, alpha }, site) => {
    const prompted = promptInFront(call, P);
    return (h, ctx) => {
      if (h.shape[1]! > tokens)
        throw new ShapeError(
          `${site.path}: ${h.shape[1]} tokens, but dept has updates for ${tokens}; shorten the text, or attach it with tokens: ${h.shape[1]}`,
        );
      const at = ctx.positions; // [T] or [B, T]
      const known = reshape(lt(at, tokens), [...at.shape, 1]); // beyond them, which a prefix above may push a text, nothing is added
      const update = gather(A, min(at, tokens - 1))
        .mul(known)
        .matmul(B);
      return prompted(h.add(update.mul(alpha === null ? 1 : alpha / Math.sqrt(rank))), ctx);
    };
  },
  count: (sites, { length, rank, tokens }) => {
    const train = sites.reduce((n, s) => n + length * s.dim('width') + rank * (tokens + s.dim('width')), 0);
    return { train, stored: train };
  },
  startsAsBase: () => 'no',
});
