// PHA, prototype-based hyper-adapter: a small network makes the adapters of all blocks from the prototype of a task; a retriever learns which
// texts belong to which prototype.
//   I_i = LN(W₂ ReLU(W₁ [k_τ; l_i] + b₁) + b₂);   D_i, c_i, U_i, e_i linear in I_i;   y = mlp(x) + U_i ReLU(D_i x + c_i) + e_i
//   z = R₂ ReLU(R₁ mean(h_L) + r₁) + r₂;   loss + λ·(instances of one task near each other) + λ·(instances near their prototype): phaLoss.ts
// Zhao et al. 2023, arXiv 2310.11670, §3, as in the authors' code. Longer than 100 lines: it makes, runs and counts three small networks.
import { layerNorm } from '../../core/ops/fused.ts';
import { gather } from '../../core/ops/index.ts';
import { concat, pad, reshape } from '../../core/ops/move.ts';
import type { Rng } from '../../core/rng.ts';
import { input, leaf, param, type Tensor } from '../../core/tensor.ts';
import { BASE, layer } from '../../nn/layer.ts';
import { activations } from '../../nn/mlp.ts';
import { substitute } from '../../nn/tree.ts';
import { defineMethod } from '../attach.ts';
import { between, wholeNumber } from '../check.ts';
import type { Site } from '../site.ts';
import { type BottleneckConfig, checkBottleneck, widthOf } from './bottleneck.ts';
import { instanceLoss, prototypeLoss, retrieved, twice } from './phaLoss.ts';
import { realTokens } from './reading.ts';

export interface PhaConfig extends BottleneckConfig {
  readonly tasks: number; // K; with more than one the task of each row is fed as `task` [B]
  readonly embedding: number; // e, of prototypes, blocks, I and z
  readonly hidden: number; // of the generator and of the retriever
  readonly weight: number; // λ
  readonly temperature: number; // ϑ
}
export type Pha = {
  readonly prototypes: Tensor; // k [K, e]
  readonly blocks: Tensor; // l [L, e]
  readonly generator: readonly Tensor[]; // W₁ [hidden, 2e], b₁, W₂ [e, hidden], b₂, gain, shift
  readonly heads: readonly Tensor[]; // of D, c, U, e: [n, e] and [n], one after the other
  readonly retriever?: readonly Tensor[]; // R₁ [hidden, d], r₁, R₂ [e, hidden], r₂
};

const blocks = (site: Site<'trunk'>): readonly Site<'block'>[] => site.within('block');
const sizes = (m: number, d: number): readonly number[] => [m * d, m, d * m, d];
const uniform = (out: number, into: number, bound: number, r: Rng, bias = bound): Tensor[] => [
  param(r.split('weight').uniform(out * into, -bound, bound), [out, into]),
  param(bias === 0 ? new Float32Array(out) : r.split('bias').uniform(out, -bias, bias), [out], { decay: false }),
];
const usual = (out: number, into: number, r: Rng): Tensor[] => uniform(out, into, 1 / Math.sqrt(into), r);
/**
 * With one task there is nothing to tell apart, and no retriever. Defaults as the authors' T5 runs: m = 64, e = 64, hidden 128, λ = ϑ = 0.1;
 * k and l ~ N(0, 1), heads U(±10⁻³√(3/(e·n))) with n the inputs of what they make, their biases 0. Theirs is an encoder–decoder whose
 * retriever reads the encoder and whose generated adapters are the decoder's, the encoder's being plain ones; here one trunk has both.
 * A new task is `tasks: 1` from the prototype that `prototypeScores` finds. lr 3e-4.
 * Count: e(K + L) + (2e + 1)h + (h + 3)e + (e + 1)(2md + m + d), and with K > 1 (d + 1)h + (h + 1)e.
 */
