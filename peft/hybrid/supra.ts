// Supra: Super-Tuning's sparse change of a weight, and a LoRA beside it.
//   y = (W + S) x + b + s·B A drop(x),   S at the largest |W| only,   S = 0 and B = 0 at the start,   s = α/r
// arXiv 2607.09287, as built in Hugging Face PEFT (SUPERTUNING with `r`). Nothing is hidden: it is the two methods, one after the other.
import { hybrid } from '../combine.ts';
import type { Transform } from '../method.ts';
import { lora, type UpdateConfig } from '../reparameterized/lora.ts';
import { type SupertuningConfig, supertuning } from '../selective/supertuning.ts';

export interface SupraConfig extends SupertuningConfig, Pick<UpdateConfig, 'rank' | 'alpha' | 'dropout'> {
  readonly where: readonly string[]; // names of linear layers; LoRA's own choice where it is not given
  readonly seed: number;
}

/** α is 2r where it is not given. Count: ⌊(1 − σ)·in·out⌋ + r(in + out) for each layer. */
export const supra = ({
  sparsity = 0.99,
  select = 'largest',
  rank = 8,
  alpha = 2 * rank,
  dropout = 0,
  where,
  seed = 0,
}: Partial<SupraConfig> = {}): Transform =>
  hybrid(
    'supra',
    supertuning({ sparsity, select, ...(where && { where: where.map((name) => `${name}.weight`) }), seed }),
    lora({ rank, alpha, dropout, ...(where && { where }), seed }),
  );
