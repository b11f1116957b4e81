// MeZO: fine-tuning with forward passes only. The gradient is estimated along one random direction z, drawn again from its seed.
//   g = (L(θ + εz) − L(θ − εz)) / 2ε,   z ~ N(0, I);   the optimizer is given the gradient g·z:   θ ← θ − η(g·z + λθ)   (SGD)
// Malladi et al. 2023, arXiv 2305.17333, algorithm 1; an estimator of Spall (1992).
import type { Engine } from '../core/engine.ts';
import { checkpointOp } from '../core/grad.ts';
import { reapply } from '../core/op.ts';
import type { Plan, Program } from '../core/plan.ts';
import { rng } from '../core/rng.ts';
import { within } from '../core/scope.ts';
import { input, type Param, paramOf, stateOf, Tensor, topological } from '../core/tensor.ts';
import { withValues } from '../nn/freeze.ts';
import type { Field } from '../nn/layer.ts';
import { params } from '../nn/tree.ts';
import type { Optimizer } from './optimizer.ts';
import { forward, inspect, type Loss, numberName, total as sumOf, type Trainee, updated } from './program.ts';
import type { Schedule } from './schedule.ts';
import { sgd } from './sgd.ts';
import { type Batch, data, inputs, NonFiniteError, shapes } from './trainer.ts';

/** One step as it was taken: with the optimizer and the starting values, a list of these is all of a training. */
export interface Move {
  readonly seed: number; // of z
  readonly g: number; // the derivative along z
}
export interface MezoReport extends Move {
  readonly step: number; // counted from 1
  readonly loss: number; // mean of the two, penalties included
  readonly lr: number;
}
export interface MezoOptions<M, B> {
  readonly engine: Engine;
  readonly loss: Loss<M, B>;
  /** What is done with g·z. SGD is the paper's algorithm; with Adam it is the paper's MeZO-Adam. Default sgd({ lr: 1e-6 }). */
  readonly optimizer?: Optimizer;
  /** ε (1e-3, the authors'). A larger one is needed where losses are single precision and gradients are small. */
  readonly eps?: number;
  readonly schedule?: Schedule;
  readonly total?: number;
  /** Starts the seeds of the steps (0). */
  readonly seed?: number;
}
export interface Mezo<M, B> extends AsyncDisposable {
  step(batch: Batch<B>): Promise<MezoReport>;
  /** Takes the steps of another training again, without a loss or a batch: from the same start, the same values bit for bit. */
  replay(moves: Iterable<Move>): Promise<void>;
  /** Every step so far. */
  readonly moves: readonly Move[];
  /** The model with the current values; or another tree that shares its parameters. */
  model(): Promise<M>;
  model<T extends Field>(tree: T): Promise<T>;
}

const [SCALE, SLOPE] = ['mezo scale', 'mezo g'];

/** A graph over moved parameters. */
export function moved(root: Tensor, to: ReadonlyMap<Param, Tensor>): Tensor {
  const copies = new Map<Tensor, Tensor>();
  const copy = (t: Tensor): Tensor => copies.get(t)!;
  for (const t of topological([root])) {
    const s = t.source;
    if (s.kind === 'view') copies.set(t, new Tensor(t.shape, { kind: 'view', of: copy(s.of) }, t.at));
    else if (s.kind !== 'apply') copies.set(t, (s.kind === 'state' ? to.get(s.param) : undefined) ?? t);
    else if (s.op === checkpointOp)
      copies.set(t, copy(s.ins[0]!)); // there is no backward pass to keep anything for
    else copies.set(t, s.ins.every((i) => copy(i) === i) ? t : reapply(s.op, s.ins.map(copy), s.attrs, t.at));
  }
  return copy(root);
}

/**
 * What a step runs: the loss at θ + scale·z, for a batch, and the update by g·z. Neither has a backward pass. Throws when the loss does
 * not read a trained parameter: z would move it at random.
 */
export function mezoPrograms<M extends Field, B extends object>(model: M, loss: Loss<M, B>, t: Trainee, optimizer: Optimizer) {
  const zs = new Map([...t.trained].map(([p, path]) => [p, input(`mezo z ${path}`, p.shape, { dist: 'normal' })])); // filled from the run's seed
  const g = input(SLOPE, []);
  const to = new Map([...zs].map(([p, z]) => [p, stateOf(p).add(z.mul(input(SCALE, [])))]));
  const estimate = within({ phase: 'update' }, () => new Map([...zs].map(([p, z]) => [p, z.mul(g)])));
  return {
    apply: { outputs: { g }, next: updated(estimate, t, optimizer, null).next } satisfies Program<'g'>,
    probe: (batch: B): Program<'loss'> => {
      const all = sumOf(forward(loss, model, batch, {}, t)); // quiet: dropout would be noise of its own
      const reached = new Set(topological([all]).map(paramOf));
      const idle = [...t.trained].find(([p]) => !reached.has(p));
      if (idle !== undefined)
        throw new Error(`mezo: the loss does not depend on ${idle[1]}, which would be moved at random; freeze it first`);
      return { outputs: { loss: moved(all, to) } };
    },
  };
}

