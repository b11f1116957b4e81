// How FISH-DIP chooses entries: by the Fisher information of the examples on which the model does worst.
//   H = the n examples of the largest loss,  F_i = Σ_{x ∈ H} (∂L(x)/∂θ_i)²,  the share ρ of all entries with the largest F
// Das et al. 2023, arXiv 2311.03748, §3.
import { square } from '../../core/ops/map.ts';
import { type Data, leaf } from '../../core/tensor.ts';
import type { Env } from '../method.ts';
import { largest } from '../select.ts';
import { dataOf, examples, lossesOf, type Score, scoreSums, shifted } from '../sensitivity.ts';
import type { Site } from '../site.ts';
import { budget, type Chosen, type ChosenConfig, choose } from './sparse.ts';

export interface FishDipConfig extends ChosenConfig {
  readonly every: number; // τ
  readonly hardest: number; // share of the examples by which entries are chosen
  readonly least: number; // examples, where the share is fewer
  readonly most: number; // examples, where the share is more
}

/** The ρN entries with the largest Fisher information of the examples that do worst, at weights shifted by `at`. */
export async function chosenByHardest(sites: readonly Site<'weight'>[], c: FishDipConfig, env: Env, at?: readonly Data[]): Promise<Chosen> {
  const { batches, loss } = dataOf('fishDip', env);
  const all = examples(batches, Number.POSITIVE_INFINITY);
  const model =
    at === undefined
      ? sites[0]!.root
      : shifted(
          sites,
          sites.map((s, k) => leaf(at[k]!, s.shape)),
        );
  const losses = await lossesOf('fishDip', env, all, (one) => loss(model, one));
  const n = Math.max(1, Math.min(Math.max(Math.floor(c.hardest * all.length), c.least), c.most, all.length - 1));
  const worst = largest([losses as unknown as Data], n)[0]!.map((k) => all[k]!);
  const fisher: Score = (m, one, gradients) => gradients(loss(m, one)).map((g) => square(g));
  return choose(sites, await scoreSums('fishDip', sites, env, worst, fisher, at), budget('fishDip', sites, c));
}