export const pha = defineMethod<'trunk', PhaConfig, Pha>({
  name: 'pha',
  family: 'additive',
  paper: 'arXiv:2310.11670',
  at: 'trunk',
  defaults: {
    ...{ bottleneck: 64, reduction: 16, activation: 'relu', tasks: 1, embedding: 64, hidden: 128, weight: 0.1, temperature: 0.1 },
    where: 'trunk',
  },
  check: (site, c) => {
    checkBottleneck('pha', { ...c, init: 'bert' });
    for (const name of ['tasks', 'embedding', 'hidden'] as const) wholeNumber('pha', name, c[name]);
    between('pha', 'weight', c.weight, 0, Number.MAX_VALUE);
    if (!(c.temperature > 0)) throw new RangeError(`pha: temperature ${c.temperature} must be above 0`);
    for (const b of blocks(site)) b.within('branch', 'mlp');
  },
  init: (site, c, r) => {
    const [e, h, d, n] = [c.embedding, c.hidden, site.dim('width'), blocks(site).length];
    const m = widthOf(c, d);
    const inputs = [d, 1, m, 1]; // of what a head makes; a bias has none
    return {
      train: {
        prototypes: param(r.split('prototypes').normal(c.tasks * e), [c.tasks, e]),
        blocks: param(r.split('blocks').normal(n * e), [n, e]),
        generator: [
          ...usual(h, 2 * e, r.split('first')),
          ...usual(e, h, r.split('second')),
          param(new Float32Array(e).fill(1), [e], { decay: false }),
          param(new Float32Array(e), [e], { decay: false }),
        ],
        heads: sizes(m, d).flatMap((out, k) => uniform(out, e, 1e-3 * Math.sqrt(3 / (e * inputs[k]!)), r.split('heads').split(k), 0)),
        ...(c.tasks === 1 ? {} : { retriever: [...usual(h, d, r.split('read')), ...usual(e, h, r.split('place'))] }),
      },
    };
  },
  around: (call, p, c, site) => (h, ctx) => {
    const [rows, d] = [h.shape[0]!, site.dim('width')];
    const m = widthOf(c, d);
    const task = c.tasks === 1 ? null : input('task', [rows]);
    const k = task === null ? p.prototypes : gather(p.prototypes, task); // [1 or B, e]
    const n = k.shape[0]!;
    const adapter = (i: number) => {
      const l = gather(p.blocks, leaf(new Float32Array(n).fill(i), [n]));
      const I = layerNorm(twice(concat([k, l], 1), p.generator), p.generator[4]!, p.generator[5]!, 1e-6);
      const made = (q: number, ...shape: number[]): Tensor => reshape(I.matmul(p.heads[2 * q]!.T).add(p.heads[2 * q + 1]!), [n, ...shape]);
      const up = concat([made(2, d, m), made(3, d, 1)], 2); // e_i stands beside U_i for an input of 1: one gradient for both
      return (x: Tensor): Tensor => pad(activations[c.activation](x.matmul(made(0, m, d).T).add(made(1, 1, m))), 2, 0, 1, 1).matmul(up.T);
    };
    const paths = blocks(site).map((b) => `${b.path}.mlp`);
    const adapted = substitute(
      call,
      'branch',
      (l, path) => {
        const i = paths.indexOf(path);
        return i < 0
          ? null
          : layer(
              'branch',
              { [BASE]: l },
              ({ [BASE]: l }) =>
                (x, at) =>
                  l(x, at).add(adapter(i)(x)),
            );
      },
      site.path,
    );
    const y = adapted(h, ctx); // [B, T, d]
    if (task !== null && p.retriever !== undefined && c.weight > 0) {
      const z = retrieved(y, p.retriever, realTokens(y, ctx));
      const [together, home] = [instanceLoss(z, task, c.temperature), prototypeLoss(z, p.prototypes, task, c.temperature)];
      ctx.aux(`${site.path}.${site.field}`, together.add(home).mul(c.weight));
    }
    return y;
  },
  count: (sites, c) => {
    const [e, h] = [c.embedding, c.hidden];
    const train = sites.reduce((n, s) => {
      const d = s.dim('width');
      const heads = sum4(sizes(widthOf(c, d), d)) * (e + 1);
      const reads = c.tasks === 1 ? 0 : (d + 1) * h + (h + 1) * e;
      return n + e * (c.tasks + blocks(s).length) + (2 * e + 1) * h + (h + 3) * e + heads + reads;
    }, 0);
    return { train, stored: train };
  },
  startsAsBase: () => 'no',
});
const sum4 = (all: readonly number[]): number => all.reduce((a, b) => a + b);