/**
 * Prepares training of everything in `model` that is trainable, by forward passes alone: nothing is kept for backward. θ itself is never
 * moved to θ ± εz and back (the recipe reads moved values), so probing leaves no rounding behind. z is drawn three times from its seed
 * and never kept from one pass to the next. Hooks of methods see g·z as the gradient; a method with a controller is refused.
 */
export async function mezo<M extends Field, B extends object>(model: M, options: MezoOptions<M, B>): Promise<Mezo<M, B>> {
  const { engine, loss, optimizer = sgd({ lr: 1e-6 }), eps = 1e-3, schedule = () => 1, seed = 0 } = options;
  if (!(eps > 0)) throw new RangeError(`mezo: eps must be above 0, got ${eps}; the authors use 1e-3`);
  if (optimizer.keep !== undefined)
    throw new RangeError(
      `mezo: ${optimizer.name} keeps its states outside the engine, which only trainer() handles; use the optimizer it is made of`,
    );
  const t = inspect(model, optimizer);
  for (const { method, control } of t.applications.keys())
    if (control !== null)
      throw new Error(`mezo: ${method} decides between steps, which only trainer() lets it do; use another method here`);
  const programs = mezoPrograms(model, loss, t, optimizer);
  const store = engine.store();
  const apply = await engine.compile(store, programs.apply);
  const reads = inputNames([...programs.apply.next.values()]);
  const probes = new Map<string, { readonly plan: Plan<'loss'>; readonly reads: ReadonlySet<string> }>();
  const moves: Move[] = [];

  const rateOf = (step: number): number => optimizer.config.lr * schedule({ step, total: options.total ?? Number.POSITIVE_INFINITY });
  const take = async (move: Move): Promise<void> => {
    const step = moves.length + 1;
    const feed: Record<string, number> = { [SLOPE]: move.g };
    for (const [k, r] of t.rates.entries())
      for (const [name, v] of Object.entries(optimizer.numbers({ step, lr: rateOf(step) * r.lr, decay: r.decay })))
        if (reads.has(numberName(name, k))) feed[numberName(name, k)] = v;
    await apply.run(feed, move.seed);
    moves.push(move);
  };
  const probeFor = async (batch: Batch<B>) => {
    const key = shapes(batch);
    const known = probes.get(key);
    if (known !== undefined) return known;
    const program = programs.probe(inputs(batch));
    const made = { plan: await engine.compile(store, program), reads: inputNames([program.outputs.loss]) };
    probes.set(key, made);
    return made;
  };
  const read = async <T extends Field>(tree: T): Promise<T> =>
    withValues(tree, await store.read([...params(tree).keys()].filter((p) => t.every.has(p))));

  return {
    moves,
    async step(batch) {
      const step = moves.length + 1;
      const own = rng(seed)
        .split(`mezo ${step}`)
        .below(2 ** 32);
      const probe = await probeFor(batch);
      const fed = Object.fromEntries(Object.entries(data(batch)).filter(([name]) => probe.reads.has(name)));
      const [up, down] = [await at(eps), await at(-eps)];
      const g = (up - down) / (2 * eps);
      await take({ seed: own, g });
      return { step, seed: own, g, loss: (up + down) / 2, lr: rateOf(step) };

      async function at(scale: number): Promise<number> {
        const value = (await probe.plan.run({ ...fed, [SCALE]: scale }, own)).loss[0]!;
        if (!Number.isFinite(value))
          throw new NonFiniteError(
            `mezo: in step ${step} the loss is ${value}. The step was not applied. Lower the learning rate or eps, or look at this batch`,
          );
        return value;
      }
    },
    async replay(list) {
      for (const move of list) await take(move);
    },
    model: <T extends Field>(tree?: T) => read(tree ?? model) as Promise<T & M>, // without a tree, T is M
    [Symbol.asyncDispose]: async () => store.close(),
  };
}

const inputNames = (roots: readonly Tensor[]): ReadonlySet<string> =>
  new Set(topological(roots).flatMap(({ source: s }) => (s.kind === 'input' && s.fill === null ? [s.name] : [])));
