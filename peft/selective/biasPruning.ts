// What a change to a bias is worth once all of them have been trained: the criterion by which U-BitFit and S-BitFit prune.
//   without δ_i the loss would be higher by about −δ_i ∂L/∂δ_i,   to first order, at the trained δ
// Lawton et al. 2023, arXiv 2305.16597. That updates are trained and pruned by a first-order approximation of the loss is from summaries of the
// paper, whose text was not at hand, and there is no code of the authors. Not verified: whether the score has this sign or is a magnitude, whether it
// prunes at once, as here, or in steps, and whether what is kept starts again from zero, as here.
import type { Env } from '../method.ts';
import { gradientSums } from '../sensitivity.ts';
import type { Site } from '../site.ts';
import { drift } from './priming.ts';

/** −δ ⊙ Σ over batches of ∂L/∂δ for every site, δ being what `env.train` makes of zero. */
export async function worth(method: string, sites: readonly Site<'weight'>[], env: Env): Promise<Float64Array[]> {
  const delta = await drift(method, sites, env);
  const gradients = await gradientSums(method, sites, env, delta);
  return delta.map((d, k) => d.map((v, i) => -v * gradients[k]![i]!));
}

/** Both methods' refusal of other places, and what they say where there are none. */
export const biases = (method: string): { readonly check: (site: Site<'weight'>) => void; readonly otherwise: string } => ({
  check: ({ path }) => {
    if (!path.endsWith('.bias'))
      throw new Error(`${method}: ${path} is not a bias, and only those are pruned; name biases, as in where: ['q.bias', 'up.bias']`);
  },
  otherwise:
    'It trains biases, and there are none here (LLaMA has none): use ia3, lora or norm tuning, or build the model with bias: true.',
});
