// Small frozen networks with generic weights, one of each architecture, and ways to run them: what the laws are judged on.
import type { Engine } from '../../core/engine.ts';
import { crossEntropy } from '../../core/ops/fused.ts';
import type { Numbers } from '../../core/plan.ts';
import { type Rng, rng } from '../../core/rng.ts';
import { size } from '../../core/shape.ts';
import { leaf, type Param, paramOf, type Tensor } from '../../core/tensor.ts';
import { context, type Draw, quiet } from '../../nn/context.ts';
import { decoder, gpt2, llama } from '../../nn/decoder.ts';
import { bert, encoder } from '../../nn/encoder.ts';
import { freeze, withValues } from '../../nn/freeze.ts';
import { tagger } from '../../nn/heads.ts';
import type { Batch, Field, Model } from '../../nn/layer.ts';
import { layers, mapTensors, trainable } from '../../nn/tree.ts';

export const WIDTH = 8;
export const TOKENS = 5;
const VOCABULARY = 11;

export interface Network {
  readonly name: string;
  /** All frozen; weights, biases and norm gains all generic, so that no law holds by accident. */
  readonly base: Model;
  readonly batch: Batch;
  readonly targets: Tensor;
}

/** Every parameter moved to a generic value: matrices N(0, 1/in), gains near 1 but not 1, biases not 0. Tied tensors stay tied. */
export function generic<T extends Field>(tree: T, r: Rng): T {
  const values = new Map<Param, Numbers>();
  for (const [p, path] of trainable(tree)) {
    const at = r.split(path);
    const [n, into] = [size(p.shape), p.shape.at(-1) ?? 1];
    const gain = p.shape.length === 1 && p.value.every((v) => v === 1);
    values.set(p, p.shape.length === 1 ? at.normal(n, 0.3, gain ? 1 : 0) : at.normal(n, 1 / Math.sqrt(into)));
  }
  return withValues(tree, values);
}

/** Two texts of five tokens, the second one with two tokens of padding. */
function text(r: Rng): Pick<Network, 'batch' | 'targets'> {
  const ids = Float32Array.from({ length: 2 * TOKENS }, () => r.below(VOCABULARY));
  const real = [1, 1, 1, 1, 1, 1, 1, 1, 0, 0];
  const targets = real.map((m) => (m === 1 ? r.below(VOCABULARY) : -100));
  return {
    batch: { ids: leaf(ids, [2, TOKENS]), keyMask: leaf(real, [2, TOKENS]) },
    targets: leaf(targets, [2, TOKENS]),
  };
}

const sizes = { vocabulary: VOCABULARY, width: WIDTH, layers: 2, heads: 2, positions: 16 };

/** GPT-2: layer norm, learned positions, biases, tied head. */
export const gpt2Network = (seed: number): Network => {
  const r = rng(seed).split('gpt2');
  return { name: 'gpt2', base: freeze(generic(decoder(gpt2({ ...sizes, inner: 12 }), r), r)), ...text(r.split('text')) };
};
/** LLaMA: RMS norm, rotary positions, gated MLP, one key head for two query heads, no biases, head of its own. */
export const llamaNetwork = (seed: number): Network => {
  const r = rng(seed).split('llama');
  return { name: 'llama', base: freeze(generic(decoder(llama({ ...sizes, kvHeads: 1, inner: 12 }), r), r)), ...text(r.split('text')) };
};

/** BERT with a token classifier: post-layer-norm, bidirectional, segments, padding masked. */
export const bertNetwork = (seed: number): Network => {
  const r = rng(seed).split('bert');
  const model = tagger(encoder(bert({ ...sizes, inner: 12 }), r), { classes: VOCABULARY }, r);
  const { batch, targets } = text(r.split('text'));
  return {
    name: 'bert',
    base: freeze(generic(model, r)),
    batch: { ...batch, types: leaf([0, 0, 1, 1, 1, 0, 1, 1, 0, 0], [2, TOKENS]) },
    targets,
  };
};

export const networks = (seed: number): readonly Network[] => [gpt2Network(seed), llamaNetwork(seed), bertNetwork(seed)];

/** Output and training loss of a model on a network's text: cross-entropy, plus the penalties its methods ask for. */
export function run(net: Network, model: Model, draw: Draw = quiet): { output: Tensor; loss: Tensor } {
  const aux: Tensor[] = [];
  const output = model(net.batch, context(TOKENS, { draw, aux: (_, loss) => aux.push(loss) }));
  for (const { layer } of layers(model)) {
    const penalty = layer.attached?.hooks.penalty;
    if (penalty !== undefined) aux.push(penalty());
  }
  return { output, loss: aux.reduce((sum, a) => sum.add(a), crossEntropy(output, net.targets)) };
}

/** The trained tensors moved to generic values, a tenth to a third of their usual size away from where they start. */
export function perturb<T extends Field>(tree: T, seed: number, by = 0.3): T {
  const values = new Map<Param, Numbers>();
  for (const [p, path] of trainable(tree)) {
    const noise = rng(seed).split(`perturb ${path}`).normal(size(p.shape), by);
    values.set(
      p,
      Float64Array.from(p.value, (v, i) => v + noise[i]!),
    );
  }
  return withValues(tree, values);
}

/** The parameters of a tree with numbers of its own: for reading one model beside another. */
export const numbersOf = async (engine: Engine, net: Network, model: Model): Promise<Numbers> =>
  (await engine.read(run(net, model).output)).slice();

/** Copies of all frozen numbers, to see later that nobody wrote into them. */
export function snapshot(tree: Field): () => string | null {
  const kept: [path: string, now: ArrayLike<number>, then: number[]][] = [];
  mapTensors(tree, (t, path) => {
    if (t.source.kind === 'leaf') kept.push([path, t.source.data, Array.from(t.source.data)]);
    return t;
  });
  return () => kept.find(([, now, then]) => then.some((v, i) => !Object.is(v, now[i])))?.[0] ?? null;
}

export const isFrozen = (t: Tensor): boolean => t.source.kind === 'leaf' && paramOf(t) === null;
