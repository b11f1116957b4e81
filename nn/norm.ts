// Layer norm and RMS norm over the last dimension.
import { layerNorm as layerNormOp, rmsNorm as rmsNormOp } from '../core/ops/fused.ts';
import { param, type Tensor } from '../core/tensor.ts';
import { type Layer, layer } from './layer.ts';
import { weight } from './linear.ts';

export const layerNorm = (gain: Tensor, shift: Tensor, eps = 1e-5): Layer<'norm'> =>
  layer(
    'norm',
    { weight: weight(gain), bias: weight(shift), eps, form: 'layer' },
    (f) => (x, ctx) => layerNormOp(x, f.weight(ctx), f.bias(ctx), f.eps),
  );

export const rmsNorm = (gain: Tensor, eps = 1e-6): Layer<'norm'> =>
  layer('norm', { weight: weight(gain), bias: null as Layer<'weight'> | null, eps, form: 'rms' }, (f) => (x, ctx) => {
    const y = rmsNormOp(x, f.weight(ctx), f.eps);
    return f.bias === null ? y : y.add(f.bias(ctx)); // none in LLaMA; a merged shift puts one here
  });

/** Gain 1, shift 0. Neither is decayed. */
export const newNorm = (width: number, kind: 'layer' | 'rms', eps = kind === 'layer' ? 1e-5 : 1e-6): Layer<'norm'> => {
  const gain = param(new Float32Array(width).fill(1), [width], { decay: false });
  return kind === 'rms' ? rmsNorm(gain, eps) : layerNorm(gain, param(new Float32Array(width), [width], { decay: false }), eps);
};
