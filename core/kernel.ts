// What an op computes, as text: an expression for every element (map), a body for every element (custom), a rule that other kernels
// may use for any one element (element), or other ops (composite). The text is JavaScript in the subset gpu.js compiles, and the float64 engine runs the very same text.
import { type AnyOp, type Ins, type Shapes, zip } from './op.ts';
import { here, place } from './scope.ts';
import { dim, type Shape, same, size, table } from './shape.ts';
import type { Tensor } from './tensor.ts';

export type Kernel<K extends string, A> =
  | { readonly kind: 'map'; readonly expr: string | ((attrs: A) => string); readonly helpers?: readonly string[] }
  | { readonly kind: 'custom'; readonly body: (b: Body<K, A>) => string }
  | { readonly kind: 'element'; readonly value: (e: Element<K, A>, i: readonly string[], name: string) => Lookup }
  | { readonly kind: 'composite'; readonly of: (ins: Ins<K>, attrs: A) => Tensor }
  | { readonly kind: 'native' }; // no text: an engine's own op, which only its own lowering writes down

/** What a custom kernel's text may mention. Coordinates are expressions; the last one is the column. */
export interface Body<K extends string, A> {
  readonly out: Shape;
  readonly shapes: Shapes<K>;
  readonly attrs: A;
  readonly i: readonly string[]; // this element's coordinates, one per dimension of `out`
  at(input: K, coordinates: readonly string[]): string; // read one element of an input
  /**
   * The same where the input may be computed in place (an op's `inline`): lines that must run first, which see the coordinates, and the
   * value. Names in them begin with `name`.
   */
  read(input: K, coordinates: readonly string[], name: string): Lookup;
}
export interface Lookup {
  readonly before: string;
  readonly value: string;
}
/** What the rule for one element may mention. */
export interface Element<K extends string, A> {
  readonly shapes: Shapes<K>;
  readonly attrs: A;
  at(input: K, coordinates: readonly string[]): string;
}

export const X = 'this.thread.x';
export const Y = 'this.thread.y';

/** Integer division inside a kernel: gpu.js divides in float32, so the half keeps the floor exact (DESIGN §2.8). */
export const idiv = (i: string, n: number): string => (n === 1 ? i : `Math.floor((${i} + 0.5) / ${n})`);

/** A number as kernel source. Throws on NaN and infinities, which gpu.js rewrites. */
export function num(v: number): string {
  if (!Number.isFinite(v))
    throw new RangeError(`a kernel cannot hold ${v} (${place(here())}): gpu.js has no NaN and no infinities; use ±1e9 to mask, or feed it`);
  return v < 0 || Object.is(v, -0) ? `(${v})` : String(v);
}
/** A number as kernel source that no compiler takes for an integer. */
export const float = (v: number): string => (/[.e]/.test(num(v)) ? num(v) : Number.isInteger(v) ? `${v}.0` : num(v));

const coordinate = (k: number): string => `i${k}`;

/** Coordinates of the element this thread computes, as names; `declare` writes the lines that define those in use. */
function coordinates(out: Shape): { i: string[]; declare: (body: string) => string } {
  const n = out.length;
  const i = Array.from({ length: n }, (_, k) => (k === n - 1 ? X : n === 2 ? Y : coordinate(k)));
  const declare = (body: string): string => {
    const used = (k: number): boolean => new RegExp(`\\b${coordinate(k)}\\b`).test(body);
    const lowest = i.findIndex((_, k) => k < n - 1 && used(k));
    if (n <= 2 || lowest < 0) return '';
    const lines: string[] = [];
    let rest = Y;
    for (let k = n - 2; k > lowest; k--) {
      lines.push(`const q${k} = ${idiv(rest, out[k]!)};`, `const ${coordinate(k)} = ${rest} - q${k} * ${out[k]};`);
      rest = `q${k}`;
    }
    lines.push(`const ${coordinate(lowest)} = ${lowest === 0 ? rest : `${rest} - ${idiv(rest, out[lowest]!)} * ${out[lowest]}`};`);
    return `${lines.join('\n  ')}\n  `;
  };
  return { i, declare };
}

/** `name[row][col]` of the element at `c`. Whole runs of the thread's own coordinates collapse to `this.thread.y`. */
function element(name: string, shape: Shape, c: readonly string[], out: Shape, i: readonly string[]): string {
  const n = shape.length;
  if (n === 0) return `${name}[0][0]`;
  const col = c[n - 1]!;
  const lead = c.slice(0, n - 1);
  if (n === out.length && lead.every((e, k) => e === i[k]) && same(shape.slice(0, -1), out.slice(0, -1)))
    return `${name}[${n === 1 ? '0' : Y}][${col}]`;
  const terms = lead.flatMap((e, k) => {
    if (e === '0' || shape[k] === 1) return [];
    const stride = size(shape.slice(k + 1, n - 1));
    return [stride === 1 ? e : `${e.match(/^[\w.]+$/) ? e : `(${e})`} * ${stride}`];
  });
  return `${name}[${terms.length === 0 ? '0' : terms.join(' + ')}][${col}]`;
}

