// LLM.int8(): products of bytes, with the few columns of large inputs kept out of them.
//   outlier columns O: some row has |x| ≥ 6;  c_x = max |x| of a row below 6,  q_x = round(127 x / c_x), 0 in O;  c_w = max |w| of an output,  q_w
//   y = c_x c_w / 127² · q_x q_wᵀ + x_O ŵ_Oᵀ + b,   ŵ = c_w q_w / 127
// which is x̂·ŵᵀ + b with x̂ = x in O and c_x q_x / 127 elsewhere: one product with the packed weight. Backward sees y = x·ŵᵀ, as in bitsandbytes.
// Dettmers et al. 2022, arXiv 2208.07339, §3. Whether a column is an outlier is decided over all rows of a batch, as there.
import { defineOp, type Op } from '../core/op.ts';
import { abs, ge, max, where } from '../core/ops/map.ts';
import { maxOver } from '../core/ops/reduce.ts';
import type { Shape } from '../core/shape.ts';
import type { Data, Tensor } from '../core/tensor.ts';
import { type AnyLayer, BASE, type Field, isLayer, layer, ofKind } from '../nn/layer.ts';
import { isPacked } from '../nn/linear.ts';
import { join, layers, substitute } from '../nn/tree.ts';
import { int8 } from './int8.ts';
import { quantize, type Scheme, type WeightChoice } from './quantize.ts';
import { rounded } from './round.ts';

/** x [..., n] → x̂ [..., n]. Straight through: dx = dy. */
const roundOp: Op<'x', { threshold: number }> = defineOp<'x', { threshold: number }>({
  name: 'int8Rows',
  inputs: ['x'],
  shape: ({ x }) => x,
  kernel: {
    kind: 'composite',
    of: ({ x }, { threshold }) => {
      const last = x.shape.length - 1;
      const outliers = threshold === 0 ? null : ge(abs(x), threshold);
      const kept = outliers === null ? x : where(outliers, 0, x);
      const c = max(maxOver(abs(kept), [last], true), 1e-30); // [..., 1]; a row of zeros stays zeros
      const bytes = rounded(kept.mul(127).div(c));
      const back = bytes.mul(c).div(127);
      return outliers === null ? back : where(maxOver(outliers, [...Array(last).keys()], true), x, back);
    },
  },
  vjp: ({ dy }) => ({ x: () => dy }),
});
/** The numbers that LLM.int8() multiplies: x with a scale per row and bytes, except in columns where some |x| ≥ threshold (0: nowhere). */
export const int8Rows = (x: Tensor, threshold = 6): Tensor => roundOp({ x }, { threshold });

/** int8 with one scale per output. */
const byOutput: Scheme = {
  name: 'int8 by output',
  pack: (data: Data, shape: Shape) => int8({ block: shape.at(-1)! }).pack(data, shape),
  round: (data: Data, shape: Shape) => int8({ block: shape.at(-1)! }).round(data, shape),
};

const isPlain = (w: AnyLayer): boolean => (w.attached === null ? !isPacked(w) : isPlain(ofKind(w.fields[BASE], 'weight')));

/**
 * A model whose linear layers have their weights in int8 where `where` holds for the path of the weight, and round their inputs as above.
 * Attach methods afterwards. Folding one into the weight (`merge`) makes it a plain linear layer of ŵ that no longer rounds its inputs.
 * Throws as `quantize` does, and where a method is attached already.
 */
export function llmInt8<T extends Field>(model: T, where: WeightChoice, { threshold = 6 }: { threshold?: number } = {}): T {
  if (!(threshold >= 0)) throw new RangeError(`llmInt8: threshold must be 0 (no outliers) or more, got ${threshold}`);
  const linears = new Set([...layers(model)].flatMap(({ path, layer: l }) => (l.kind === 'linear' ? [join(path, 'weight')] : [])));
  const now = new Set<string>();
  const chosen = (path: string): boolean => linears.has(path) && where(path) && now.add(path).has(path);
  const packed = quantize(model, chosen, byOutput);
  return substitute(packed, 'linear', (l, path) => {
    if (!now.has(join(path, 'weight'))) return null;
    if (l.attached !== null) throw new Error(`llmInt8: ${path} has ${l.attached.method} attached; quantise first, then attach`);
    return layer('linear', { weight: l.fields.weight!, bias: l.fields.bias ?? null, threshold }, (f) => {
      const w = ofKind(f.weight, 'weight');
      const b = f.bias;
      const plain = isPlain(w);
      return (x, ctx) => {
        const y = (plain ? x : int8Rows(x, f.threshold)).matmul(w(ctx).T);
        return isLayer(b) ? y.add(ofKind(b, 'weight')(ctx)) : y;
      };
    });
  });
}
