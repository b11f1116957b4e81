// The network of HyperFormer++ that makes the weights of all adapters, from what task, block and place they are for.
//   I = LN(W_b ReLU(W_a [z_τ; l_i; p_j] + b_a) + b_b);   D = reshape(W_D I + b_D),  c_D = V_D I + …,  U, c_U, γ and β alike
// Karimi Mahabadi et al. 2021, arXiv 2106.04489, §2.3–2.4, as in the authors' code.
import { layerNorm } from '../../core/ops/fused.ts';
import { gather } from '../../core/ops/index.ts';
import { relu } from '../../core/ops/map.ts';
import { concat } from '../../core/ops/move.ts';
import type { Rng } from '../../core/rng.ts';
import { size } from '../../core/shape.ts';
import { input, leaf, param, type Tensor } from '../../core/tensor.ts';
import type { Site } from '../site.ts';
import { type BottleneckConfig, widthOf } from './bottleneck.ts';

export interface HyperformerConfig extends BottleneckConfig {
  readonly tasks: number; // with more than one the task of each row is fed as `task` [B]
  readonly embedding: number; // t, of z, l and p
  readonly hidden: number; // between W_a and W_b
  readonly projected: number; // e, of I
}
/** The network that all places share. Each matrix [out, in] with its bias. */
type Shared = {
  readonly task: Tensor; // [K, t]
  readonly a: Tensor; // [hidden, 3t]
  readonly aBias: Tensor;
  readonly b: Tensor; // [e, hidden]
  readonly bBias: Tensor;
  readonly gain: Tensor;
  readonly shift: Tensor;
  readonly heads: readonly Tensor[]; // of D, c_D, U, c_U, γ, β: [n, e] and [n], one after the other
};
export type Hyper = Shared & { readonly block: Tensor; readonly place: Tensor }; // l_i and p_j, [1, t]

const sizes = (c: HyperformerConfig, d: number): readonly number[] => [widthOf(c, d) * d, widthOf(c, d), d * widthOf(c, d), d, d, d];
const placeOf = (site: Site<'branch'>): string => (site.path.endsWith('.attn') ? 'attention' : 'feed-forward');

const linearMade = (out: number, into: number, r: Rng): [Tensor, Tensor] => [
  param(r.normal(out * into, 0.01), [out, into]),
  param(new Float32Array(out), [out], { decay: false }),
];
const drawn = (shape: readonly number[], r: Rng): Tensor => param(r.normal(size(shape)), shape);

/** What each place has, by path: the one network, the z, and the l and p of the place. */
export function newNetworks(sites: readonly Site<'branch'>[], c: HyperformerConfig, r: Rng): ReadonlyMap<string, Hyper> {
  const [t, e] = [c.embedding, c.projected];
  const [a, aBias] = linearMade(c.hidden, 3 * t, r.split('a'));
  const [b, bBias] = linearMade(e, c.hidden, r.split('b'));
  const shared: Shared = {
    ...{ task: drawn([c.tasks, t], r.split('task')), a, aBias, b, bBias },
    gain: param(new Float32Array(e).fill(1), [e], { decay: false }),
    shift: param(new Float32Array(e), [e], { decay: false }),
    heads: sizes(c, sites[0]!.dim('width')).flatMap((n, k) => linearMade(n, e, r.split('heads').split(k))),
  };
  const known = new Map<string, Tensor>();
  const embedding = (name: string): Tensor => {
    if (!known.has(name)) known.set(name, drawn([1, t], r.split(name)));
    return known.get(name)!;
  };
  return new Map(sites.map((s) => [s.path, { ...shared, block: embedding(`block ${s.block}`), place: embedding(placeOf(s)) }]));
}

/** Makes head k of a place for `texts` texts, as [texts or 1, ...shape]. */
export function maker(p: Hyper, c: HyperformerConfig, texts: number): (k: number, ...shape: number[]) => Tensor {
  const z = c.tasks === 1 ? p.task : gather(p.task, input('task', [texts])); // [1 or B, t]
  const all = (row: Tensor): Tensor => gather(row, leaf(new Float32Array(z.shape[0]!), [z.shape[0]!]));
  const joint = concat([z, all(p.block), all(p.place)], 1);
  const I = layerNorm(relu(joint.matmul(p.a.T).add(p.aBias)).matmul(p.b.T).add(p.bBias), p.gain, p.shift, 1e-6); // [·, e]
  return (k, ...shape) =>
    I.matmul(p.heads[2 * k]!.T)
      .add(p.heads[2 * k + 1]!)
      .reshape(z.shape[0]!, ...shape);
}

/** tK + lt + pt + (3t + 1)·hidden + (hidden + 3)·e + (e + 1)(2md + m + 3d) */
export function networkSize(sites: readonly Site<'branch'>[], c: HyperformerConfig): number {
  const [t, e] = [c.embedding, c.projected];
  const rows = c.tasks + new Set(sites.map((s) => s.block)).size + new Set(sites.map(placeOf)).size;
  const heads = sizes(c, sites[0]!.dim('width')).reduce((n, k) => n + k * (e + 1), 0);
  return rows * t + (3 * t + 1) * c.hidden + (c.hidden + 3) * e + heads;
}
