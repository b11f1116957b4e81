// Head-only, linear probing: the network is a frozen source of features, and only the layers after it are trained.
//   W' = W + δ for the head, and the pooler before it where there is one
// The usual baseline; Kumar et al. 2022, arXiv 2202.10054, on when it beats full fine-tuning.
import { defineMethod } from '../attach.ts';
import { change, type Dense, dense } from './dense.ts';

/**
 * The same as `unfreeze(model, …)` of the head, as a method that comes off and is saved like any other: it holds the change δ and not the weight
 * (dense.ts), from 0. Backward ends at the head's input, which is why it is the cheapest training there is; a head whose table is the embedding's
 * is refused, for that would train the embedding too. Count: the head's scalars.
 */
export const headOnly = defineMethod<'weight', object, Dense>({
  name: 'headOnly',
  family: 'selective',
  paper: 'arXiv:2202.10054',
  at: 'weight',
  defaults: { where: /^(pooler|head)\./ },
  init: (site) => ({ train: dense(site) }),
  ...change,
});
