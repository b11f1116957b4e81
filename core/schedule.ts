// From a graph to a list of kernels: composites opened, equal subexpressions merged, chains of maps fused, values freed
// after their last use. Knows no engine.
import { fuse, type Kernel, storedAs } from './fuse.ts';
import { checkpointOp } from './grad.ts';
import { type AnyOp, reapply, shapesOf, zip } from './op.ts';
import { place, within } from './scope.ts';
import { type Shape, ShapeError, same, show } from './shape.ts';
import { type Data, type Fill, type Param, Tensor, topological } from './tensor.ts';

/** Where a kernel reads: a frozen leaf, a fed input, a state slot, or the result of an earlier step. */
export type Ref = { readonly kind: 'leaf' | 'input' | 'state' | 'step'; readonly index: number };

export interface Step {
  readonly node: Tensor; // what it computes
  readonly kernel: Kernel;
  readonly args: readonly Ref[];
  readonly free: readonly number[]; // steps whose values nobody reads after this one
}
/** Legal index values low ≤ v < high, and the op that reads them. */
export interface Bound {
  readonly low: number;
  readonly high: number;
  readonly reader: string;
}
export interface InputSpec {
  readonly name: string;
  readonly shape: Shape;
  readonly fill: Fill | null;
  readonly bound: Bound | null;
}
export interface Leaf {
  readonly data: Data;
  readonly shape: Shape;
  readonly bound: Bound | null;
  /** Whether its readers want bytes, not numbers. */
  readonly bytes: boolean;
}
export interface Schedule {
  readonly steps: readonly Step[];
  readonly leaves: readonly Leaf[];
  readonly inputs: readonly InputSpec[];
  readonly states: readonly Param[];
  readonly roots: readonly Ref[];
}

/** Attributes as text. They are plain data: what JSON cannot tell apart would be merged. */
export const attrsKey = (op: AnyOp, attrs: unknown): string =>
  op === checkpointOp || attrs === null || attrs === undefined
    ? ''
    : JSON.stringify(attrs, (name, v: unknown) => {
        if (typeof v === 'function' || v instanceof Tensor || v instanceof Map || v instanceof Set)
          throw new Error(`op ${op.name}: attribute ${name} must be plain data (numbers, texts, lists of them); make it an operand`);
        return typeof v === 'number' && !Number.isFinite(v) ? String(v) : v;
      });

/** Steps whose results belong to the caller: they stay. */
export const rootSteps = (s: Schedule): ReadonlySet<number> => new Set(s.roots.flatMap((r) => (r.kind === 'step' ? [r.index] : [])));

/** By step: what its result is a part of where an engine only points into that, without work or memory. Never a part of a part. */
export type Parts = ReadonlyMap<number, { readonly ref: Ref }>;
/** Where a value lies: itself, or what it is a part of. */
export const heldBy = (r: Ref, parts: Parts): Ref => (r.kind === 'step' ? (parts.get(r.index)?.ref ?? r) : r);

/** An engine's own way to compute an op, as a recipe over the same operands; null where it has none. */
export type Opening = (op: AnyOp, ins: readonly Tensor[], attrs: unknown) => Tensor | null;

/** Opens composites (first as the engine would) and merges equal subexpressions; answers one canonical tensor per root. */
export function lower(roots: readonly Tensor[], opening: Opening | null = null): Tensor[] {
  const canonical = new Map<Tensor, Tensor>();
  const byKey = new Map<string, Tensor>();
  const ids = new Map<Tensor | AnyOp, number>(); // ops by identity: two may have one name
  const params = new Map<Param, Tensor>();
  const inputs = new Map<string, Tensor>();
  const id = (t: Tensor | AnyOp): number => {
    const k = ids.get(t) ?? ids.size;
    ids.set(t, k);
    return k;
  };
  const unique = (key: string, make: () => Tensor): Tensor => {
    const t = byKey.get(key) ?? make();
    byKey.set(key, t);
    return t;
  };
  const once = <K>(map: Map<K, Tensor>, key: K, t: Tensor): Tensor => {
    const first = map.get(key) ?? t;
    map.set(key, first);
    return first;
  };

  const one = (t: Tensor): Tensor => {
    const s = t.source;
    switch (s.kind) {
      case 'leaf':
        return t;
      case 'state':
        return once(params, s.param, t);
      case 'input': {
        const first = once(inputs, s.name, t);
        if (first.source.kind === 'input' && JSON.stringify(first.source.fill) !== JSON.stringify(s.fill))
          throw new Error(`input ${s.name} is used with two ways to fill it; give the inputs different names`);
        if (!same(first.shape, t.shape))
          throw new ShapeError(
            `input ${s.name} is used with two shapes, ${show(first.shape)} and ${show(t.shape)}; give the inputs different names`,
            '',
          );
        return first;
      }
      case 'view': {
        const of = canonical.get(s.of)!;
        const base = of.source.kind === 'view' ? of.source.of : of;
        return same(base.shape, t.shape)
          ? base
          : unique(`view ${id(base)} ${t.shape}`, () => new Tensor(t.shape, { kind: 'view', of: base }, t.at));
      }
      case 'apply': {
        const { op, attrs } = s;
        const ins = s.ins.map((i) => canonical.get(i)!);
        if (op === checkpointOp) return ins[0]!;
        const own = opening === null ? null : within(t.at, () => opening(op, ins, attrs));
        if (own !== null) return walk(own);
        if (op.kernel.kind === 'composite') {
          const { of } = op.kernel;
          return walk(within(t.at, () => of(zip(op.inputs, ins), attrs)));
        }
        return unique(`${id(op)} ${attrsKey(op, attrs)} ${ins.map(id)} ${t.at.copy}`, () => reapply(op, ins, attrs, t.at));
      }
      default:
        return s satisfies never;
    }
  };
  const done = new Set<Tensor>(); // canonical tensors stand for themselves
  const walk = (root: Tensor): Tensor => {
    for (const t of topological([root], done)) {
      if (canonical.has(t)) continue;
      const c = one(t);
      canonical.set(t, c);
      canonical.set(c, c);
      done.add(t).add(c);
    }
    return canonical.get(root)!;
  };
  return roots.map(walk);
}

