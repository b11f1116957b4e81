// The network that a configuration describes, with a named hole where each tensor belongs.
import type { Shape } from '../../core/shape.ts';
import { input, type Tensor } from '../../core/tensor.ts';
import { fusedAttention, selfAttention } from '../../nn/attention.ts';
import type { Backbone } from '../../nn/backbone.ts';
import { postNormBlock, preNormBlock } from '../../nn/block.ts';
import { biasesOf, type DecoderConfig, languageModel, tiedHead, trunk } from '../../nn/decoder.ts';
import { embedding } from '../../nn/embedding.ts';
import { type EncoderConfig, encoderModel } from '../../nn/encoder.ts';
import { textClassifier, tokenClassifier } from '../../nn/heads.ts';
import type { Layer, Model } from '../../nn/layer.ts';
import { linear, weight } from '../../nn/linear.ts';
import { gatedMlp, mlp } from '../../nn/mlp.ts';
import { layerNorm, rmsNorm } from '../../nn/norm.ts';
import { type CheckpointConfig, isDecoder } from './config.ts';

const hole = (...shape: Shape): Tensor => input('a weight that was never read', shape);
const dense = (into: number, out: number, bias: boolean): Layer<'linear'> => linear(hole(out, into), bias ? hole(out) : null);
const table = (rows: number, width: number, offset = 0): Layer<'embedding'> => embedding(weight(hole(rows, width)), offset);

/** Every tensor of the answer is an `input`: a shape without numbers. `mapTensors` puts the numbers in. */
export function skeleton(c: CheckpointConfig): Model {
  if (isDecoder(c)) {
    const base = decoderBase(c.sizes);
    const d = c.sizes.width;
    if (c.head === 'sequence') return textClassifier(base, 'last', null, dense(d, c.classes, false));
    if (c.head === 'token') return tokenClassifier(base, dense(d, c.classes, true));
    const tied = c.sizes.tied ? tiedHead(base.embed.fields.weight as Layer<'weight'>) : null; // an embedding's weight, as `table` made it
    return languageModel(base.embed, base.trunk, tied ?? dense(d, c.sizes.vocabulary, false));
  }
  const base = encoderBase(c.sizes);
  const d = c.sizes.width;
  if (c.head === 'sequence') return textClassifier(base, 'first', dense(d, d, true), dense(d, c.classes, true));
  if (c.head === 'token') return tokenClassifier(base, dense(d, c.classes, true));
  return encoderModel(base.embed, base.types, base.trunk, base.padding);
}

function decoderBase(c: DecoderConfig): Backbone {
  const [d, kv, bias] = [c.width, (c.kvHeads * c.width) / c.heads, biasesOf(c.bias)];
  const norm = (): Layer<'norm'> => (c.norm === 'rms' ? rmsNorm(hole(d), c.eps) : layerNorm(hole(d), hole(d), c.eps));
  const attn = (): Layer<'branch'> => {
    const o = dense(d, d, bias.o);
    if (c.fusedQkv) return fusedAttention(dense(d, 3 * d, bias.qkv), o, c);
    return selfAttention({ q: dense(d, d, bias.qkv), k: dense(d, kv, bias.qkv), v: dense(d, kv, bias.qkv), o }, c);
  };
  const feed = (): Layer<'branch'> => {
    const [up, down] = [dense(d, c.inner, bias.mlp), dense(c.inner, d, bias.mlp)];
    return c.gated ? gatedMlp(dense(d, c.inner, bias.mlp), up, down, c.activation, d) : mlp(up, down, c.activation, d);
  };
  const blocks = Array.from({ length: c.layers }, () =>
    preNormBlock({ norm1: norm(), attn: attn(), norm2: norm(), mlp: feed(), width: d }),
  );
  const positions = c.rope === null ? table(c.positions, d) : null;
  return {
    embed: table(c.vocabulary, d),
    types: null,
    trunk: trunk(positions, blocks, norm(), d, c.positions),
    causal: true,
    padding: null,
  };
}

function encoderBase(c: EncoderConfig): Backbone {
  const d = c.width;
  const norm = (): Layer<'norm'> => layerNorm(hole(d), hole(d), c.eps);
  const sizes = { ...c, kvHeads: c.heads, rope: null };
  const blocks = Array.from({ length: c.layers }, () =>
    postNormBlock({
      norm1: norm(),
      attn: selfAttention({ q: dense(d, d, true), k: dense(d, d, true), v: dense(d, d, true), o: dense(d, d, true) }, sizes),
      norm2: norm(),
      mlp: mlp(dense(d, c.inner, true), dense(c.inner, d, true), c.activation, d),
      width: d,
    }),
  );
  const positions = table(c.positions + c.positionOffset, d, c.positionOffset);
  return {
    embed: table(c.vocabulary, d),
    types: c.types === 0 ? null : table(c.types, d),
    trunk: trunk(positions, blocks, null, d, c.positions, norm()),
    causal: false,
    padding: c.padding,
  };
}
