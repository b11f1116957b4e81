// HyperFormer++: one small network makes the weights of all adapters, from what task, block and place they are for.
//   I = LN(W_b ReLU(W_a [z_τ; l_i; p_j] + b_a) + b_b);   D = reshape(W_D I + b_D),  c_D = V_D I + …,  U, c_U, γ and β alike
//   y = h + γ ⊙ LN₀(U σ(D h + c_D) + c_U) + β,   h the answer of attention (p₁) or feed-forward (p₀) of block i, LN₀ without gain and shift
// Karimi Mahabadi et al. 2021, arXiv 2106.04489, §2.3–2.4, as in the authors' code (HyperFormer has one such network for each block).
// Longer than 100 lines: the network that makes the adapters is made, run and counted here.
import { layerNorm } from '../../core/ops/fused.ts';
import { gather } from '../../core/ops/index.ts';
import { relu } from '../../core/ops/map.ts';
import { concat } from '../../core/ops/move.ts';
import type { Rng } from '../../core/rng.ts';
import { size } from '../../core/shape.ts';
import { input, leaf, param, type Tensor } from '../../core/tensor.ts';
import { activations } from '../../nn/mlp.ts';
import { defineMethod } from '../attach.ts';
import { wholeNumber } from '../check.ts';
import type { Site } from '../site.ts';
import { type BottleneckConfig, checkBottleneck, widthOf } from './bottleneck.ts';

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
type Hyper = Shared & { readonly block: Tensor; readonly place: Tensor }; // l_i and p_j, [1, t]

const sizes = (c: HyperformerConfig, d: number): readonly number[] => [widthOf(c, d) * d, widthOf(c, d), d * widthOf(c, d), d, d, d];
const placeOf = (site: Site<'branch'>): string => (site.path.endsWith('.attn') ? 'attention' : 'feed-forward');

const linearMade = (out: number, into: number, r: Rng): [Tensor, Tensor] => [
  param(r.normal(out * into, 0.01), [out, into]),
  param(new Float32Array(out), [out], { decay: false }),
];
const drawn = (shape: readonly number[], r: Rng): Tensor => param(r.normal(size(shape)), shape);

/**
 * Defaults as the authors' HyperFormer++ runs: m = d/32, tanh GELU, z, l and p of 64 numbers ~ N(0, 1), hidden 128, e = 64; matrices
 * N(0, 0.01²), biases 0. They train the backbone's norms too, a step of its own (see `houlsby`), at lr 3e-4. A new task trains from a
 * z of its own. Count: tK + lt for l blocks + pt for p places, (3t + 1)·hidden + (hidden + 3)·e, and (e + 1)(2md + m + 3d).
 */
export const hyperformer = defineMethod<'branch', HyperformerConfig, Hyper, ReadonlyMap<string, Hyper>>({
  name: 'hyperformer',
  family: 'additive',
  paper: 'arXiv:2106.04489',
  at: 'branch',
  defaults: {
    bottleneck: null,
    reduction: 32,
    activation: 'geluTanh',
    tasks: 1,
    embedding: 64,
    hidden: 128,
    projected: 64,
    where: ['attn', 'mlp'],
  },
  check: (_, c) => {
    checkBottleneck('hyperformer', { ...c, init: 'bert' });
    for (const name of ['tasks', 'embedding', 'hidden', 'projected'] as const) wholeNumber('hyperformer', name, c[name]);
  },
  shared: (sites, c, r) => {
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
  },
  init: ({ path }, _, _r, { shared }) => ({ train: shared.get(path)! }),
  around: (call, p, c) => (x, ctx) => {
    const h = call(x, ctx); // [B, T, d]
    const d = h.shape.at(-1)!;
    const m = widthOf(c, d);
    const z = c.tasks === 1 ? p.task : gather(p.task, input('task', [h.shape[0]!])); // [1 or B, t]
    const all = (row: Tensor): Tensor => gather(row, leaf(new Float32Array(z.shape[0]!), [z.shape[0]!]));
    const joint = concat([z, all(p.block), all(p.place)], 1);
    const I = layerNorm(relu(joint.matmul(p.a.T).add(p.aBias)).matmul(p.b.T).add(p.bBias), p.gain, p.shift, 1e-6); // [·, e]
    const made = (k: number, ...shape: number[]): Tensor =>
      I.matmul(p.heads[2 * k]!.T)
        .add(p.heads[2 * k + 1]!)
        .reshape(z.shape[0]!, ...shape);
    const down = activations[c.activation](h.matmul(made(0, m, d).T).add(made(1, 1, m)));
    const up = down.matmul(made(2, d, m).T).add(made(3, 1, d));
    const plain = layerNorm(up, leaf(new Float32Array(d).fill(1), [d]), leaf(new Float32Array(d), [d]));
    return h.add(plain.mul(made(4, 1, d)).add(made(5, 1, d)));
  },
  count: (sites, c) => {
    const [t, e] = [c.embedding, c.projected];
    const rows = c.tasks + new Set(sites.map((s) => s.block)).size + new Set(sites.map(placeOf)).size;
    const heads = sizes(c, sites[0]!.dim('width')).reduce((n, k) => n + k * (e + 1), 0);
    const train = rows * t + (3 * t + 1) * c.hidden + (c.hidden + 3) * e + heads;
    return { train, stored: train };
  },
  startsAsBase: () => 'no',
});
