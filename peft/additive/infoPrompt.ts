// InfoPrompt: a prompt for each text, trained to share information with the head and with what the network makes of the text.
//   P = W₂ gelu(W₁ cls + b₁) + b₂ of a first pass without it;   μ, log σ = linear(m), m the state at [MASK];   logits = (W_o z + b_o) Hᵀ, z = μ + ε σ
//   loss = CE + γ head + β representation + 0.1 prior: infoPromptLosses.ts
// Wu et al. 2023, arXiv 2306.04933, §4, in the authors' released form.
import type { Engine } from '../../core/engine.ts';
import { clamp, eq, exp, gelu, stopGradient } from '../../core/ops/map.ts';
import { reshape } from '../../core/ops/move.ts';
import { argmax } from '../../core/ops/reduce.ts';
import { rng } from '../../core/rng.ts';
import { type Data, leaf, param, type Tensor } from '../../core/tensor.ts';
import { type Backbone, backboneOf, hidden, inside, numberOf, pickToken } from '../../nn/backbone.ts';
import { context } from '../../nn/context.ts';
import { BASE, layer, type Model } from '../../nn/layer.ts';
import { between, wholeNumber } from '../check.ts';
import { affine, newLayers } from './infoPromptLayers.ts';
import { informed, type Latent } from './infoPromptLosses.ts';
import { promptInFront } from './promptRows.ts';

export interface InfoPromptOptions {
  /** A token for each class: the head starts as their embeddings. */
  readonly words: readonly number[];
  /** The id of [MASK]. Every text has one, where the class is read; a text without is read at its first token. */
  readonly mask: number;
  readonly length?: number; // p
  readonly latent?: number; // width of z, and of the prompt's bottleneck
  readonly gamma?: number; // of the head loss
  readonly beta?: number; // of the representation loss
  readonly prior?: number;
  readonly seed?: number;
}
/**
 * A classifier of texts on the model's backbone, frozen but for what is new; its three losses join the task's in training (a context with
 * draws). Defaults are the released code's: p = 1, latent 32, γ = 0.1, β = 0.2, learning rate 1e-3. That code is not the paper's plain
 * prompt: the prompt is made from the first token's state, and the classes are read through a variational bottleneck; it is followed here,
 * with the prompt in front of the text. Linear layers start U(±1/√in).
 * Count: 3(dn + n) + (n + 1)pd + d² + d + nd + d + Cd.
 */
export async function infoPrompt(model: Model, engine: Engine, o: InfoPromptOptions): Promise<Model> {
  const { length: p = 1, latent: n = 32, gamma = 0.1, beta = 0.2, prior = 0.1, seed = 0 } = o;
  for (const [name, v] of Object.entries({ length: p, latent: n })) wholeNumber('infoPrompt', name, v);
  for (const [name, v] of Object.entries({ gamma, beta, prior })) between('infoPrompt', name, v, 0, Number.MAX_VALUE);
  if (o.words.length < 2) throw new RangeError(`infoPrompt: ${o.words.length} words for classes; give one for each of two or more classes`);
  const base = backboneOf(model);
  if (base.causal)
    throw new Error(
      'infoPrompt: it reads the class where a masked word stands, which needs a network whose tokens see the ones after them',
    );
  const d = numberOf(base.trunk, 'width')!;
  const words = (await engine.read(base.embed(leaf(o.words, [1, o.words.length]), context(o.words.length)))).slice() as Data;
  const own = newLayers(d, n, p, rng(seed).split('infoPrompt'));
  const fields = { ...base, infoPrompt: own, head: param(words, [o.words.length, d]) };
  return layer('model', fields, (f) => (batch, ctx) => {
    const { infoPrompt: t, head } = f as typeof fields;
    const c = inside(f, batch, ctx);
    const b = batch.ids.shape[0]!;
    const at = stopGradient(argmax(eq(batch.ids, o.mask)));
    const masked = (h: Tensor): Tensor => reshape(pickToken(h, at), [b, d]);
    const bottleneck = (m: Tensor): Latent => {
      const log = clamp(affine(m, t.spread), -2, 10);
      return { mean: affine(m, t.mean), log, std: exp(log) };
    };
    const plain = hidden(f, batch, c);
    const P = reshape(affine(gelu(affine(stopGradient(reshape(plain.slice(1, 0, 1), [b, d])), t.down)), t.up), [b, p, d]);
    const prompted: Backbone = { ...f, trunk: layer('trunk', { [BASE]: f.trunk }, ({ [BASE]: l }) => promptInFront(l, P)) };
    const [q, k] = [bottleneck(masked(plain)), bottleneck(masked(hidden(prompted, batch, c)))]; // without and with the prompt
    const draw = (name: string, shape: readonly number[]): Tensor | null => c.draw.normal(`infoPrompt ${name}`, shape);
    const noise = draw('latent', [b, n]);
    const logits = affine(noise === null ? k.mean : k.mean.add(noise.mul(k.std)), t.out).matmul(head.T); // [B, C]
    const [own, others] = [draw('own', [b, 1, n]), draw('others', [b, 4 * b, n])];
    if (own === null || others === null) return logits;

    const seen = { head, P, words: f.embed(batch.ids, c), keyMask: batch.keyMask ?? null, own, others, plain: q, prompted: k };
    const losses = informed(seen, t);
    c.aux('infoPromptHead', losses.head.mul(gamma));
    c.aux('infoPromptRepresentation', losses.representation.mul(beta));
    c.aux('infoPromptPrior', losses.prior.mul(prior));
    return logits;
  });
}
