// The three losses that InfoPrompt (infoPrompt.ts) adds to the task's: what prompt and head, and prompt and representation, say of each other, and a prior.
//   head: −log softmax_0([P̄·H̄, x_1·H̄, …, x_T·H̄]/√d),  representation: −log softmax_0([o(z')·c, o(z_1)·c, …, o(z_4B)·c]/√d), c = mean rows (W_p P + b_p)
//   with z' from the pass with the prompt and z_i from the one without;  prior: KL of both to N(0, 1)
// Wu et al. 2023, arXiv 2306.04933, §4, in the authors' released form.
import { keyBias, logSoftmax } from '../../core/ops/fused.ts';
import { add, mul, square, stopGradient } from '../../core/ops/map.ts';
import { concat, reshape } from '../../core/ops/move.ts';
import type { Tensor } from '../../core/tensor.ts';
import { affine, type InfoPrompt } from './infoPromptLayers.ts';

/** A Gaussian over z, [B, n] each. */
export type Latent = Record<'mean' | 'log' | 'std', Tensor>;

/** What the losses read. */
interface Seen {
  readonly head: Tensor; // H [C, d]
  readonly P: Tensor; // [B, p, d]
  readonly words: Tensor; // [B, T, d]
  readonly keyMask: Tensor | null; // [B, T]
  readonly own: Tensor; // noise of z' [B, 1, n]
  readonly others: Tensor; // noise of the z_i [B, 4B, n]
  readonly plain: Latent;
  readonly prompted: Latent;
}

export function informed(
  { head, P, words, keyMask, own, others, plain, prompted }: Seen,
  t: InfoPrompt,
): Record<'head' | 'representation' | 'prior', Tensor> {
  const [b, tokens, d] = words.shape as readonly [number, number, number];
  const first = (scores: Tensor): Tensor =>
    logSoftmax(scores.div(Math.sqrt(d)))
      .slice(1, 0, 1)
      .mean()
      .neg();
  const H = head.mean([0], true); // [1, d]
  const scores = reshape(words.matmul(H.T), [b, tokens]);
  const real = keyMask === null ? scores : scores.add(reshape(keyBias(keyMask), [b, tokens]));
  const to = reshape(affine(stopGradient(P), t.context).mean([1]), [b, d, 1]);
  const seen = ({ mean, std }: Latent, e: Tensor): Tensor => {
    const z = add(reshape(mean, [b, 1, -1]), mul(e, reshape(std, [b, 1, -1])));
    return reshape(affine(z, t.out).matmul(to), [b, e.shape[1]!]);
  };
  const kl = ({ mean, log, std }: Latent): Tensor => square(std).add(square(mean)).mul(0.5).sub(log).sub(0.5).mean();
  return {
    head: first(concat([P.mean([1]).matmul(H.T), real], 1)),
    representation: first(concat([seen(prompted, own), seen(plain, others)], 1)),
    prior: kl(plain).add(kl(prompted)),
  };
}
