// A transformer block: attention and feed-forward, each a residual branch, normalised before (GPT-2, LLaMA) or after (BERT).
import { here, within } from '../core/scope.ts';
import type { Tensor } from '../core/tensor.ts';
import type { Context } from './context.ts';
import { type Layer, layer } from './layer.ts';

interface Parts {
  readonly norm1: Layer<'norm'>;
  readonly attn: Layer<'branch'>;
  readonly norm2: Layer<'norm'>;
  readonly mlp: Layer<'branch'>;
  readonly width: number;
}

/** The context of a branch: it hears what its answer will be added to, and the norm after that. */
function beside(stream: Tensor, norm: Layer<'norm'> | null, ctx: Context): Context {
  const at = here(); // the norm keeps its own path when a method calls it from within the branch
  return { ...ctx, residual: { stream, norm: norm === null ? null : (sum) => within({ path: at.path }, () => norm(sum, ctx)) } };
}

/** h ← h + attn(norm₁ h);  h ← h + mlp(norm₂ h) */
export const preNormBlock = (parts: Parts): Layer<'block'> =>
  layer('block', { ...parts }, (f) => (h, ctx) => {
    const a = h.add(f.attn(f.norm1(h, ctx), beside(h, null, ctx))); // [B, T, D]
    return a.add(f.mlp(f.norm2(a, ctx), beside(a, null, ctx)));
  });

/** h ← norm₁(h + attn h);  h ← norm₂(h + mlp h) */
export const postNormBlock = (parts: Parts): Layer<'block'> =>
  layer('block', { ...parts }, (f) => (h, ctx) => {
    const a = f.norm1(h.add(f.attn(h, beside(h, f.norm1, ctx))), ctx);
    return f.norm2(a.add(f.mlp(a, beside(a, f.norm2, ctx))), ctx);
  });