/** Reads an operand of a map at this thread's place, with the operand broadcast to `out`. */
function broadcastRead(name: string, shape: Shape, out: Shape, i: readonly string[]): string {
  const { rows, cols } = table(shape);
  const col = cols === 1 ? '0' : X;
  if (rows === 1) return `${name}[0][${col}]`;
  if (same(shape.slice(0, -1), out.slice(0, -1))) return `${name}[${Y}][${col}]`;
  const shift = out.length - shape.length;
  const c = shape.map((n, k) => (n === 1 ? '0' : i[k + shift]!));
  const lead = shape.slice(0, -1);
  const full = lead.every((n, k) => n === out[k + shift]); // a suffix of the rows: y mod its length
  if (full && shift > 0) return `${name}[${Y} - ${idiv(Y, rows)} * ${rows}][${col}]`;
  return element(name, shape, [...c.slice(0, -1), col], out, i);
}

/** One kernel ready to run: source text, helper functions, and the table it fills. */
export interface Source {
  readonly text: string;
  readonly helpers: readonly string[];
  readonly cols: number;
  readonly rows: number;
}

/** A step of a fused map: an expression over earlier values. */
export interface MapStep {
  readonly name: string; // of the op
  readonly attrs: unknown;
  readonly expr: string;
  readonly inputs: readonly string[];
  readonly values: readonly (number | { read: number })[];
}

/** Prints a chain of maps as one kernel. `reads[j]` is the shape of operand `j`; each is loaded once. */
export function printMap(out: Shape, reads: readonly Shape[], steps: readonly MapStep[], helpers: readonly string[]): Source {
  const { i, declare } = coordinates(out);
  const loads = reads.map((s, j) => `const r${j} = ${broadcastRead(`a${j}`, s, out, i)};`);
  const lines = steps.map((s, k) => {
    const names = new Map(
      s.inputs.map((name, j) => {
        const v = s.values[j]!;
        return [name, typeof v === 'number' ? `v${v}` : `r${v.read}`];
      }),
    );
    const expr = s.expr.replace(/(?<![\w.])[A-Za-z_]\w*/g, (w) => names.get(w) ?? w);
    return k === steps.length - 1 ? `return ${expr};` : `const v${k} = ${expr};`;
  });
  const body = [...loads, ...lines].join('\n  ');
  return { ...table(out), helpers, text: `function (${reads.map((_, j) => `a${j}`).join(', ')}) {\n  ${declare(body)}${body}\n}` };
}

/** An operand that a kernel computes in place, element by element, from operands of its own. */
export interface Inlined {
  readonly op: AnyOp; // with a kernel of kind element
  readonly attrs: unknown;
  readonly shapes: readonly Shape[];
  readonly names: readonly string[]; // of its operands
}

/** Prints the kernel of a custom or element op: operand `k` is a parameter of that name, or computed in place. */
export function printBody(
  { inputs, kernel }: AnyOp,
  shapes: readonly Shape[],
  out: Shape,
  attrs: unknown,
  operands: readonly (string | Inlined)[],
): Source {
  const { i, declare } = coordinates(out);
  const at = (k: string, c: readonly string[]): string => {
    const o = operands[inputs.indexOf(k)]!;
    if (typeof o !== 'string') throw new Error(`unreachable: operand ${k} is computed in place; the kernel must use read`);
    return element(o, shapes[inputs.indexOf(k)]!, c, out, i);
  };
  const read = (k: string, c: readonly string[], name: string): Lookup => {
    const o = operands[inputs.indexOf(k)]!;
    return typeof o === 'string' ? { before: '', value: at(k, c) } : inPlace(o, c, name);
  };
  const inPlace = (o: Inlined, c: readonly string[], name: string): Lookup => {
    if (o.op.kernel.kind !== 'element') throw new Error(`unreachable: ${o.op.name} has no rule for one element`);
    const where = (k: string): number => o.op.inputs.indexOf(k);
    return o.op.kernel.value(
      {
        shapes: zip(o.op.inputs, o.shapes),
        attrs: o.attrs,
        at: (k, cs) => element(o.names[where(k)]!, o.shapes[where(k)]!, cs, out, i),
      },
      c,
      name,
    );
  };
  const named = zip(inputs, shapes);
  const lines = (): string => {
    if (kernel.kind === 'custom') return kernel.body({ out, shapes: named, attrs, i, at, read });
    if (kernel.kind !== 'element') throw new Error('unreachable: only custom and element kernels have bodies');
    const { before, value } = kernel.value({ shapes: named, attrs, at }, i, 'e');
    return `${before}\n  return ${value};`;
  };
  const body = lines();
  const names = operands.flatMap((o) => (typeof o === 'string' ? [o] : o.names));
  return { ...table(out), helpers: [], text: `function (${names.join(', ')}) {\n  ${declare(body)}${body}\n}` };
}

/** Nested loops over dimensions; `body` sees the loop variables. For reductions. */
export const loops = (dims: readonly (readonly [variable: string, length: number])[], body: string): string =>
  dims.reduceRight((inner, [v, n]) => `for (let ${v} = 0; ${v} < ${n}; ${v}++) { ${inner} }`, body);

export const lastDim = (s: Shape): number => dim(s, -1);
