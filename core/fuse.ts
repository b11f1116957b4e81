// Which tensors become kernels: a map whose readers all lie in one other map of the same shape is computed inside it, never
// stored.
import { type Inlined, type MapStep, printBody, printMap, type Source } from './kernel.ts';
import { type AnyOp, shapesOf } from './op.ts';
import type { Scope } from './scope.ts';
import { type Shape, same, size, table } from './shape.ts';
import { inputsOf, type Tensor, topological } from './tensor.ts';

/** A kernel and where it came from. `flops` counts every fused op. */
export interface Kernel extends Source {
  readonly name: string;
  readonly at: Scope;
  readonly flops: number;
  /** For maps, the functions computed and the shapes they read: what an engine with its own loops needs. */
  readonly chain: { readonly reads: readonly Shape[]; readonly steps: readonly MapStep[] } | null;
  /** For the others, where each operand is among what the kernel reads; where the operands begin of one that is computed in place. */
  readonly operands: readonly { readonly at: number; readonly inPlace: boolean }[];
}
export interface Fused {
  readonly node: Tensor;
  readonly kernel: Kernel;
  readonly reads: readonly Tensor[];
  /** Of what is read, that which is kept as bytes. */
  readonly bytes: readonly boolean[];
}

/** WebGPU guarantees eight storage buffers per kernel: seven to read, one to write (DESIGN §2.8). */
const MAX_READS = 7;
/** A longer chain is cut: what a kernel then reads and writes is little beside what it computes, and its text stays short. */
const MAX_STEPS = 64;

/** A chain of maps being grown: statements over the tensors it reads. */
interface Chain {
  readonly reads: readonly Tensor[];
  readonly steps: readonly MapStep[];
  readonly names: readonly string[];
  readonly helpers: readonly string[];
  readonly flops: number;
  readonly nodes: ReadonlySet<Tensor>; // computed inside
}

/** A view is its base: the same table. */
export const storedAs = (t: Tensor): Tensor => (t.source.kind === 'view' ? storedAs(t.source.of) : t);

/** The kernels that compute `roots` (already lowered), inputs before users. */
export function fuse(roots: readonly Tensor[]): Fused[] {
  const order = topological(roots);
  const users = new Map<Tensor, Tensor[]>();
  const use = (t: Tensor, by: Tensor): void => void users.set(t, [...(users.get(t) ?? []), by]);
  for (const t of order) for (const i of new Set(inputsOf(t))) use(i, t);
  const asked = new Set(roots.flatMap((r) => [r, storedAs(r)])); // what is asked for is stored

  const chains = new Map<Tensor, Chain>();
  const fused: Fused[] = [];
  for (const t of order) {
    const s = t.source;
    if (s.kind !== 'apply') continue;
    if (s.op.kernel.kind === 'map')
      chains.set(
        t,
        grow(t, s.op, s.ins, s.attrs, chains, (i, into) => !asked.has(i) && users.get(i)!.every((u) => into.has(u))),
      );
    else if (s.op.kernel.kind === 'composite') throw new Error(`unreachable: ${s.op.name} should have been opened`);
  }
  const stored = new Set<Tensor>(roots.map(storedAs)); // walk back from the roots: what is read is stored
  for (const t of order.toReversed()) {
    if (!stored.has(t) || t.source.kind !== 'apply') continue;
    for (const r of chains.get(t)?.reads ?? readsOf(t).map((o) => o.tensor)) stored.add(storedAs(r));
  }
  for (const t of order) {
    const s = t.source;
    if (!stored.has(t) || s.kind !== 'apply') continue;
    if (s.op.kernel.kind === 'native') {
      const flops = s.op.flops?.(shapesOf(s.op.inputs, s.ins), t.shape, s.attrs) ?? size(t.shape);
      fused.push({
        node: t,
        reads: s.ins.map(storedAs),
        bytes: s.ins.map(() => false),
        kernel: { text: '', helpers: [], ...table(t.shape), name: s.op.name, at: t.at, flops, chain: null, operands: [] },
      });
      continue;
    }
    const chain = chains.get(t);
    if (chain !== undefined) {
      const reads = chain.reads.map((r) => r.shape);
      const source = printMap(t.shape, reads, chain.steps, chain.helpers);
      fused.push({
        node: t,
        reads: chain.reads.map(storedAs),
        bytes: chain.reads.map(() => false),
        kernel: {
          ...source,
          name: chain.names.join('+'),
          at: t.at,
          flops: chain.flops,
          chain: { reads, steps: chain.steps },
          operands: [],
        },
      });
    } else fused.push(body(t, s));
  }
  return fused;
}

type Apply = Extract<Tensor['source'], { kind: 'apply' }>;
/** The operand that an op computes in place, when it is one. */
function inPlace({ op, ins }: Apply, k: number): Apply | null {
  const s = ins[k]!.source;
  return s.kind === 'apply' && s.op.kernel.kind === 'element' && op.inline?.includes(op.inputs[k]!) === true ? s : null;
}
/** What a custom or element kernel reads, and whether as bytes. */
function readsOf(t: Tensor): readonly { readonly tensor: Tensor; readonly bytes: boolean }[] {
  if (t.source.kind !== 'apply') return [];
  const own = (s: Apply) => s.ins.map((tensor, k) => ({ tensor, bytes: s.op.bytes?.includes(s.op.inputs[k]!) === true }));
  const s = t.source;
  return own(s).flatMap((o, k) => {
    const inner = inPlace(s, k);
    return inner === null ? [o] : own(inner);
  });
}

