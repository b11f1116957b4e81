// What InfoPrompt (infoPrompt.ts) trains besides its head: six linear layers, weights and biases, that start U(±1/√in).
import type { Rng } from '../../core/rng.ts';
import { param, type Tensor } from '../../core/tensor.ts';

export type InfoPrompt = Record<'down' | 'up' | 'mean' | 'spread' | 'out' | 'context', readonly [Tensor, Tensor]>;

export const affine = (x: Tensor, [w, b]: readonly [Tensor, Tensor]): Tensor => x.matmul(w.T).add(b);

/** For states of width d, a latent of width n and prompts of p tokens. */
export function newLayers(d: number, n: number, p: number, r: Rng): InfoPrompt {
  const linear = (name: string, out: number, into: number): [Tensor, Tensor] => {
    const draw = (part: string, size: number): Float32Array =>
      r.split(`${name} ${part}`).uniform(size, -1 / Math.sqrt(into), 1 / Math.sqrt(into));
    return [param(draw('weight', out * into), [out, into]), param(draw('bias', out), [out], { decay: false })];
  };
  return {
    down: linear('down', n, d),
    up: linear('up', p * d, n),
    mean: linear('mean', n, d),
    spread: linear('spread', n, d),
    out: linear('out', d, n),
    context: linear('context', d, d),
  };
}
