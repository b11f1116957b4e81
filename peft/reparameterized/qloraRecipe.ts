// QLoRA as the paper trains it: four bits with double quantisation, LoRA on all linears, a paged optimizer, a constant rate, gradients clipped at 0.3.
// Dettmers et al. 2023, arXiv 2305.14314, §3, §4 and appendix B.2; numbers as the authors' code has them.
import type { AdamConfig } from '../../optim/adam.ts';
import { adamw } from '../../optim/adamw.ts';
import { type Clip, clipByNorm } from '../../optim/clip.ts';
import type { Optimizer } from '../../optim/optimizer.ts';
import { type Paging, paged } from '../../optim/paged.ts';
import { constant, type Schedule } from '../../optim/schedule.ts';
import type { Transform } from '../method.ts';
import { type QloraOptions, qlora } from './qlora.ts';

export interface QloraRecipe {
  /** What `trainer` is given; `method` makes its model out of a frozen one. */
  readonly method: Transform;
  readonly optimizer: Optimizer;
  readonly clip: Clip;
  readonly schedule: Schedule;
}
export interface QloraRecipeOptions extends Pick<Paging, 'spill'>, Partial<Pick<Paging, 'page' | 'budget'>>, QloraOptions {
  /** Learning rate, and the others of AdamW: 2e-4 (the paper's for 7 and 13 billion weights; 1e-4 for 33 and 65), no weight decay. */
  readonly adamw?: Partial<AdamConfig>;
}

/**
 * Model, optimizer, clipping and schedule of the paper. Optimizer states live in pages of 1 MiB, 16 MiB of them in memory; `spill` says where
 * the others go (`pageFolder()` of io: to disk). A batch of 16 is the paper's.
 *   const { method, ...training } = qloraRecipe({ spill: pageFolder() });
 *   await using t = await trainer(method(freeze(model)), { engine, loss, ...training });
 */
export function qloraRecipe({ spill, page = 2 ** 20, budget = 16 * page, adamw: rates = {}, ...options }: QloraRecipeOptions): QloraRecipe {
  return {
    method: qlora(options),
    optimizer: paged(adamw({ lr: 2e-4, weightDecay: 0, ...rates }), { spill, page, budget }),
    clip: clipByNorm(0.3),
    schedule: constant(),
  };
}
