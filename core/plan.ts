// A plan is a scheduled graph bound to a store and ready to run: inputs in, outputs out, state stays on the device.
// Compiled kernels are cached by the structure of the graph, so an equal graph over other weights compiles nothing.

import { type AnyOp, defineOp, type Op } from './op.ts';
import { rng } from './rng.ts';
import { attrsKey, type Bound, type InputSpec, lower, type Opening, type Ref, type Schedule, schedule } from './schedule.ts';
import { place } from './scope.ts';
import { type Shape, ShapeError, same, show, size, table } from './shape.ts';
import type { DeviceStore, Numbers } from './store.ts';
import { type Data, type Param, paramOf, type Tensor, topological } from './tensor.ts';

export type { Numbers, Store } from './store.ts';

export type Feed = Readonly<Record<string, Data | readonly number[] | number>>;

/** What to compute: named outputs, and the next value of every parameter that changes. */
export interface Program<O extends string = string> {
  readonly outputs: Readonly<Record<O, Tensor>>;
  readonly next?: ReadonlyMap<Param, Tensor>;
  /** An output (one number) that must be finite for `next` to be kept. */
  readonly guard?: O;
  /** Paths of layers whose result is wanted too, under `taps` of the answer. */
  readonly taps?: readonly string[];
}

export interface Plan<O extends string = string> {
  /** Runs once. `seed` fills the inputs that draw (dropout masks) and are not fed. Throws on a missing or unfit input. */
  run(feed?: Feed, seed?: number): Promise<Readonly<Record<O, Numbers>> & { readonly taps: Readonly<Record<string, Numbers>> }>;
  /** Runs without fusing and without keeping state; answers the first op whose result is not finite, or null. */
  diagnose(feed?: Feed, seed?: number): Promise<string | null>;
  readonly report: PlanReport;
}
export interface PlanReport {
  readonly kernels: number;
  readonly cached: boolean;
  readonly executor: string;
  readonly fallback: string | null;
  readonly milliseconds: number;
}

/** What an engine's device can do. `H` is a table that lives there. */
export interface Device<H> {
  upload(data: Data, rows: number, cols: number): Promise<H>;
  /** Bytes that stay bytes: engines that hold only float32 keep three in a number (`threeInOne`). */
  uploadBytes(data: Data, rows: number, cols: number): Promise<H>;
  download(h: H, rows: number, cols: number): Promise<Numbers>;
  free(h: H): void;
  prepare(s: Schedule): Promise<Executable<H>>;
  /** Ops the device computes in its own way. */
  readonly opening?: Opening;
}
export interface Executable<H> {
  readonly executor: string;
  readonly fallback: string | null;
  /** The value of every root; those that are steps belong to the caller. */
  run(read: (r: Ref) => H): Promise<H[]>;
}

/** What is kept of a compiled graph: kernels and wiring, none of its weights. */
interface Compiled<H> {
  readonly executable: Executable<H>;
  readonly kernels: number;
  readonly inputs: readonly InputSpec[];
  readonly roots: readonly Ref[];
  readonly leaves: readonly { readonly shape: Shape; readonly at: number; readonly bound: Bound | null; readonly bytes: boolean }[]; // `at`: place in the graph's order of appearance
  readonly states: readonly number[];
  readonly ops: readonly AnyOp[];
}
/** A bounded cache; the least recently used entry goes first. */
export interface Cache<H> {
  get(key: string): Compiled<H> | undefined;
  set(key: string, c: Compiled<H>): void;
  readonly size: number;
}
export function lru<H>(limit: number): Cache<H> {
  const entries = new Map<string, Compiled<H>>();
  return {
    get(key) {
      const c = entries.get(key);
      if (c !== undefined) {
        entries.delete(key);
        entries.set(key, c);
      }
      return c;
    },
    set(key, c) {
      entries.set(key, c);
      if (entries.size > limit) entries.delete(entries.keys().next().value!);
    },
    get size() {
      return entries.size;
    },
  };
}

/** A graph's structure as text: equal for graphs that need the same kernels, whatever their weights. */
export function structure(roots: readonly Tensor[]): { key: string; leaves: Data[]; states: Param[]; ops: AnyOp[] } {
  const ids = new Map<unknown, number>();
  const leaves: Data[] = []; // each once: two tensors of the same numbers are wired to the same place
  const states: Param[] = [];
  const ops: AnyOp[] = [];
  const lines: string[] = [];
  const line = (t: Tensor): string => {
    const s = t.source;
    switch (s.kind) {
      case 'leaf':
        if (!ids.has(s.data)) ids.set(s.data, leaves.push(s.data) - 1);
        return `l${t.shape} ${ids.get(s.data)}`;
      case 'state':
        states.push(s.param);
        return `s${t.shape}`;
      case 'input':
        return `i${s.name} ${t.shape}${s.fill === null ? '' : JSON.stringify(s.fill)}`;
      case 'view':
        return `v${ids.get(s.of)} ${t.shape}`;
      case 'apply':
        ops.push(s.op);
        return `${s.op.name}${attrsKey(s.op, s.attrs)}${s.ins.map((i) => ids.get(i))} ${t.at.path} ${t.at.phase} ${t.at.copy}`;
      default:
        return s satisfies never;
    }
  };
  for (const t of topological(roots)) {
    const param = paramOf(t);
    const known = param === null ? undefined : ids.get(param);
    if (known === undefined) {
      lines.push(line(t));
      ids.set(t, lines.length);
      if (param !== null) ids.set(param, lines.length);
    } else ids.set(t, known);
  }
  return { key: `${lines.join('\n')}\n=> ${roots.map((r) => ids.get(r))}`, leaves, states, ops };
}

