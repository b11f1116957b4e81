// An optimizer is two recipes per parameter (its next value, its next state) and the host's few numbers per step.

import { here, within } from '../core/scope.ts';
import { size } from '../core/shape.ts';
import { type Param, param, type Tensor } from '../core/tensor.ts';
import type { Group } from './groups.ts';
import type { Keep } from './keep.ts';

/** What the host knows when a step begins: `step` counts from 1; lr and decay are those of the parameter's group. */
export interface At {
  readonly step: number;
  readonly lr: number;
  readonly decay: number;
}

/** What an update reads. `S` names the state, `N` the numbers of the step; those are scalar inputs, never source text. */
export interface Reads<S extends string, N extends string> {
  readonly value: Tensor;
  readonly grad: Tensor;
  readonly state: Readonly<Record<S, Tensor>>;
  readonly numbers: Readonly<Record<N, Tensor>>;
}
export interface Writes<S extends string> {
  readonly value: Tensor;
  readonly state: Readonly<Record<S, Tensor>>;
}

/** Options every optimizer has. */
export interface Common {
  /** Learning rate; a schedule, a group and `Param.lr` multiply it. */
  readonly lr: number;
  /** Weight decay λ of parameters that allow it (`Param.decay`); a group may set another. */
  readonly weightDecay: number;
  /** Parameters that get another learning rate or decay; the first group that matches counts. */
  readonly groups: readonly Group[];
}

export interface OptimizerDef<S extends string, N extends string> {
  readonly name: string;
  /** All options, as given: for reports and saved states. */
  readonly config: Common & Readonly<Record<string, unknown>>;
  /** The state a parameter needs, as parameters that no optimizer changes (`zeros`). */
  readonly init: (p: Param) => Readonly<Record<S, Tensor>>;
  /** Everything that varies from step to step or from group to group. */
  readonly numbers: (at: At) => Readonly<Record<N, number>>;
  readonly update: (reads: Reads<S, N>) => Writes<S>;
  /** Where the states are between steps; in the engine when left out. */
  readonly keep?: Keep;
}

/** An optimizer whose names of state and numbers have been forgotten: what a trainer holds. */
export type Optimizer = OptimizerDef<string, string>;

/** The seam that forgets S and N: what `init` and `numbers` answer is what `update` is given. */
export function defineOptimizer<S extends string, N extends string>(def: OptimizerDef<S, N>): Optimizer {
  const { lr, weightDecay } = def.config;
  for (const [what, v] of Object.entries({ lr, weightDecay }))
    if (!(v >= 0)) throw new RangeError(`${def.name}: ${what} must be 0 or more, got ${v}`);
  return def as unknown as Optimizer;
}

/** State of a parameter's shape that starts at 0 and that no optimizer changes by itself. */
export const zeros = (p: Param): Tensor => param(new Float32Array(size(p.shape)), p.shape, { active: false, decay: false });

/**
 * Computes inside f again what was computed outside (copies are never merged). A value that reads the next state
 * would need it stored and then copied into its slot; computed twice, each next value is one kernel.
 */
export const again = <T>(f: () => T): T => within({ copy: here().copy + 1 }, f);

/** Refuses a rate outside [0, 1). */
export function rate(optimizer: string, what: string, v: number): void {
  if (!(v >= 0 && v < 1)) throw new RangeError(`${optimizer}: ${what} must be at least 0 and below 1, got ${v}`);
}
