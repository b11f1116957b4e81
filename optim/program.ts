// One training step as recipes: forward and penalties, gradients, hooks, clipping, the optimizer, hooks again. Runs nothing.
import { grad } from '../core/grad.ts';
import { add, where } from '../core/ops/map.ts';
import { concat } from '../core/ops/move.ts';
import { sum } from '../core/ops/reduce.ts';
import type { Program } from '../core/plan.ts';
import { within } from '../core/scope.ts';
import { ShapeError, show, size } from '../core/shape.ts';
import { input, type Param, param, paramOf, stateOf, type Tensor, topological } from '../core/tensor.ts';
import { type Context, context, type Draw } from '../nn/context.ts';
import type { Grads } from '../nn/hooks.ts';
import type { Application, Attached, Field, Fields } from '../nn/layer.ts';
import { layers, params } from '../nn/tree.ts';
import type { Clip } from './clip.ts';
import { type Rates, ratesOf, some } from './groups.ts';
import type { Optimizer } from './optimizer.ts';

/** A number to make small: a recipe of one number over a model and a batch B, a record of tensors by name. */
export type Loss<M, B> = (model: M, batch: B, ctx: Context) => Tensor;

/** One attachment of a method, with the parameters it brought. */
export interface Attachment {
  readonly path: string;
  readonly attached: Attached;
  readonly own: ReadonlySet<Param>;
}
/** Everything a trainer needs to know of a tree. */
export interface Trainee {
  readonly every: ReadonlyMap<Param, string>;
  readonly trained: ReadonlyMap<Param, string>;
  readonly attachments: readonly Attachment[];
  readonly applications: ReadonlyMap<Application, readonly { readonly path: string; readonly own: Fields }[]>;
  readonly rates: readonly Rates[]; // the different ones
  readonly sharing: ReadonlyMap<Param, number>; // which of them a parameter has
  readonly moments: ReadonlyMap<Param, Readonly<Record<string, Tensor>>>;
  readonly sums: ReadonlyMap<Param, Tensor>; // accumulated gradients
}

export function inspect(model: Field, optimizer: Optimizer): Trainee {
  const every = params(model);
  const trained = new Map([...every].filter(([p]) => p.active));
  if (trained.size === 0)
    throw new RangeError('trainer: this model has no trainable parameter; attach a method, or unfreeze what should be trained');
  const attachments: Attachment[] = [];
  const applications = new Map<Application, { path: string; own: Fields }[]>();
  const seen = new Set<Attached>();
  for (const { path, layer } of layers(model)) {
    const { attached } = layer;
    if (attached === null || seen.has(attached)) continue; // a layer in two places is one attachment
    seen.add(attached);
    const own = layer.fields[attached.field] as Fields; // attach() puts a record of tensors there
    attachments.push({ path, attached, own: new Set(params(own).keys()) });
    applications.set(attached.application, [...(applications.get(attached.application) ?? []), { path, own }]);
  }
  return {
    every,
    trained,
    attachments,
    applications,
    ...sharedRates(ratesOf(trained, optimizer.config.groups, optimizer.config.weightDecay)),
    moments: new Map([...trained.keys()].map((p) => [p, optimizer.keep === undefined ? optimizer.init(p) : places(optimizer.init(p))])),
    sums: new Map([...trained.keys()].map((p) => [p, param(new Float32Array(size(p.shape)), p.shape, { active: false })])),
  };
}

/** Parameters like these without numbers to start from: what is kept elsewhere is written to them before every use. */
const places = (states: Readonly<Record<string, Tensor>>): Record<string, Tensor> =>
  Object.fromEntries(Object.entries(states).map(([k, s]) => [k, stateOf({ ...paramOf(s)!, value: new Float32Array(0) })]));

function sharedRates(own: ReadonlyMap<Param, Rates>): Pick<Trainee, 'rates' | 'sharing'> {
  const rates: Rates[] = [];
  const sharing = new Map<Param, number>();
  for (const [p, r] of own) {
    const known = rates.findIndex((o) => o.lr === r.lr && o.decay === r.decay);
    sharing.set(p, known >= 0 ? known : rates.push(r) - 1);
  }
  return { rates, sharing };
}

/** What the forward pass answers: the loss, and what is added to it. */
export interface Forward {
  readonly loss: Tensor;
  readonly penalty: Tensor | null;
  readonly aux: ReadonlyMap<string, Tensor>;
}

