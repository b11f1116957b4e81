// What a program costs, counted from its schedule: kernels, operations, bytes moved, bytes kept for backward. Runs nothing.

import { nextValue, type Program } from './plan.ts';
import { heldBy, lastReads, type Opening, type Parts, type Ref, rootSteps, type Schedule, schedule } from './schedule.ts';
import type { Phase } from './scope.ts';
import { size } from './shape.ts';
import { type Data, type Param, Tensor } from './tensor.ts';

/** Engines hold every number as a float32, but for packed leaves, which stay bytes. */
const FLOAT = 4;

export interface Cost {
  readonly kernels: number;
  readonly flops: number;
  /** Bytes of operands, each counted once per kernel: the least traffic a kernel can have with an ideal cache. */
  readonly read: number;
  readonly written: number;
  /** Bytes that wait for backward: values of forward kernels that a backward kernel reads. Weights and inputs do not count. */
  readonly saved: number;
}
/** The kernels of one layer in one phase. A fused kernel belongs to the layer of its last operation. */
export interface Line extends Cost {
  readonly path: string;
  readonly phase: Phase;
}
export interface Account {
  readonly lines: readonly Line[];
  readonly phases: Readonly<Record<Phase, Cost>>;
  readonly total: Cost;
  /** Most bytes of intermediate values alive at once, when each is given back after its last reader. */
  readonly peak: number;
  /** Bytes of what stays: outputs, and the next values of states. */
  readonly results: number;
  /** Frozen numbers: bytes as the host holds them (packed leaves are small), and on the device, where all else is float32. */
  readonly leaves: { readonly host: number; readonly device: number };
  readonly inputs: number;
  /** Bytes of parameters the program reads: those trained, and everything else in the store (moments, buffers). */
  readonly trained: number;
  readonly optimizer: number;
}

/** The recipes that running a program computes; a list of recipes stands for itself. */
export const rootsOf = (p: Program | readonly Tensor[] | Tensor): readonly Tensor[] => {
  if (p instanceof Tensor) return [p];
  if (!('outputs' in p)) return p;
  const next = [...(p.next ?? new Map<Param, Tensor>())];
  return [...Object.values<Tensor>(p.outputs), ...next.map(([q, t], slot) => nextValue(q, t, slot))];
};

/**
 * Counts a program (or recipes) as an engine would run it: composites opened, equal parts merged, maps fused. `params` are
 * those being trained (`trainable(model).keys()`); states that `next` rewrites besides them are the optimizer's. With an engine's
 * `opening` and `parts` (`...asSimd` of core/simd/assemble.ts), as that engine would run it.
 */
export function account(
  p: Program | readonly Tensor[] | Tensor,
  {
    params = [],
    opening = null,
    parts: partsOf = () => new Map(),
  }: { readonly params?: Iterable<Param>; readonly opening?: Opening | null; readonly parts?: (s: Schedule) => Parts } = {},
): Account {
  const s = schedule(rootsOf(p), opening);
  const parts = partsOf(s);
  const keeps = savedSteps(s, parts);
  const lines = new Map<string, Line>();
  for (const [k, { node, kernel, args }] of s.steps.entries()) {
    if (parts.has(k)) continue;
    const { path, phase } = node.at;
    const bytes = FLOAT * size(node.shape);
    const cost: Cost = {
      kernels: 1,
      flops: kernel.flops,
      read: distinct(args).reduce((n, r) => n + bytesOf(s, r), 0),
      written: bytes,
      saved: keeps.has(k) ? bytes : 0,
    };
    const key = `${phase} ${path}`;
    lines.set(key, { path, phase, ...plus(lines.get(key) ?? nothing, cost) });
  }
  const all = [...lines.values()];
  const of = (phase: Phase): Cost => all.filter((l) => l.phase === phase).reduce(plus, nothing);
  const trained = new Set(params);
  const changed = !(p instanceof Tensor) && 'outputs' in p ? [...(p.next?.keys() ?? [])] : [];
  const held = (ps: Iterable<Param>): number => [...ps].reduce((n, q) => n + FLOAT * size(q.shape), 0);
  const data = new Set(s.leaves.map((l) => l.data)); // a leaf under two shapes is one array
  const stored = new Map(s.leaves.map((l) => [`${l.bytes}`, new Map<Data, number>()]));
  for (const l of s.leaves) stored.get(`${l.bytes}`)!.set(l.data, l.bytes ? l.data.byteLength : FLOAT * l.data.length);
  return {
    lines: all,
    phases: { forward: of('forward'), backward: of('backward'), update: of('update') },
    total: all.reduce(plus, nothing),
    peak: peakOf(s, parts),
    results: [...rootSteps(s)].reduce((n, k) => n + FLOAT * size(s.steps[k]!.node.shape), 0),
    leaves: {
      host: [...data].reduce((n, d) => n + d.byteLength, 0),
      device: [...stored.values()].reduce((n, m) => n + [...m.values()].reduce((k, b) => k + b, 0), 0),
    },
    inputs: s.inputs.reduce((n, i) => n + FLOAT * size(i.shape), 0),
    trained: held(trained),
    optimizer: held(changed.filter((q) => !trained.has(q))),
  };
}

