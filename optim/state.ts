// What a trainer knows, as plain numbers by path: written to a file, it resumes training bit for bit.
import type { Numbers, Store } from '../core/plan.ts';
import { type Shape, same, show, size } from '../core/shape.ts';
import { type Data, type Param, paramOf } from '../core/tensor.ts';
import { some } from './groups.ts';
import type { Optimizer } from './optimizer.ts';
import type { Trainee } from './program.ts';

export interface Stored {
  readonly data: Numbers;
  readonly shape: Shape;
}
/** Resuming is exact when the trainer is made with the same options; what a controller knows follows from step and values. */
export interface TrainingState {
  readonly format: 1;
  /** Optimizer steps taken. */
  readonly step: number;
  readonly seed: number;
  /** Name of the optimizer. */
  readonly optimizer: string;
  /** Every parameter and buffer of the model by path. */
  readonly values: Readonly<Record<string, Stored>>;
  /** The optimizer's state of every trained parameter: by path, then by the optimizer's name for it. */
  readonly moments: Readonly<Record<string, Readonly<Record<string, Stored>>>>;
}

const momentsOf = (t: Trainee): [path: string, own: [name: string, p: Param][]][] =>
  [...t.moments].map(([p, own]) => [t.trained.get(p)!, Object.entries(own).map(([name, s]) => [name, paramOf(s)!])]);

export async function readState(t: Trainee, store: Store, optimizer: Optimizer, step: number, seed: number): Promise<TrainingState> {
  const moments = momentsOf(t);
  const got = await store.read([...t.every.keys(), ...moments.flatMap(([, own]) => own.map(([, p]) => p))]);
  const stored = (p: Param): Stored => ({ data: got.get(p)!.slice(), shape: p.shape });
  return {
    format: 1,
    step,
    seed,
    optimizer: optimizer.name,
    values: Object.fromEntries([...t.every].map(([p, path]) => [path, stored(p)])),
    moments: Object.fromEntries(moments.map(([path, own]) => [path, Object.fromEntries(own.map(([name, p]) => [name, stored(p)]))])),
  };
}

/** What to write to the store for a state, or an error that says what does not fit. */
export function checked(s: TrainingState, t: Trainee, optimizer: Optimizer): Map<Param, Data> {
  const refuse: (why: string) => never = (why) => {
    throw new RangeError(`trainer: this state cannot be loaded: ${why}. Nothing was changed`);
  };
  if (s.format !== 1) refuse(`its format is ${s.format}, this version reads 1`);
  for (const [what, n] of [
    ['step', s.step],
    ['seed', s.seed],
  ] as const)
    if (!Number.isSafeInteger(n) || (what === 'step' && n < 0)) refuse(`its ${what} is ${n}, not a whole number`);
  if (s.optimizer !== optimizer.name) refuse(`it is one of ${s.optimizer}, and this trainer uses ${optimizer.name}`);
  const written = new Map<Param, Data>();
  const take = (what: string, p: Param, stored: Stored | undefined): void => {
    if (stored === undefined) refuse(`${what} is missing`);
    if (!same(stored.shape, p.shape)) refuse(`${what} has shape ${show(stored.shape)}, the model's is ${show(p.shape)}`);
    if (stored.data.length !== size(p.shape)) refuse(`${what} holds ${stored.data.length} numbers, its shape needs ${size(p.shape)}`);
    written.set(p, stored.data);
  };
  const known = (what: string, given: object, wanted: readonly string[]): void => {
    const strange = Object.keys(given).filter((k) => !wanted.includes(k));
    if (strange.length > 0) refuse(`this model has no ${what} ${some(strange)}; it has ${some(wanted)}`);
  };
  known('parameter', s.values, [...t.every.values()]);
  for (const [p, path] of t.every) take(path, p, s.values[path]);
  const moments = momentsOf(t);
  known(
    'trained parameter',
    s.moments,
    moments.map(([path]) => path),
  );
  for (const [path, own] of moments) {
    known(
      `moment of ${path}`,
      s.moments[path] ?? {},
      own.map(([name]) => name),
    );
    for (const [name, p] of own) take(`${name} of ${path}`, p, s.moments[path]?.[name]);
  }
  return written;
}
