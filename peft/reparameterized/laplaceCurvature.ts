// The curvature of a trained LoRA's loss, factor by factor: what its inputs and the gradients of its answers are like (K-FAC).
//   F ≈ (Σ g gᵀ) ⊗ (Σ a aᵀ)/n = Q diag(σ_o α_i/n) Qᵀ, Q = Q_g ⊗ Q_a, for a factor [out, in] with inputs a and answers' gradients g of n tokens
//   g for every class c, weighed by the chance p(c) that the model gives it: the exact Fisher, which reads no labels
// Martens & Grosse 2015, arXiv 1503.05671; for LoRA: Yang et al. 2024, arXiv 2308.13111, §4. Longer than 100 lines: inputs and gradients are written down on the way.
import type { Engine } from '../../core/engine.ts';
import { grad } from '../../core/grad.ts';
import { logSoftmax, softmax } from '../../core/ops/fused.ts';
import { sqrt, stopGradient } from '../../core/ops/map.ts';
import { size } from '../../core/shape.ts';
import type { Tensor } from '../../core/tensor.ts';
import { BASE, type Batch, layer, type Model, ofKind } from '../../nn/layer.ts';
import { rewrite } from '../../nn/tree.ts';
import { svd, transposed } from '../linalg.ts';
import { type Factors, type LoraConfig, scaling } from './lora.ts';

/** Classes' logits [B, C] of a batch, without randomness. */
export type Logits<B extends Batch> = (model: Model, batch: B) => Tensor;
/** One factor's use: the factor, what it multiplies [.., in] and what it answers [.., out]. */
export interface Use {
  readonly name: string;
  readonly weight: Tensor;
  readonly input: Tensor;
  readonly answer: Tensor;
}
/** Curvature of one factor in its own axes. */
export interface Curvature {
  readonly weight: Tensor;
  readonly shape: readonly [out: number, into: number];
  readonly left: Float64Array; // Qᵀ [out, out] of Σ g gᵀ
  readonly right: Float64Array; // Q [in, in] of Σ a aᵀ
  readonly values: Float64Array; // σ_o α_i/n, [out·in]
}
/** A model's logits, with every LoRA factor's use on the way written down. */
export function watched<B extends Batch>(model: Model, batch: B, logits: Logits<B>): { out: Tensor; uses: Use[] } {
  const uses: Use[] = [];
  const seen = rewrite(model, function watch(l, path) {
    if (l.attached?.method !== 'lora') return null;
    const { A, B } = l.fields[l.attached.field] as Factors; // a seam: a layer does not know its method's types
    const s = scaling(l.attached.application.config as LoraConfig);
    const beneath = rewrite(ofKind(l.fields[BASE], 'linear'), watch);
    return layer('linear', { [BASE]: beneath }, ({ [BASE]: beneath }) => (x, ctx) => {
      const z = x.matmul(A.T);
      const u = z.matmul(B.T);
      uses.push({ name: `${path} A`, weight: A, input: x, answer: z }, { name: `${path} B`, weight: B, input: z, answer: u });
      return beneath(x, ctx).add(u.mul(s));
    });
  });
  const out = logits(seen, batch);
  if (uses.length === 0) throw new Error('laplaceLora: no layer of this model has LoRA attached; train one first: lora()(base)');
  if (out.shape.length !== 2)
    throw new Error(`laplaceLora: logits must be [B, classes], got [${out.shape.join(', ')}]; pick the tokens that count`);
  return { out, uses };
}

export async function numbers(engine: Engine, outputs: Record<string, Tensor>): Promise<Readonly<Record<string, Float64Array>>> {
  const store = engine.store();
  try {
    const got = await (await engine.compile(store, { outputs })).run();
    return Object.fromEntries(Object.entries<ArrayLike<number>>(got).map(([k, v]) => [k, Float64Array.from(v)]));
  } finally {
    store.close();
  }
}
const accumulate = (into: Float64Array, from: ArrayLike<number>): void => {
  for (let i = 0; i < into.length; i++) into[i]! += from[i]!;
};

/** The curvature of every LoRA factor, by name, on batches whose rows do not influence each other. A backward pass for each class and batch. */
export async function curvatures<B extends Batch>(
  model: Model,
  { engine, batches, logits }: { readonly engine: Engine; readonly batches: readonly B[]; readonly logits: Logits<B> },
): Promise<Map<string, Curvature>> {
  const sums = new Map<string, { weight: Tensor; a: Float64Array; g: Float64Array; tokens: number }>();
  for (const batch of batches) {
    const { out, uses } = watched(model, batch, logits);
    const rows = (t: Tensor): Tensor => {
      const flat = t.reshape(-1, t.shape.at(-1)!);
      return batch.keyMask && flat.shape[0] === size(batch.ids.shape) ? flat.mul(batch.keyMask.reshape(-1, 1)) : flat;
    };
    const outputs: Record<string, Tensor> = batch.keyMask ? { real: batch.keyMask.sum() } : {};
    const weights = sqrt(stopGradient(softmax(out)));
    const classes = Array.from({ length: out.shape[1]! }, (_, c) => {
      const loss = logSoftmax(out)
        .slice(1, c, c + 1)
        .mul(weights.slice(1, c, c + 1))
        .sum();
      return grad(
        loss,
        uses.map((u) => u.answer),
      ); // its outer products are weighed by p(c)
    });
    for (const [k, u] of uses.entries()) {
      const gs = classes.map((c) => rows(c[k]!));
      outputs[`a ${k}`] = rows(u.input).T.matmul(rows(u.input));
      outputs[`g ${k}`] = gs.map((g) => g.T.matmul(g)).reduce((x, y) => x.add(y));
    }
    const got = await numbers(engine, outputs);
    for (const [k, u] of uses.entries()) {
      const [o, i] = u.weight.shape as [number, number];
      const sum = sums.get(u.name) ?? { weight: u.weight, a: new Float64Array(i * i), g: new Float64Array(o * o), tokens: 0 };
      accumulate(sum.a, got[`a ${k}`]!);
      accumulate(sum.g, got[`g ${k}`]!);
      const all = u.input.shape.slice(0, -1).reduce((x, y) => x * y, 1);
      sums.set(u.name, { ...sum, tokens: sum.tokens + (got.real && all === size(batch.ids.shape) ? got.real[0]! : all) });
    }
  }
  if (sums.size === 0) throw new Error('laplaceLora: it needs batches of the training data, got none');
  const curvature = new Map<string, Curvature>();
  for (const [name, { weight, a, g, tokens }] of sums) {
    const [o, i] = weight.shape as [number, number];
    const [left, right] = [svd(g, o, o, o), svd(a, i, i, i)];
    const values = Float64Array.from({ length: o * i }, (_, k) => (left.s[Math.floor(k / i)]! * right.s[k % i]!) / tokens);
    curvature.set(name, { weight, shape: [o, i], left: transposed(left.u, o, o), right: right.u, values });
  }
  return curvature;
}