/** A custom or element op as a kernel. A packed matrix that it reads is unpacked number by number inside it, and never stored. */
function body(t: Tensor, s: Apply): Fused {
  const shapes = s.ins.map((i) => i.shape);
  const operands: (string | Inlined)[] = [];
  const places: { at: number; inPlace: boolean }[] = [];
  let at = 0;
  for (const k of s.ins.keys()) {
    const inner = inPlace(s, k);
    const names = (inner?.ins ?? [t]).map((_, n) => `a${at + n}`);
    operands.push(inner === null ? names[0]! : { op: inner.op, attrs: inner.attrs, shapes: inner.ins.map((i) => i.shape), names });
    places.push({ at, inPlace: inner !== null });
    at += names.length;
  }
  const reads = readsOf(t);
  const source = printBody(s.op, shapes, t.shape, s.attrs, operands);
  const unpacking = s.ins.reduce((n, i, k) => {
    const inner = inPlace(s, k);
    return inner === null ? n : n + (inner.op.flops?.(shapesOf(inner.op.inputs, inner.ins), i.shape, inner.attrs) ?? size(i.shape));
  }, 0);
  return {
    node: t,
    reads: reads.map((r) => storedAs(r.tensor)),
    bytes: reads.map((r) => r.bytes),
    kernel: {
      ...source,
      name: s.op.name,
      at: t.at,
      flops: unpacking + (s.op.flops?.(shapesOf(s.op.inputs, s.ins), t.shape, s.attrs) ?? size(t.shape)),
      chain: null,
      operands: places,
    },
  };
}

function grow(
  t: Tensor,
  op: AnyOp,
  ins: readonly Tensor[],
  attrs: unknown,
  chains: ReadonlyMap<Tensor, Chain>,
  onlyIn: (t: Tensor, nodes: ReadonlySet<Tensor>) => boolean,
): Chain {
  const kernel = op.kernel;
  if (kernel.kind !== 'map') throw new Error('unreachable: only maps grow chains');
  const reads: Tensor[] = [];
  let steps: MapStep[] = [];
  let helpers: readonly string[] = kernel.helpers ?? [];
  const names: string[] = [];
  let flops = op.flops?.(shapesOf(op.inputs, ins), t.shape, attrs) ?? size(t.shape);
  const readOf = (r: Tensor): number => {
    const known = reads.indexOf(r);
    return known >= 0 ? known : reads.push(r) - 1;
  };
  const inlined = new Map<Tensor, number>();
  const nodes = new Set([t]);
  const alike = (i: Tensor): boolean => same(i.shape, t.shape) && i.at.copy === t.at.copy;
  const values = ins.map((i): number | { read: number } => {
    const already = inlined.get(i);
    if (already !== undefined) return already;
    const inner = chains.get(i);
    // Constants are always computed in place; other maps when this is their only reader and nothing would be stretched.
    const inline = inner !== undefined && ((inner.reads.length === 0 && inner.steps.length === 1) || (alike(i) && onlyIn(i, nodes)));
    if (!inline) return { read: readOf(i) };
    const union = new Set([...reads, ...inner.reads, ...ins.filter((o) => o !== i)]);
    if (union.size > MAX_READS || steps.length + inner.steps.length >= MAX_STEPS) return { read: readOf(i) };
    const [base, place] = [steps.length, inner.reads.map(readOf)];
    steps = [
      ...steps,
      ...inner.steps.map((s) => ({ ...s, values: s.values.map((v) => (typeof v === 'number' ? v + base : { read: place[v.read]! })) })),
    ];
    helpers = [...new Set([...helpers, ...inner.helpers])];
    names.push(...inner.names);
    flops += inner.flops;
    for (const n of inner.nodes) nodes.add(n);
    inlined.set(i, steps.length - 1);
    return steps.length - 1;
  });
  const expr = typeof kernel.expr === 'string' ? kernel.expr : kernel.expr(attrs);
  const own: Chain = {
    reads,
    steps: [...steps, { name: op.name, attrs, expr, inputs: op.inputs, values }],
    names: [...names.filter((n) => n !== 'constant'), op.name],
    helpers,
    flops,
    nodes,
  };
  return absorb(own, (r, into) => (alike(r) && onlyIn(r, into) ? chains.get(r) : undefined));
}

/** Operands that are maps read nowhere but in this chain (twice, say, by a σ(x) and a 1 − σ(x)) are computed in front of it. */
function absorb(c: Chain, inside: (r: Tensor, nodes: ReadonlySet<Tensor>) => Chain | undefined): Chain {
  for (const [k, r] of c.reads.entries()) {
    const inner = inside(r, c.nodes);
    if (inner === undefined) continue;
    const reads = [...new Set([...inner.reads, ...c.reads.filter((o) => o !== r)])];
    if (reads.length > MAX_READS || c.steps.length + inner.steps.length > MAX_STEPS) continue;
    const moved = (s: MapStep, from: readonly Tensor[], shift: number): MapStep => ({
      ...s,
      values: s.values.map((v) => {
        if (typeof v === 'number') return v + shift;
        return shift > 0 && v.read === k ? shift - 1 : { read: reads.indexOf(from[v.read]!) };
      }),
    });
    const steps = [...inner.steps.map((s) => moved(s, inner.reads, 0)), ...c.steps.map((s) => moved(s, c.reads, inner.steps.length))];
    const helpers = [...new Set([...inner.helpers, ...c.helpers])];
    const nodes = new Set([...inner.nodes, ...c.nodes]);
    return absorb({ reads, steps, names: [...inner.names, ...c.names], helpers, flops: c.flops + inner.flops, nodes }, inside);
  }
  return c;
}