/** Positions count from 0 over the last dimension of `ids`, if the batch has ids. */
export function runLoss<M, B extends object>(loss: Loss<M, B>, model: M, batch: B, change: Partial<Context>): Tensor {
  const { ids } = batch as { readonly ids?: Tensor };
  const value = loss(model, batch, context(ids?.shape.at(-1) ?? 1, change));
  if (size(value.shape) !== 1) throw new ShapeError(`trainer: the loss must be one number, got ${show(value.shape)}; take its mean or sum`);
  return value.reshape();
}

export function forward<M, B extends object>(
  loss: Loss<M, B>,
  model: M,
  batch: B,
  change: Partial<Context>,
  { attachments }: Trainee,
): Forward {
  const aux = new Map<string, Tensor>();
  const collect = (name: string, l: Tensor): void => {
    const one = l.reshape();
    const before = aux.get(name);
    aux.set(name, before === undefined ? one : before.add(one));
  };
  const value = runLoss(loss, model, batch, { ...change, aux: collect });
  const penalties = attachments.flatMap(({ path, attached: { hooks } }) =>
    hooks.penalty === undefined ? [] : [within({ path }, hooks.penalty).reshape()],
  );
  return { loss: value, penalty: penalties.length === 0 ? null : penalties.reduce(add), aux };
}

/** loss + penalty + Σ aux */
export const total = (f: Forward): Tensor => [f.loss, ...(f.penalty === null ? [] : [f.penalty]), ...f.aux.values()].reduce(add);

/** Gradients of the trained parameters that the loss depends on; the others stay as they are, moments included. */
export function gradients(loss: Tensor, { trained }: Trainee): Grads {
  const reached = new Set(topological([loss]).map(paramOf));
  const wrt = [...trained.keys()].filter((p) => reached.has(p));
  if (wrt.length === 0)
    throw new RangeError(
      `trainer: the loss depends on none of the trained parameters (${some([...trained.values()])}); is it computed from the model it was given?`,
    );
  const grads = grad(loss, wrt.map(stateOf));
  return new Map(wrt.map((p, k) => [p, grads[k]!]));
}

/** sum ← weight·g for the first micro-batch of a step, sum + weight·g for the others. */
export function accumulated(grads: Grads, { sums }: Trainee): Map<Param, Tensor> {
  return within({ phase: 'update' }, () => {
    const [weight, more] = [input(WEIGHT, []), input(MORE, [])];
    return new Map(
      [...grads].map(([p, g]) => {
        const s = sums.get(p)!;
        return [paramOf(s)!, where(more, s, 0).add(g.mul(weight))];
      }),
    );
  });
}
export const WEIGHT = 'accumulate weight';
export const MORE = 'accumulate more';

/** The name under which a number of the optimizer is fed for the parameters that share rates: no rate is part of it. */
export const numberName = (name: string, sharing: number): string => `optimizer ${name} ${sharing}`;

export interface Updated {
  readonly next: ReadonlyMap<Param, Tensor>;
  readonly norm: Tensor | null;
  /** Finite exactly when every gradient is. */
  readonly sound: Tensor;
}

const soundness = (grads: Grads): Tensor => within({ phase: 'update' }, () => [...grads.values()].map((g) => sum(g)).reduce(add));

const ownOf = (a: Attachment, grads: Grads): Grads => new Map([...grads].filter(([p]) => a.own.has(p)));

/** Gradients as the methods leave them (afterGrad), and those clipped. */
export function clipped(
  raw: Grads,
  t: Trainee,
  clip: Clip | null,
): Omit<Updated, 'next'> & { readonly masked: Grads; readonly grads: Grads } {
  return within({ phase: 'update' }, () => {
    const masked = new Map(raw);
    const own = (a: Attachment): Grads => ownOf(a, masked);
    for (const a of t.attachments) {
      const answer = within({ path: a.path }, () => a.attached.hooks.afterGrad?.(own(a)) ?? new Map<Param, Tensor>());
      for (const [p, g] of answer) {
        if (!a.own.has(p) || !masked.has(p)) throw new Error(foreign(a, 'afterGrad', 'a gradient of a parameter it was not given'));
        masked.set(p, g);
      }
    }
    const { grads, norm } = clip === null ? { grads: masked, norm: null } : clip(masked);
    return { masked, grads, norm, sound: norm ?? soundness(raw) };
  });
}

