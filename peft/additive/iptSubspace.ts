// IPT's first stage: an autoencoder of the prompts of many tasks, whose reconstructions must also work; and a target task in its subspace.
//   z_k = W₀ vec(P_k) + b₀,   P̂_k = W₂ tanh(W₁ z_k + b₁) + b₂;   L = L_task(P̂_k) + α mean (P̂_k − P_k)²
// Qin et al. 2021, arXiv 2110.07867, §4.1–4.2 (multi-task subspace finding, intrinsic subspace tuning), and the authors' code.
// Longer than 100 lines: the autoencoder is a method of its own, and the stages are around it.
import { gather } from '../../core/ops/index.ts';
import { square } from '../../core/ops/map.ts';
import { broadcastTo, reshape } from '../../core/ops/move.ts';
import { input, leaf, param, type Tensor } from '../../core/tensor.ts';
import type { Model } from '../../nn/layer.ts';
import { defineMethod } from '../attach.ts';
import { between, lengthFits, wholeNumber } from '../check.ts';
import { atHand } from '../site.ts';
import { checkIpt, type Decoder, decoded, decoderNumbers, type IptConfig, ipt } from './ipt.ts';
import { promptInFront } from './promptRows.ts';
import { ownOf, promptsOf, withFixed } from './sourcePrompts.ts';

export interface AutoencoderConfig extends IptConfig {
  readonly tasks: number; // K; with more than one the task of each row is fed as `task` [B]
  readonly weight: number; // α
}
/** prompts [K, p, d], fixed. */
type Autoencoder = Record<'W0' | 'b0' | 'prompts', Tensor> & Decoder;

/**
 * α = 200 in the authors' code, which weighs the mean over entries. All layers start U(±1/√in). Prompts are N(0, 1) until `iptSources`
 * puts the trained ones there. Count: pd·k + k + km + m + (m + 1)pd, and the K prompts stored.
 */
export const iptAutoencoder = defineMethod<'trunk', AutoencoderConfig, Autoencoder>({
  name: 'iptAutoencoder',
  family: 'additive',
  paper: 'arXiv:2110.07867',
  at: 'trunk',
  defaults: { length: 100, dimension: 250, hidden: 768, tasks: 1, weight: 200, where: 'trunk' },
  check: (site, c) => {
    lengthFits('iptAutoencoder', site, c.length);
    checkIpt('iptAutoencoder', c);
    wholeNumber('iptAutoencoder', 'tasks', c.tasks);
    between('iptAutoencoder', 'weight', c.weight, 0, Number.MAX_VALUE);
  },
  init: (site, c, r) => {
    const [d, { length: p, dimension: k, tasks }] = [site.dim('width'), c];
    const draw = (name: string, n: number, from: number): Float32Array =>
      r.split(name).uniform(n, -1 / Math.sqrt(from), 1 / Math.sqrt(from));
    const layers = [
      ['W0', draw('W0', k * p * d, p * d), [k, p * d]],
      ['b0', draw('b0', k, p * d), [k]],
      ...decoderNumbers(c, d, draw),
    ] as const;
    return {
      train: Object.fromEntries(layers.map(([name, numbers, shape]) => [name, param(numbers, shape, { decay: shape.length > 1 })])),
      fixed: { prompts: leaf(r.split('prompts').normal(tasks * p * d), [tasks, p, d]) },
    };
  },
  around:
    (call, t, { length: p, tasks, weight }) =>
    (h, ctx) => {
      const [b, , d] = h.shape as readonly [number, number, number];
      const all = reshape(t.prompts, [tasks, p * d]);
      const own = tasks === 1 ? broadcastTo(all, [b, p * d]) : gather(all, input('task', [b])); // [B, p·d]
      const made = decoded(own.matmul(t.W0.T).add(t.b0), t);
      ctx.aux('iptReconstruction', square(made.sub(own)).mean().mul(weight));
      return promptInFront(call, reshape(made, [b, p, d]))(h, ctx);
    },
  count: (sites, { length: p, dimension: k, hidden: m, tasks }) => {
    const all = (f: (n: number) => number): number => sites.reduce((s, site) => s + f(p * site.dim('width')), 0);
    const layers = (n: number): number => n * k + k + k * m + m + (m + 1) * n;
    return { train: all(layers), stored: all((n) => layers(n) + tasks * n) };
  },
  startsAsBase: () => 'no',
});

/** A model with `iptAutoencoder` just attached, its prompts those of these models (with prompt tuning, one for each task). */
export const iptSources = (model: Model, sources: readonly Model[]): Model =>
  withFixed(model, 'iptAutoencoder', { prompts: promptsOf('iptAutoencoder', sources) });

/** A model with `ipt` just attached, in the subspace that a trained autoencoder of the same sizes spans. */
export function iptTarget(target: Model, trained: Model): Model {
  const { own } = ownOf<Autoencoder, AutoencoderConfig>(trained, 'iptAutoencoder');
  const frozen = (t: Tensor): Tensor => {
    const numbers = atHand(t);
    if (numbers === null) throw new Error('iptTarget: the autoencoder has to be computed before its numbers can be read; realize it first');
    return leaf(numbers, t.shape);
  };
  return withFixed(target, 'ipt', { W1: frozen(own.W1), b1: frozen(own.b1), W2: frozen(own.W2), b2: frozen(own.b2) });
}

export interface IptStages extends Omit<IptConfig, 'length'> {
  /** The frozen network. */
  readonly base: Model;
  /** Models with prompt tuning on it, trained on one task each. */
  readonly sources: readonly Model[];
  readonly weight?: number; // α
  /** Trains a model on all tasks together; batches feed `task` [B], a source's place. */
  readonly trainAll: (model: Model) => Promise<Model>;
}

/** Both stages but the last training: the autoencoder of the sources' prompts is trained, and the answer attaches `ipt` in its subspace. */
export async function iptStages(s: IptStages): Promise<(base: Model, seed?: number) => Model> {
  const [tasks, length] = promptsOf('iptStages', s.sources).shape as readonly [number, number];
  const sizes = { length, dimension: s.dimension, hidden: s.hidden };
  const attach = iptAutoencoder({ ...sizes, tasks, ...(s.weight === undefined ? {} : { weight: s.weight }) });
  const trained = await s.trainAll(iptSources(attach(s.base), s.sources));
  return (base, seed = 0) => iptTarget(ipt({ ...sizes, seed })(base), trained);
}
