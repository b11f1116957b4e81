// X-LoRA's second pass: each linear layer's answer with those of its experts, token by token times λ.
//   y = W x + b + w·Σ_e s_e B_e A_e (λ_e x)
import { softmax } from '../../core/ops/fused.ts';
import { where as choose, full, ne } from '../../core/ops/map.ts';
import { pad } from '../../core/ops/move.ts';
import type { Tensor } from '../../core/tensor.ts';
import { BASE, type Layer, layer } from '../../nn/layer.ts';
import { substitute } from '../../nn/tree.ts';
import { largest } from '../additive/topRouter.ts';
import type { Site } from '../site.ts';
import type { Xlora, XloraConfig } from './xlora.ts';

/** What counts of one layer's λ [B, T, E]. */
function counted(own: Tensor, { topK, topKSoftmax }: XloraConfig): Tensor {
  const kept = topK === null ? own : own.mul(largest(own, topK));
  if (!topKSoftmax) return kept;
  const there = ne(kept, 0); // as in PEFT: what is 0 is out
  return softmax(choose(there, kept, -1e9)).mul(there);
}

/** The trunk with experts in its linear layers, scaled by λ [B, T, layers or 1, E]. */
export function withExperts(
  trunk: Layer<'trunk'>,
  lambda: Tensor,
  p: Pick<Xlora, 'A' | 'B'>,
  c: XloraConfig,
  site: Site<'trunk'>,
): Layer<'trunk'> {
  const at = new Map(site.within('linear', c.linears).map((s) => [s.path, s.index]));
  const E = c.experts.length;
  const rows = lambda.shape.slice(0, 2);
  return substitute(
    trunk,
    'linear',
    (l, path) => {
      const k = at.get(path);
      if (k === undefined) return null;
      const own = counted(lambda.slice(2, c.layerwise ? k : 0, c.layerwise ? k + 1 : 1).reshape(...rows, E), c);
      return layer('linear', { [BASE]: l }, ({ [BASE]: l }) => (x, inner) => {
        if (x.shape.length !== 3 || x.shape[1]! < own.shape[1]!) return l(x, inner); // rows that are no tokens (LLaMA-Adapter's prompt)
        const shares = pad(own, 1, x.shape[1]! - own.shape[1]!, 0); // a prompt beneath has no experts
        return c.experts
          .map(({ scale }, e) => {
            const low = x.matmul(p.A[k * E + e]!.T).mul(shares.slice(2, e, e + 1)); // A (λ x) = λ (A x)
            return low.matmul(p.B[k * E + e]!.T).mul(scale * c.weight);
          })
          .reduce((y, one) => y.add(one), l(x, inner));
      });
    },
    site.path,
  );
}

/** The trunk of the first pass: λ₀ for every token and expert. Of 0 it is the trunk itself. */
export function withEqual(trunk: Layer<'trunk'>, h: Tensor, p: Xlora, c: XloraConfig, site: Site<'trunk'>): Layer<'trunk'> {
  if (c.firstPass === 0) return trunk;
  const lambda = full([...h.shape.slice(0, 2), 1, c.experts.length], c.firstPass);
  return withExperts(trunk, lambda, p, { ...c, layerwise: false }, site);
}