/** The table a parameter gets next. The slot keeps equal values of two parameters apart: each owns its table. */
const nextOp: Op<'x', { slot: number }> = defineOp<'x', { slot: number }>({
  name: 'next',
  inputs: ['x'],
  shape: ({ x }) => x,
  flops: () => 0,
  kernel: { kind: 'map', expr: 'x' },
  vjp: () => ({ x: null }),
});
export function nextValue(p: Param, x: Tensor, slot: number): Tensor {
  if (!same(p.shape, x.shape))
    throw new ShapeError(`next: a parameter of shape ${show(p.shape)} cannot become ${show(x.shape)} (${place(x.at)})`, '');
  return nextOp({ x }, { slot }, x.at);
}

/** Binds a program to a device and a store. */
export async function compile<H, O extends string>(
  device: Device<H>,
  store: DeviceStore<H>,
  leafOn: (d: Data, rows: number, cols: number, bytes: boolean) => Promise<H>,
  cache: Cache<H>,
  program: Program<O>,
): Promise<Plan<O>> {
  const started = performance.now();
  const names = Object.keys(program.outputs) as O[];
  const next = [...(program.next ?? [])];
  const taps = (program.taps ?? []).map((path) => [path, lastIn(Object.values(program.outputs), path)] as const);
  // A next value is always a fresh table: a parameter never shares one with an input or another parameter.
  const roots = [...names.map((k) => program.outputs[k]), ...taps.map(([, t]) => t), ...next.map(([p, t], slot) => nextValue(p, t, slot))];
  const { key, leaves, states, ops } = structure(roots);
  const known = cache.get(key);
  const hit = known?.ops.every((op, k) => op === ops[k]) ? known : undefined; // two ops may have one name
  const own = hit ?? (await build(device, roots, leaves, states, ops));
  for (const { at, bound } of own.leaves) if (bound !== null) checkBound(leaves[at]!, bound, 'a leaf');
  if (hit === undefined) cache.set(key, own);
  const { executable } = own;
  const milliseconds = performance.now() - started;

  /** Uploads the inputs and gathers every table the kernels read from outside. */
  const bind = async (feed: Feed, seed: number): Promise<{ read: (r: Ref) => H; release: () => void }> => {
    const extra = Object.keys(feed).find((k) => !own.inputs.some((i) => i.name === k));
    if (extra !== undefined) {
      const reads = own.inputs.map((i) => i.name).join(', ') || 'nothing';
      throw new RangeError(`plan: fed ${extra}, which this plan does not read; it reads ${reads}`);
    }
    const values = own.inputs.map((spec) => valueFor(spec, feed, seed)); // checked before anything is uploaded
    const upload = (data: Data, shape: Shape): Promise<H> => device.upload(data, table(shape).rows, table(shape).cols);
    const inputs = await Promise.all(own.inputs.map((spec, k) => upload(values[k]!, spec.shape)));
    const slots = await Promise.all(own.states.map((k) => store.slot(states[k]!)));
    const fixed = await Promise.all(own.leaves.map((l) => leafOn(leaves[l.at]!, table(l.shape).rows, table(l.shape).cols, l.bytes)));
    const outside: Record<Ref['kind'], readonly H[]> = { input: inputs, state: slots, leaf: fixed, step: [] };
    return {
      read: (r) => outside[r.kind][r.index]!,
      release: () => {
        for (const h of inputs) device.free(h);
      },
    };
  };

  return {
    get report() {
      const { executor, fallback } = executable; // some engines decide when they first run
      return { kernels: own.kernels, cached: hit !== undefined, executor, fallback, milliseconds };
    },
    run: (feed = {}, seed = 0) =>
      store.turn(async () => {
        const { read, release } = await bind(feed, seed);
        try {
          const handles = await executable.run(read);
          const get = async (k: number): Promise<Numbers> => {
            const { rows, cols } = table(roots[k]!.shape);
            return device.download(handles[k]!, rows, cols);
          };
          const owned = new Set(own.roots.flatMap((r, k) => (r.kind === 'step' ? [handles[k]!] : [])));
          const outputs: Partial<Record<O, Numbers>> = {};
          for (const [k, name] of names.entries()) outputs[name] = await get(k);
          const tapped: Record<string, Numbers> = {};
          for (const [k, [path]] of taps.entries()) tapped[path] = await get(names.length + k);
          const guard = program.guard === undefined ? 0 : (outputs[program.guard]?.[0] ?? Number.NaN);
          if (Number.isFinite(guard))
            for (const [k, [p]] of next.entries()) {
              const h = handles[names.length + taps.length + k]!;
              owned.delete(h);
              store.put(p, h);
            }
          for (const h of owned) device.free(h);
          return Object.assign(outputs as Record<O, Numbers>, { taps: tapped });
        } finally {
          release();
        }
      }),
    async diagnose(feed = {}, seed = 0) {
      // Inputs before users: the first bad value has none among what it reads. A few at a time, so that not all are kept at once.
      const every = topological(lower(roots)).filter((t) => t.source.kind === 'apply' && t.at.phase !== 'update');
      for (let k = 0; k < every.length; k += PROBED) {
        const some = every.slice(k, k + PROBED);
        const outputs = Object.fromEntries(some.map((t, n) => [`t${n}`, t]));
        const probe = await compile(device, store, leafOn, lru<H>(1), { outputs });
        const names = new Set(topological(some).flatMap((t) => (t.source.kind === 'input' ? [t.source.name] : [])));
        const got = await probe.run(Object.fromEntries(Object.entries(feed).filter(([name]) => names.has(name))), seed);
        for (const [n, t] of some.entries()) {
          const bad = got[`t${n}`]!.findIndex((v) => !Number.isFinite(v));
          if (bad >= 0) return `${describe(t)}: element ${bad} of ${show(t.shape)} is ${got[`t${n}`]![bad]}`;
        }
      }
      return null;
    },
  };
}

