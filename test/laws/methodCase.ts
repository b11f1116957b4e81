// A method on a network, ready to be judged: what the laws of methods and of pairs share.
import type { Engine } from '../../core/engine.ts';
import type { Numbers } from '../../core/plan.ts';
import type { Model } from '../../nn/layer.ts';
import type { Listed } from '../../peft/listed.ts';
import type { Start, Transform } from '../../peft/method.ts';
import { type Network, perturb, run } from './models.ts';
import { briefly } from './training.ts';

/** One method on one network. */
export interface Case {
  readonly listed: Listed;
  readonly net: Network;
  readonly seed: number;
  readonly engine: Engine;
  /** The method, prepared where it needs to be. */
  readonly method: Transform;
  /** Just attached. */
  readonly fresh: Model;
  /** Attached, every trained tensor moved to a generic value. */
  readonly model: Model;
}
export interface Law {
  readonly id: string;
  readonly says: string;
  /** Throws when the law is broken. */
  readonly check: (c: Case) => Promise<void>;
}

export async function caseOf(listed: Listed, net: Network, seed: number, engine: Engine): Promise<Case> {
  const method = await ready(listed.tiny({ seed }), net, engine);
  const fresh = method(net.base);
  return { listed, net, seed, engine, method, fresh, model: perturb(fresh, seed) };
}
export const ready = (t: Transform, net: Network, engine: Engine, on: Model = net.base): Promise<Transform> =>
  t.prepare(on, { engine, batches: [net.batch], loss: (m) => run(net, m).loss, train: (m) => briefly(net, m, engine), seed: 0 });

/** How a composition starts: as its least faithful part. */
export function start(t: Transform): Start {
  const all = t.parts.map((p) => p.method.startsAsBase(p.config));
  return all.includes('no') ? 'no' : all.includes('close') ? 'close' : 'bitwise';
}
export const mergeable = (t: Transform): boolean => t.parts.every((p) => p.method.mergeable);

export function must(c: Case, holds: boolean, what: string): void {
  if (!holds) throw new Error(`${c.listed.name} on ${c.net.name}, seed ${c.seed}: ${what}`);
}
export const sameBits = (a: Numbers, b: Numbers): boolean => a.length === b.length && a.every((v, i) => Object.is(v, b[i]));
export const largest = (a: ArrayLike<number>): number => Array.from(a).reduce((m, v) => Math.max(m, Math.abs(v)), 0);
/** Largest difference, relative to the largest value. */
export const apart = (a: Numbers, b: Numbers): number =>
  a.length !== b.length ? Number.POSITIVE_INFINITY : largest(a.map((v, i) => v - b[i]!)) / Math.max(largest(a), 1e-30);
export const finite = (a: Numbers): boolean => a.every(Number.isFinite);
/** Rounding in double precision, with room for a few hundred additions. */
export const CLOSE = 1e-9;

/** The message of what a function throws, or null when it does not throw. */
export function refusal(f: () => unknown): string | null {
  try {
    f();
    return null;
  } catch (e) {
    return e instanceof Error ? e.message : String(e);
  }
}
