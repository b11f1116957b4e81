// Attention-only: all of the attention's weights and biases are trained as they are, the rest is frozen.
//   W' = W + δ for q, k, v, o
// Gheini et al. 2021, arXiv 2104.08771, who train cross-attention between encoder and decoder; a network of one stack has self-attention.
import { defineMethod } from '../attach.ts';
import { change, type Dense, dense } from './dense.ts';

/**
 * A method that trains weights holds the change δ and not the weight (dense.ts): it starts at 0, so that a fresh attachment is the base; it
 * comes off by leaving δ out, on disk it is δ, and merged it is W + δ. As many numbers as full fine-tuning of these layers, and as much memory.
 * Embeddings of a new language are trained besides (`unfreeze`). Count: 4d² + 4d for each block of a network with biases.
 */
export const attentionOnly = defineMethod<'weight', object, Dense>({
  name: 'attentionOnly',
  family: 'selective',
  paper: 'arXiv:2104.08771',
  at: 'weight',
  defaults: { where: /\battn\./ },
  init: (site) => ({ train: dense(site) }),
  ...change,
});
