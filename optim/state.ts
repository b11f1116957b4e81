// What a trainer knows, as plain numbers by path: written to a file, it resumes training bit for bit.
import type { Numbers, Store } from '../core/plan.ts';
import { type Shape, same, show, size } from '../core/shape.ts';
import { type Data, type Param, paramOf } from '../core/tensor.ts';
import type { Apart } from './apart.ts';
import { some } from './groups.ts';
import type { Pieces } from './keep.ts';
import type { Optimizer } from './optimizer.ts';
import type { Trainee } from './program.ts';

export interface Stored {
  readonly data: Numbers;
  readonly shape: Shape;
}
/** A state of an optimizer, or a part of one that is kept in fewer bits (its codes). */
export interface StoredState {
  readonly data: Numbers | Uint8Array;
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
  /** The optimizer's state of every trained parameter: by path, then by the optimizer's name for it (`m`; `m.codes` and `m.scales` in eight bits). */
  readonly moments: Readonly<Record<string, Readonly<Record<string, StoredState>>>>;
}

const momentsOf = (t: Trainee): [path: string, own: [name: string, p: Param][]][] =>
  [...t.moments].map(([p, own]) => [t.trained.get(p)!, Object.entries(own).map(([name, s]) => [name, paramOf(s)!])]);

const shapeOf = (d: Data, p: Param): Shape => (d.length === size(p.shape) ? p.shape : [d.length]);
/** A state's parts under the names they are stored by. */
const named = (states: ReadonlyMap<string, Pieces>): [name: string, state: string, part: string, d: Data][] =>
  [...states].flatMap(([state, pieces]) =>
    Object.entries(pieces).map(([part, d]): [string, string, string, Data] => [part === '' ? state : `${state}.${part}`, state, part, d]),
  );
const asStored = (d: Data, path: string): Numbers | Uint8Array => {
  if (d instanceof Float32Array || d instanceof Float64Array || d instanceof Uint8Array) return d;
  throw new Error(`unreachable: a state of ${path} is kept as neither floats nor bytes`);
};

export async function readState(
  t: Trainee,
  store: Store,
  optimizer: Optimizer,
  step: number,
  seed: number,
  apart: Apart | null = null,
): Promise<TrainingState> {
  const moments = apart === null ? momentsOf(t) : [];
  const got = await store.read([...t.every.keys(), ...moments.flatMap(([, own]) => own.map(([, p]) => p))]);
  const stored = (p: Param): Stored => ({ data: got.get(p)!.slice(), shape: p.shape });
  const kept = apart === null ? [] : [...(await apart.read())];
  const params = new Map([...t.trained].map(([p, path]) => [path, p]));
  return {
    format: 1,
    step,
    seed,
    optimizer: optimizer.name,
    values: Object.fromEntries([...t.every].map(([p, path]) => [path, stored(p)])),
    moments: Object.fromEntries([
      ...moments.map(([path, own]) => [path, Object.fromEntries(own.map(([name, p]) => [name, stored(p)]))] as const),
      ...kept.map(([path, states]) => {
        const one = (d: Data): StoredState => ({ data: asStored(d, path).slice(), shape: shapeOf(d, params.get(path)!) });
        return [path, Object.fromEntries(named(states).map(([name, , , d]) => [name, one(d)]))] as const;
      }),
    ]),
  };
}

/** What a state says, checked: values for the store, and states for where they are kept. */
export interface Checked {
  readonly values: ReadonlyMap<Param, Data>;
  readonly kept: ReadonlyMap<string, ReadonlyMap<string, Pieces>>;
}
/** What to write for a state, or an error that says what does not fit. `now` are the states as they are kept, where they are kept apart. */
export function checked(
  s: TrainingState,
  t: Trainee,
  optimizer: Optimizer,
  now: ReadonlyMap<string, ReadonlyMap<string, Pieces>> | null = null,
): Checked {
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
  const fitting = <D extends Numbers | Uint8Array>(
    what: string,
    shape: Shape,
    stored: { readonly data: D; readonly shape: Shape } | undefined,
  ): D => {
    if (stored === undefined) return refuse(`${what} is missing`);
    if (!same(stored.shape, shape)) refuse(`${what} has shape ${show(stored.shape)}, the model's is ${show(shape)}`);
    if (stored.data.length !== size(shape)) refuse(`${what} holds ${stored.data.length} numbers, its shape needs ${size(shape)}`);
    return stored.data;
  };
  const take = (what: string, p: Param, stored: StoredState | undefined): void => {
    const data = fitting(what, p.shape, stored);
    if (data instanceof Uint8Array) refuse(`${what} holds bytes; floats are expected`);
    written.set(p, data);
  };
  const known = (what: string, given: object, wanted: readonly string[]): void => {
    const strange = Object.keys(given).filter((k) => !wanted.includes(k));
    if (strange.length > 0) refuse(`this model has no ${what} ${some(strange)}; it has ${some(wanted)}`);
  };
  known('parameter', s.values, [...t.every.values()]);
  for (const [p, path] of t.every) take(path, p, s.values[path]);
  const moments = now === null ? momentsOf(t) : [];
  known('trained parameter', s.moments, [...t.trained.values()]);
  const kept = new Map<string, Map<string, Pieces>>();
  for (const [p, path] of now === null ? [] : t.trained) {
    const parts = named(now?.get(path) ?? new Map());
    known(
      `moment of ${path}`,
      s.moments[path] ?? {},
      parts.map(([name]) => name),
    );
    const mine = new Map<string, Record<string, Data>>();
    for (const [name, state, part, like] of parts) {
      const data = fitting(`${name} of ${path}`, shapeOf(like, p), s.moments[path]?.[name]);
      if (data instanceof Uint8Array !== like instanceof Uint8Array)
        refuse(`${name} of ${path} holds ${data instanceof Uint8Array ? 'bytes; floats are' : 'floats; bytes are'} expected`);
      mine.set(state, { ...mine.get(state), [part]: likewise(data, like) });
    }
    kept.set(path, mine);
  }
  for (const [path, own] of moments) {
    known(
      `moment of ${path}`,
      s.moments[path] ?? {},
      own.map(([name]) => name),
    );
    for (const [name, p] of own) take(`${name} of ${path}`, p, s.moments[path]?.[name]);
  }
  return { values: written, kept };
}

/** A copy, in the width of the numbers there. */
const likewise = (d: Numbers | Uint8Array, like: Data): Data =>
  like instanceof Float64Array ? Float64Array.from(d) : like instanceof Float32Array ? Float32Array.from(d) : d.slice();
