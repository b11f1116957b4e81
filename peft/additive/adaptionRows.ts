// The rows of an adaption prompt as keys and values: through the frozen projections of the attention that will read them.
//   K_p = W_k P,  V_p = W_v P
// Zhang et al. 2023, arXiv 2303.16199, §3.
import { named } from '../../core/scope.ts';
import type { Tensor } from '../../core/tensor.ts';
import { type Context, quiet } from '../../nn/context.ts';
import { BASE, isLayer, type Layer, ofKind } from '../../nn/layer.ts';
import { bare } from '../site.ts';

/**
 * K_p and V_p [K, Hk·D]: the rows through the projections, methods attached to them included. What a method above has put around a
 * projection for this pass alone (UniPELT's gates) is about the text's tokens; so is dropout.
 */
export function keysAndValues(call: Layer<'branch'>, P: Tensor, ctx: Context): [Tensor, Tensor] {
  const { k, v, qkv } = bare(call).fields;
  const own = (l: Layer<'linear'>): Layer<'linear'> =>
    l.attached === null && isLayer(l.fields[BASE]) ? own(ofKind(l.fields[BASE], 'linear')) : l;
  const through = (name: string, l: Layer<'linear'>): Tensor => named(name, () => own(l)(P, { ...ctx, draw: quiet }));
  if (isLayer(k)) return [through('k', ofKind(k, 'linear')), through('v', ofKind(v, 'linear'))];
  const all = through('qkv', ofKind(qkv, 'linear'));
  const d = P.shape[1]!;
  return [all.slice(1, d, 2 * d), all.slice(1, 2 * d)];
}