/** Next values and states of the parameters that have gradients, then what these attachments write (afterStep). */
export function applied(
  { masked, grads }: { readonly masked: Grads; readonly grads: Grads },
  attachments: readonly Attachment[],
  t: Trainee,
  optimizer: Optimizer,
): Map<Param, Tensor> {
  return within({ phase: 'update' }, () => {
    const next = new Map<Param, Tensor>();
    for (const [p, grad] of grads) {
      const state = t.moments.get(p)!;
      const sharing = t.sharing.get(p)!;
      const numbers = Object.fromEntries(
        Object.keys(optimizer.numbers({ step: 1, lr: 0, decay: 0 })).map((k) => [k, input(numberName(k, sharing), [])]),
      );
      const now = within({ path: t.trained.get(p)! }, () => optimizer.update({ value: stateOf(p), grad, state, numbers }));
      next.set(p, now.value);
      for (const [k, s] of Object.entries(now.state)) next.set(paramOf(state[k]!)!, s);
    }
    for (const a of attachments) {
      const written = within({ path: a.path }, () =>
        a.attached.hooks.afterStep?.({ grad: ownOf(a, masked), prev: stateOf, next: (p) => next.get(p) ?? stateOf(p) }),
      );
      for (const [p, value] of written ?? []) {
        if (!t.every.has(p)) throw new Error(foreign(a, 'afterStep', 'a parameter that is not in the model'));
        next.set(p, value);
      }
    }
    return next;
  });
}

/** From gradients to next values: afterGrad → clip → optimizer → afterStep. */
export function updated(raw: Grads, t: Trainee, optimizer: Optimizer, clip: Clip | null): Updated {
  const c = clipped(raw, t, clip);
  return { next: applied(c, t.attachments, t, optimizer), norm: c.norm, sound: c.sound };
}
const foreign = (a: Attachment, hook: string, what: string): string =>
  `${a.attached.method} at ${a.path || 'the model'}: its ${hook} answers ${what}; return only the method's own parameters`;

/** A program with the names of the inputs it reads and of the numbers it answers as one vector, so that they cost one read. */
export interface Built {
  readonly program: Program<'numbers'>;
  readonly inputs: ReadonlySet<string>;
  readonly names: readonly string[];
  readonly reached: readonly Param[];
}
export function built(
  numbers: readonly (readonly [string, Tensor])[],
  next: ReadonlyMap<Param, Tensor>,
  reached: readonly Param[] = [],
): Built {
  const vector = concat(
    numbers.map(([, n]) => n.reshape(1)),
    0,
  );
  const fed = topological([vector, ...next.values()]).flatMap(({ source: s }) => (s.kind === 'input' && s.fill === null ? [s.name] : []));
  return {
    program: { outputs: { numbers: vector }, next, guard: 'numbers' }, // the guard looks at the first number
    inputs: new Set(fed),
    names: numbers.map(([name]) => name),
    reached,
  };
}
export const SOUND = 'sound'; // finite exactly when the loss and all gradients are
export const AUX = 'aux ';
export const parts = (f: Forward, all: Tensor, sound: Tensor): (readonly [string, Tensor])[] => [
  [SOUND, all.add(sound)],
  ['loss', f.loss],
  ...(f.penalty === null ? [] : [['penalty', f.penalty] as const]),
  ...[...f.aux].map(([name, l]) => [AUX + name, l] as const),
];
export const norms = (norm: Tensor | null): (readonly [string, Tensor])[] => (norm === null ? [] : [['norm', norm]]);

/** A whole step on one batch. */
export function stepProgram<M, B extends object>(
  loss: Loss<M, B>,
  model: M,
  batch: B,
  draw: Draw,
  t: Trainee,
  o: Optimizer,
  clip: Clip | null,
): Built {
  const f = forward(loss, model, batch, { draw }, t);
  const all = total(f);
  const u = updated(gradients(all, t), t, o, clip);
  return built([...parts(f, all, u.sound), ...norms(u.norm)], u.next);
}
/** The first half of a step on several micro-batches: gradients into their sums. */
export function addProgram<M, B extends object>(loss: Loss<M, B>, model: M, batch: B, draw: Draw, t: Trainee): Built {
  const f = forward(loss, model, batch, { draw }, t);
  const all = total(f);
  const grads = gradients(all, t);
  return built(parts(f, all, soundness(grads)), accumulated(grads, t), [...grads.keys()]);
}
/** The second half: what was summed becomes a step. */
export function applyProgram(reached: ReadonlySet<Param>, t: Trainee, o: Optimizer, clip: Clip | null): Built {
  const raw = new Map([...t.trained.keys()].filter((p) => reached.has(p)).map((p) => [p, t.sums.get(p)!]));
  const u = updated(raw, t, o, clip);
  return built([[SOUND, u.sound], ...norms(u.norm)], u.next);
}
/** A measure of one batch, without randomness and without an update. */
export const evaluateProgram = <M, B extends object>(measure: Loss<M, B>, model: M, batch: B): Built =>
  built([['loss', runLoss(measure, model, batch, {})]], new Map());
