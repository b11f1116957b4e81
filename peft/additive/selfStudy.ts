// Self-study: a cartridge is trained on conversations that the network holds with itself about pieces of a text, to answer as with the piece before it.
//   conversations: A is given [piece; seed prompt] and asks, B is given [piece; all that was said] and answers, in turn
//   L = mean over their tokens of KL(p_base(· | piece, x_1 … x_i) ‖ p_cartridge(· | x_1 … x_i))
// Eyuboglu et al. 2025, arXiv 2506.06266, §4 (context distillation over all tokens of the vocabulary).
import { logSoftmax } from '../../core/ops/fused.ts';
import { exp, full, max, stopGradient } from '../../core/ops/map.ts';
import { concat } from '../../core/ops/move.ts';
import { rng } from '../../core/rng.ts';
import type { Tensor } from '../../core/tensor.ts';
import { type Context, context } from '../../nn/context.ts';
import type { Batch, Model } from '../../nn/layer.ts';
import { wholeNumber } from '../check.ts';

/** What was said about a piece of the text, in token ids. */
export interface Conversation {
  readonly piece: readonly number[];
  readonly ids: readonly number[];
}
export interface Studied extends Batch {
  readonly piece: Tensor; // [B, P]
}
export type Distillation = (model: Model, batch: Studied, ctx: Context) => Tensor;

/** The loss for a trainer. `base` is the frozen network without cartridge. Pieces of a batch have one length; texts may be padded (keyMask). */
export const distillation =
  (base: Model): Distillation =>
  (model, { piece, ids, keyMask = null }, ctx) => {
    const [b, t] = ids.shape as readonly [number, number];
    const p = piece.shape[1]!;
    const seen = keyMask === null ? null : concat([full([b, p], 1), keyMask], 1);
    const teacher = logSoftmax(stopGradient(base({ ids: concat([piece, ids], 1), keyMask: seen }, context(p + t)).slice(1, p))); // [B, T, V]
    const student = logSoftmax(model({ ids, keyMask }, ctx));
    const each = exp(teacher).mul(teacher.sub(student)).sum([2]); // [B, T]
    return keyMask === null ? each.mean() : each.mul(keyMask).sum().div(max(keyMask.sum(), 1));
  };

export interface SelfStudy {
  readonly base: Model;
  readonly text: readonly number[];
  readonly pieceLength: number; // tokens of the text in one context
  readonly seedPrompts: readonly (readonly number[])[]; // what A may be asked to ask, in ids
  readonly conversations: number;
  readonly rounds?: number; // questions and answers in each; 1
  /** The next message after a context, in ids: `generate` with whatever format of messages the network was trained on. */
  readonly speak: (who: 'asks' | 'answers', context: readonly number[]) => Promise<readonly number[]>;
  /** Trains what is trainable on these conversations with this loss: a few lines around the trainer. */
  readonly train: (model: Model, conversations: readonly Conversation[], loss: Distillation) => Promise<Model>;
  readonly seed?: number; // of the pieces and prompts; 0
}

/** Holds the conversations and trains on them. Give it a model with a cartridge just attached (from the text's own first tokens, as the paper does). */
export async function selfStudy(
  model: Model,
  s: SelfStudy,
): Promise<{ readonly model: Model; readonly conversations: readonly Conversation[] }> {
  for (const name of ['pieceLength', 'conversations'] as const) wholeNumber('selfStudy', name, s[name]);
  if (s.pieceLength > s.text.length || s.seedPrompts.length === 0)
    throw new RangeError(
      s.seedPrompts.length === 0
        ? 'selfStudy: no seed prompts; give one or more, such as “ask a question about this text”'
        : `selfStudy: pieces of ${s.pieceLength} tokens from a text of ${s.text.length}; take shorter pieces`,
    );
  const held: Conversation[] = [];
  for (let n = 0; n < s.conversations; n++) {
    const r = rng(s.seed ?? 0).split(n);
    const from = r.below(s.text.length - s.pieceLength + 1);
    const piece = s.text.slice(from, from + s.pieceLength);
    const prompt = s.seedPrompts[r.below(s.seedPrompts.length)]!;
    const ids: number[] = [];
    for (let round = 0; round < (s.rounds ?? 1); round++) {
      ids.push(...(await s.speak('asks', [...piece, ...prompt, ...ids])));
      ids.push(...(await s.speak('answers', [...piece, ...ids])));
    }
    held.push({ piece, ids });
  }
  return { model: await s.train(model, held, distillation(s.base)), conversations: held };
}