const nothing: Cost = { kernels: 0, flops: 0, read: 0, written: 0, saved: 0 };
const plus = (a: Cost, b: Cost): Cost => ({
  kernels: a.kernels + b.kernels,
  flops: a.flops + b.flops,
  read: a.read + b.read,
  written: a.written + b.written,
  saved: a.saved + b.saved,
});
const distinct = (refs: readonly Ref[]): readonly Ref[] => [...new Map(refs.map((r) => [`${r.kind} ${r.index}`, r])).values()];

/** Bytes of what a kernel reads; all of it, however few rows it picks. */
function bytesOf(s: Schedule, { kind, index }: Ref): number {
  switch (kind) {
    case 'step':
      return FLOAT * size(s.steps[index]!.node.shape);
    case 'leaf':
      return (s.leaves[index]!.bytes ? 1 : FLOAT) * size(s.leaves[index]!.shape);
    case 'input':
      return FLOAT * size(s.inputs[index]!.shape);
    case 'state':
      return FLOAT * size(s.states[index]!.shape);
    default:
      return kind satisfies never;
  }
}

/** Forward steps whose value, or a part of it, some backward step reads. */
export function savedSteps(s: Schedule, parts: Parts = new Map()): ReadonlySet<number> {
  const phase = (k: number): Phase => s.steps[k]!.node.at.phase;
  const saved = new Set<number>();
  for (const [k, { args }] of s.steps.entries())
    if (phase(k) === 'backward' && !parts.has(k))
      for (const r of args.map((a) => heldBy(a, parts))) if (r.kind === 'step' && phase(r.index) === 'forward') saved.add(r.index);
  return saved;
}

function peakOf(s: Schedule, parts: Parts): number {
  const stays = rootSteps(s);
  const reads = s.steps.map(({ args }) => args);
  const free = lastReads(reads, s.roots, parts);
  let live = 0;
  let peak = 0;
  for (const [step, { node }] of s.steps.entries()) {
    if (!parts.has(step) && !stays.has(step)) live += FLOAT * size(node.shape);
    peak = Math.max(peak, live);
    for (const k of free.get(step) ?? []) live -= FLOAT * size(s.steps[k]!.node.shape);
  }
  return peak;
}

const UNITS = ['', 'k', 'M', 'G', 'T', 'P'] as const;
/** A count with three digits and a unit: 1.23 M. */
export function short(n: number, unit = ''): string {
  const step = n < 1000 ? 0 : Math.min(UNITS.length - 1, Math.floor(Math.log10(n) / 3));
  const v = n / 1000 ** step;
  return `${step === 0 ? String(v) : v.toPrecision(3)} ${UNITS[step]}${unit}`.trimEnd();
}

/** An account as a table of text; `depth` joins layers that agree in so many parts of their path (all parts by default). */
export function formatAccount(a: Account, depth = Number.POSITIVE_INFINITY): string {
  const joined = new Map<string, Line>();
  for (const l of a.lines) {
    const path = l.path.split('.').slice(0, depth).join('.');
    const key = `${l.phase} ${path}`;
    joined.set(key, { path, phase: l.phase, ...plus(joined.get(key) ?? nothing, l) });
  }
  const row = (name: string, phase: string, c: Cost): string[] => [
    name === '' ? '·' : name,
    phase,
    String(c.kernels),
    short(c.flops),
    short(c.read, 'B'),
    short(c.written, 'B'),
    short(c.saved, 'B'),
  ];
  const phases = (['forward', 'backward', 'update'] as const).filter((p) => a.phases[p].kernels > 0);
  const rows = [
    ['layer', 'phase', 'kernels', 'FLOP', 'read', 'written', 'saved'],
    ...[...joined.values()].map((l) => row(l.path, l.phase, l)),
    ...phases.map((p) => row('all', p, a.phases[p])),
    row('all', 'all', a.total),
  ];
  const widths = rows[0]!.map((_, k) => Math.max(...rows.map((r) => r[k]!.length)));
  const line = (r: readonly string[]): string =>
    r
      .map((cell, k) => (k < 2 ? cell.padEnd(widths[k]!) : cell.padStart(widths[k]!)))
      .join('  ')
      .trimEnd();
  return [
    ...rows.map(line),
    `intermediate values at most ${short(a.peak, 'B')}, results ${short(a.results, 'B')}; frozen ${short(a.leaves.device, 'B')} on the device (${short(a.leaves.host, 'B')} on the host); trained ${short(a.trained, 'B')}; optimizer ${short(a.optimizer, 'B')}`,
  ].join('\n');
}
