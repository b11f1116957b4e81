// Steps of optimizers whose states are kept elsewhere: gradients for all parameters first, then a few parameters at a time, each with its states
// fetched, used and put back.

import { constant } from '../core/ops/map.ts';
import type { Numbers, Store } from '../core/plan.ts';
import { size } from '../core/shape.ts';
import { type Data, type Param, param, paramOf, type Tensor } from '../core/tensor.ts';
import type { Draw } from '../nn/context.ts';
import type { Grads } from '../nn/hooks.ts';
import type { Clip } from './clip.ts';
import type { Keep, Pieces, Shelf } from './keep.ts';
import type { Optimizer } from './optimizer.ts';
import {
  type Attachment,
  applied,
  type Built,
  built,
  clipped,
  forward,
  gradients,
  type Loss,
  norms,
  parts,
  SOUND,
  type Trainee,
  total,
} from './program.ts';

/** Numbers of states that are in the engine at a time, where a single parameter does not need more. */
const AT_ONCE = 2 ** 18;

/** Parameters that are updated together, with the attachments whose hooks see them. */
interface Group {
  readonly params: ReadonlySet<Param>;
  readonly attachments: readonly Attachment[];
}

/** Trained parameters in groups: attachments that share one stay together, small groups are joined. */
export function groupsOf({ trained, attachments }: Pick<Trainee, 'trained' | 'attachments'>, states: number): Group[] {
  const sets: { params: Set<Param>; attachments: Attachment[] }[] = [];
  for (const a of attachments) {
    const mine = sets.filter((s) => [...a.own].some((p) => s.params.has(p)));
    const joined = {
      params: new Set([...mine.flatMap((s) => [...s.params]), ...a.own]),
      attachments: [...mine.flatMap((s) => s.attachments), a],
    };
    for (const s of mine) sets.splice(sets.indexOf(s), 1);
    sets.push(joined);
  }
  const attached = new Set(sets.flatMap((s) => [...s.params]));
  for (const p of trained.keys()) if (!attached.has(p)) sets.push({ params: new Set([p]), attachments: [] });
  const groups: (Group & { readonly numbers: number })[] = [];
  for (const s of sets) {
    const params = new Set([...s.params].filter((p) => trained.has(p)));
    const numbers = states * [...params].reduce((n, p) => n + size(p.shape), 0);
    const last = groups.at(-1);
    if (last === undefined || last.numbers + numbers > AT_ONCE) groups.push({ params, attachments: s.attachments, numbers });
    else
      groups[groups.length - 1] = {
        params: new Set([...last.params, ...params]),
        attachments: [...last.attachments, ...s.attachments],
        numbers: last.numbers + numbers,
      };
  }
  return groups;
}

/** Where gradients wait for their group: clipped in `sums`, and as they were before in `masks`, for hooks that run after the step. */
interface Waiting {
  readonly masks: ReadonlyMap<Param, Tensor>;
}
const waiting = (t: Trainee): Waiting => ({
  masks: new Map(
    t.attachments
      .filter((a) => a.attached.hooks.afterStep !== undefined)
      .flatMap((a) => [...a.own].filter((p) => t.trained.has(p)))
      .map((p) => [p, param(new Float32Array(size(p.shape)), p.shape, { active: false })] as const),
  ),
});
const waitingNext = (
  { grads, masked }: { readonly grads: Grads; readonly masked: Grads },
  t: Trainee,
  { masks }: Waiting,
): Map<Param, Tensor> =>
  new Map([
    ...[...grads].map(([p, g]) => [paramOf(t.sums.get(p)!)!, g] as const),
    ...[...masked].flatMap(([p, g]) => (masks.has(p) ? [[paramOf(masks.get(p)!)!, g] as const] : [])),
  ]);

