// A transformer block: attention and feed-forward, each a residual branch, normalised before (GPT-2, LLaMA) or after (BERT).
import { type Layer, layer } from './layer.ts';

interface Parts {
  readonly norm1: Layer<'norm'>;
  readonly attn: Layer<'branch'>;
  readonly norm2: Layer<'norm'>;
  readonly mlp: Layer<'branch'>;
  readonly width: number;
}

/** h ← h + attn(norm₁ h);  h ← h + mlp(norm₂ h) */
export const preNormBlock = (parts: Parts): Layer<'block'> =>
  layer('block', { ...parts }, (f) => (h, ctx) => {
    const a = h.add(f.attn(f.norm1(h, ctx), ctx)); // [B, T, D]
    return a.add(f.mlp(f.norm2(a, ctx), ctx));
  });

/** h ← norm₁(h + attn h);  h ← norm₂(h + mlp h) */
export const postNormBlock = (parts: Parts): Layer<'block'> =>
  layer('block', { ...parts }, (f) => (h, ctx) => {
    const a = f.norm1(h.add(f.attn(h, ctx)), ctx);
    return f.norm2(a.add(f.mlp(a, ctx)), ctx);
  });