/** Values that diagnose looks at in one run. */
const PROBED = 64;
const describe = (t: Tensor): string => `${t.source.kind === 'apply' ? t.source.op.name : t.source.kind} ${place(t.at)} (${t.at.phase})`;

/** Where the graph first shows a value. An op's composition may only use its operands: their numbers are what a plan binds. */
function indexIn<T>(all: readonly T[], one: T): number {
  const k = all.indexOf(one);
  if (k < 0) throw new Error('plan: a composite op made a leaf or parameter of its own; hand it in as an operand');
  return k;
}

async function build<H>(
  device: Device<H>,
  roots: readonly Tensor[],
  leaves: readonly Data[],
  states: readonly Param[],
  ops: readonly AnyOp[],
): Promise<Compiled<H>> {
  const s = schedule(roots, device.opening);
  return {
    executable: await device.prepare(s),
    kernels: s.steps.length,
    inputs: s.inputs,
    roots: s.roots,
    leaves: s.leaves.map((l) => ({ shape: l.shape, at: indexIn(leaves, l.data), bound: l.bound, bytes: l.bytes })),
    states: s.states.map((p) => indexIn(states, p)),
    ops,
  };
}

/** The last tensor a layer wrote in the forward pass. */
function lastIn(roots: readonly Tensor[], path: string): Tensor {
  const found = topological(roots).findLast((t) => t.at.path === path && t.at.phase === 'forward');
  if (found === undefined)
    throw new RangeError(`taps: nothing was computed in ${path}; a tap is the path of a layer, such as blocks.0.mlp`);
  return found;
}

/** The numbers an input gets in this run, checked. */
function valueFor(spec: InputSpec, feed: Feed, seed: number): Data {
  const v = feed[spec.name];
  const n = size(spec.shape);
  if (v === undefined) {
    if (spec.fill === null) throw new RangeError(`plan: input ${spec.name} ${show(spec.shape)} was not fed`);
    const r = rng(seed).split(spec.name);
    switch (spec.fill.dist) {
      case 'bernoulli':
        return r.bernoulli(n, spec.fill.keep);
      case 'uniform':
        return r.uniform(n);
      case 'normal':
        return r.normal(n);
      default:
        return spec.fill satisfies never;
    }
  }
  const data = typeof v === 'number' ? Float64Array.of(v) : ArrayBuffer.isView(v) ? v : Float64Array.from(v);
  if (data.length !== n)
    throw new RangeError(`plan: input ${spec.name} has shape ${show(spec.shape)} and needs ${n} numbers, got ${data.length}`);
  if (spec.bound !== null) checkBound(data, spec.bound, `input ${spec.name}`);
  return data;
}

function checkBound(data: Data | readonly number[], { low, high, reader }: Bound, what: string): void {
  const bad = data.findIndex((x) => !(x >= low && x < high && Number.isInteger(x)));
  if (bad >= 0) throw new RangeError(`plan: ${what}[${bad}] is ${data[bad]}, but ${reader} needs whole numbers from ${low} to ${high - 1}`);
}