/** The states of one trainer, outside its engine. */
export interface Apart {
  readonly shelf: Shelf;
  /** The first part of a step on one batch. */
  gradsProgram<M, B extends object>(loss: Loss<M, B>, model: M, batch: B, draw: Draw, clip: Clip | null): Built;
  /** The same from gradients that were summed over micro-batches. */
  clipProgram(reached: ReadonlySet<Param>, clip: Clip | null): Built;
  /** The second part: every group in turn. `run` compiles once by key. */
  apply(reached: ReadonlySet<Param>, run: (key: string, build: () => Built) => Promise<void>): Promise<void>;
  /** All states, by path and state. */
  read(): Promise<Map<string, Map<string, Pieces>>>;
  write(states: ReadonlyMap<string, ReadonlyMap<string, Pieces>>): Promise<void>;
}

const keyOf = (path: string, state: string): string => `${path} ${state}`;

/** Opens the place for states and fills it with those the optimizer starts from. */
export async function keptApart(t: Trainee, optimizer: Optimizer, { codec, open }: Keep, store: Store): Promise<Apart> {
  const shelf = await open();
  const first = [...t.trained.keys()][0]!;
  const wide = (await store.read([first])).get(first) instanceof Float64Array; // what this engine computes in
  const numbers = (d: Data): Numbers => (wide ? Float64Array.from(d) : Float32Array.from(d));
  for (const [p, path] of t.trained)
    for (const [state, s] of Object.entries(optimizer.init(p)))
      await shelf.put(keyOf(path, state), codec.encode(numbers(paramOf(s)!.value), state));
  const own = waiting(t);
  const states = (p: Param): [state: string, s: Param][] => Object.entries(t.moments.get(p)!).map(([k, s]) => [k, paramOf(s)!]);
  const groups = groupsOf(t, states(first).length);

  const groupProgram = (g: Group, reached: ReadonlySet<Param>): Built => {
    const from = (of: ReadonlyMap<Param, Tensor>): Grads =>
      new Map([...g.params].flatMap((p) => (reached.has(p) ? [[p, of.get(p) ?? t.sums.get(p)!]] : [])));
    const next = applied({ grads: from(t.sums), masked: from(own.masks) }, g.attachments, t, optimizer);
    return built([[SOUND, constant(0)]], next); // what is not finite has been refused by now
  };
  return {
    shelf,
    gradsProgram: (loss, model, batch, draw, clip) => {
      const f = forward(loss, model, batch, { draw }, t);
      const all = total(f);
      const grads = gradients(all, t);
      const c = clipped(grads, t, clip);
      return built([...parts(f, all, c.sound), ...norms(c.norm)], waitingNext(c, t, own), [...grads.keys()]);
    },
    clipProgram: (reached, clip) => {
      const c = clipped(new Map([...t.trained.keys()].filter((p) => reached.has(p)).map((p) => [p, t.sums.get(p)!])), t, clip);
      return built([[SOUND, c.sound], ...norms(c.norm)], waitingNext(c, t, own));
    },
    apply: async (reached, run) => {
      for (const [k, g] of groups.entries()) {
        const now = [...g.params].filter((p) => reached.has(p));
        if (now.length === 0 && g.attachments.every((a) => a.attached.hooks.afterStep === undefined)) continue;
        const fetched = now.flatMap((p) => states(p).map(([state, s]) => [keyOf(t.trained.get(p)!, state), state, s] as const));
        const values = new Map<Param, Data>();
        for (const [key, state, s] of fetched) values.set(s, codec.decode(await shelf.take(key), state));
        await store.write(values);
        await run(`group ${k} ${now.map((p) => t.trained.get(p))}`, () => groupProgram(g, reached));
        const after = await store.read(values.keys());
        for (const [key, state, s] of fetched) await shelf.put(key, codec.encode(after.get(s)!, state));
        store.forget(values.keys());
      }
    },
    read: async () => {
      const all = new Map<string, Map<string, Pieces>>();
      for (const [p, path] of t.trained) {
        const mine = new Map<string, Pieces>();
        for (const [state] of states(p)) mine.set(state, await shelf.take(keyOf(path, state)));
        all.set(path, mine);
      }
      return all;
    },
    write: async (all) => {
      for (const [path, mine] of all) for (const [state, pieces] of mine) await shelf.put(keyOf(path, state), pieces);
    },
  };
}