/** Everything an engine needs to compute `roots`. */
export function schedule(roots: readonly Tensor[], opening: Opening | null = null): Schedule {
  const lowered = lower(roots, opening);
  const fused = fuse(lowered);
  const leaves: Leaf[] = [];
  const inputs: InputSpec[] = [];
  const states: Param[] = [];
  const refs = new Map<Tensor, Ref>();
  const packed = new Map<Tensor, Ref>(); // leaves as bytes: the same leaf may be read as numbers elsewhere
  const ranges = indexRanges([...roots, ...lowered]);
  const ref = (of: Tensor): Ref => {
    const t = storedAs(of);
    const known = refs.get(t);
    if (known !== undefined) return known;
    const s = t.source;
    let r: Ref;
    if (s.kind === 'leaf')
      r = { kind: 'leaf', index: leaves.push({ data: s.data, shape: t.shape, bound: ranges.get(s.data) ?? null, bytes: false }) - 1 };
    else if (s.kind === 'input')
      r = { kind: 'input', index: inputs.push({ name: s.name, shape: t.shape, fill: s.fill, bound: ranges.get(s.name) ?? null }) - 1 };
    else if (s.kind === 'state') r = { kind: 'state', index: states.push(s.param) - 1 };
    else throw new Error('unreachable: a step reads a value before it is computed');
    refs.set(t, r);
    return r;
  };
  const bytesRef = (t: Tensor): Ref => {
    const known = packed.get(t);
    if (known !== undefined) return known;
    const s = t.source;
    if (s.kind !== 'leaf' || s.data.BYTES_PER_ELEMENT !== 1)
      throw new Error(`codes must be a frozen Uint8Array or Int8Array, got ${t}; pack with leaf(bytes, shape)`);
    const r: Ref = { kind: 'leaf', index: leaves.push({ data: s.data, shape: t.shape, bound: null, bytes: true }) - 1 };
    packed.set(t, r);
    return r;
  };
  const steps = fused.map(({ node, kernel, reads, bytes }, index) => {
    const args = reads.map((t, k) => (bytes[k] ? bytesRef(t) : ref(t)));
    refs.set(node, { kind: 'step', index });
    return { kernel, args, node };
  });
  const rootRefs = lowered.map(ref);
  const free = lastReads(
    steps.map((s) => s.args),
    rootRefs,
  );
  return { steps: steps.map((s, k) => ({ ...s, free: free.get(k) ?? [] })), leaves, inputs, states, roots: rootRefs };
}

/** After each step, the step values nobody reads any more, neither themselves nor a part of them. */
export function lastReads(args: readonly (readonly Ref[])[], roots: readonly Ref[], parts: Parts = new Map()): Map<number, number[]> {
  const last = new Map<number, number>();
  for (const [k, refs] of args.entries()) {
    if (!parts.has(k)) last.set(k, k);
    for (const read of refs) {
      const r = heldBy(read, parts);
      if (r.kind === 'step') last.set(r.index, k);
    }
  }
  for (const r of roots) if (r.kind === 'step') last.delete(r.index);
  const free = new Map<number, number[]>();
  for (const [value, k] of last) free.set(k, [...(free.get(k) ?? []), value]);
  return free;
}

/** For inputs (by name) and leaves (by data) used as indices: what they may hold, and who says so. */
function indexRanges(roots: readonly Tensor[]): Map<string | Data, Bound> {
  const bounds = new Map<string | Data, Bound>();
  for (const { source: s, at } of topological(roots)) {
    if (s.kind !== 'apply' || s.op.range === undefined) continue;
    for (const [k, range] of Object.entries(s.op.range(shapesOf(s.op.inputs, s.ins), s.attrs))) {
      const from = s.ins[s.op.inputs.indexOf(k)]!;
      const base = from.source.kind === 'view' ? from.source.of : from;
      if (range === undefined || (base.source.kind !== 'input' && base.source.kind !== 'leaf')) continue;
      const key = base.source.kind === 'input' ? base.source.name : base.source.data;
      const known = bounds.get(key);
      const [low, high] = [Math.max(range[0], known?.low ?? -Infinity), Math.min(range[1], known?.high ?? Infinity)];
      bounds.set(key, { low, high, reader: high === known?.high ? known.reader : `${s.op.name} ${place(at)}` });
    }
  }
  return bounds;
}
