// What a trained model may ask of the trainer besides its loss. Methods fill these in; the trainer only calls them.

import type { Numbers } from '../core/plan.ts';
import type { Data, Param, Tensor } from '../core/tensor.ts';

export type Grads = ReadonlyMap<Param, Tensor>;
export type Updates = ReadonlyMap<Param, Tensor>;

/** Hooks of one attachment. All of them become part of the compiled step. */
export interface Hooks {
  /** Added to the loss: a regulariser over parameters. */
  readonly penalty?: () => Tensor;
  /** Replaces gradients of this attachment's parameters, after accumulation and before clipping (masks). */
  readonly afterGrad?: (grads: Grads) => Grads;
  /** Changes what the optimizer wrote, or updates buffers, given gradients, old and new values. */
  readonly afterStep?: (step: { grad: Grads; prev: (p: Param) => Tensor; next: (p: Param) => Tensor }) => Updates;
}

/** Where training stands: `step` counts optimizer steps from 1; `total` is how many there will be. */
export interface Progress {
  readonly step: number;
  readonly total: number;
}

/**
 * Decides on the host between steps: rank budgets, phases. One per application of a method. What it decides follows from
 * `at` and from parameters (buffers included), so that a state with step and values is all that resuming needs.
 */
export interface Controller {
  /** Called once before the first step, with the number of steps to come: throws where its schedule cannot be met. */
  readonly begin?: (total: number) => void;
  /** Called after each optimizer step. Reads what it needs and answers new values for parameters, or null. */
  after(at: Progress, read: (params: readonly Param[]) => Promise<ReadonlyMap<Param, Numbers>>): Promise<ReadonlyMap<Param, Data> | null>;
}
