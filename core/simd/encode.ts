// Writes a scheduled step as words the WebAssembly module runs, or answers null for a step it has no kernel for.
import type { Kernel } from '../fuse.ts';
import type { MapStep } from '../kernel.ts';
import { type Form, type Packing, packedParts } from '../ops/unpack.ts';
import type { Step } from '../schedule.ts';
import { dim, type Shape, same, size, table } from '../shape.ts';
import type { Tensor } from '../tensor.ts';
import { nativeCode } from './encodeNative.ts';
import * as code from './opcodes.ts';
import { type Instructions, instruction, OUT, operand, type Word } from './words.ts';

const functions: Readonly<Record<string, number>> = {
  stopGradient: code.IDENTITY,
  next: code.IDENTITY,
  broadcast: code.IDENTITY,
  add: code.ADD,
  sub: code.SUB,
  mul: code.MUL,
  div: code.DIV,
  pow: code.POW,
  min: code.MIN,
  max: code.MAXIMUM,
  eq: code.EQ,
  ne: code.NE,
  lt: code.LT,
  le: code.LE,
  gt: code.GT,
  ge: code.GE,
  neg: code.NEG,
  exp: code.EXP,
  log: code.LOG,
  sqrt: code.SQRT,
  rsqrt: code.RSQRT,
  square: code.SQUARE,
  sin: code.SIN,
  cos: code.COS,
  tanh: code.TANH,
  sigmoid: code.SIGMOID,
  softplus: code.SOFTPLUS,
  abs: code.ABS,
  sign: code.SIGN,
  floor: code.FLOOR,
  relu: code.RELU,
  silu: code.SILU,
  erf: code.ERF,
  gelu: code.GELU,
  geluTanh: code.GELU_TANH,
  geluSlope: code.GELU_SLOPE,
  geluTanhSlope: code.GELU_TANH_SLOPE,
  where: code.WHERE,
};

export function encode(s: Step): Instructions | null {
  const { chain } = s.kernel;
  if (chain !== null) return map(s.node.shape, chain.reads, chain.steps);
  const source = s.node.source;
  if (source.kind !== 'apply') return null;
  const make = natives[source.op.name];
  return make === undefined
    ? null
    : make(
        s.node.shape,
        source.ins.map((t) => t.shape),
        source.attrs as never,
        source.ins,
        s.kernel.operands,
      );
}

function map(out: Shape, reads: readonly Shape[], steps: readonly MapStep[]): Instructions | null {
  if (reads.length + steps.length > code.VALUES) return null;
  const words: Word[] = [];
  for (const st of steps) {
    const values = st.values.map((v) => (typeof v === 'number' ? v + reads.length : v.read));
    if (st.name === 'constant' || st.name === 'full') words.push(code.CONSTANT, { float: (st.attrs as { value: number }).value }, 0, 0);
    else if (functions[st.name] === undefined) return null;
    else words.push(functions[st.name]!, values[0]!, values[1] ?? 0, values[2] ?? 0);
  }
  // Operands that all have the result's shape (or one element) make it one long row.
  const flat = reads.every((r) => size(r) === 1 || same(r, out));
  const { rows, cols } = flat ? { rows: 1, cols: size(out) } : table(out);
  const lead = out.slice(0, -1);
  const operands: Word[] = [];
  const strides: number[] = [];
  for (const [k, r] of reads.entries()) {
    const t = table(r);
    if (size(r) === 1) operands.push(operand(k), 0, 0, 0);
    else if (flat) operands.push(operand(k), 0, 1, 0);
    else {
      const column = t.cols === 1 && cols > 1 ? 0 : 1;
      const whole = same(r.slice(0, -1), lead);
      const generic = !whole && t.rows > 1;
      operands.push(operand(k), t.rows === 1 ? 0 : t.cols, column, generic ? 1 : 0);
      if (generic) strides.push(...lead.flatMap((n, d) => [n, rowStride(r, d - (out.length - r.length))]));
    }
  }
  return [instruction(code.MAP, OUT, rows, cols, reads.length, steps.length, lead.length, ...operands, ...words, ...strides)];
}
/** In rows: how far one step of dimension d is, 0 where the operand is stretched there. */
const rowStride = (r: Shape, d: number): number => (d < 0 || r[d] === 1 ? 0 : size(r.slice(d + 1, -1)));

type Native = (
  out: Shape,
  ins: readonly Shape[],
  attrs: never,
  tensors: readonly Tensor[],
  operands: Kernel['operands'],
) => Instructions | null;

const forms: Readonly<Record<Form, number>> = {
  table: code.TABLE,
  shifted: code.SHIFTED,
  affine: code.AFFINE,
  int8: code.INT8,
  f16: code.F16,
  bf16: code.BF16,
};
const NOT_PACKED: readonly Word[] = Array<number>(10).fill(0);
/** A packed matrix as an operand; its own operands begin at `at`. */
function packedWords({ form, shape, bits, block, along, byteZeros, from }: Packing, at: number): readonly Word[] {
  const half = form === 'f16' || form === 'bf16'; // whose tables native code does without
  const rest: readonly Word[] = half ? [0, 0, 0] : [1, 2, 3].map((k) => (k < PARTS[form] ? operand(at + k) : 0));
  return [operand(at), ...rest, forms[form], bits, block, (along === 'rows' ? 1 : 0) + (byteZeros ? 2 : 0), shape[1], from];
}
/** Operands of each form. */
const PARTS: Readonly<Record<Form, number>> = { table: 3, shifted: 4, affine: 3, int8: 2, f16: 2, bf16: 2 };
const partOf = (t: Tensor, { at, inPlace }: Kernel['operands'][number]): readonly Word[] | null => {
  const packed = inPlace ? packedParts(t) : null;
  return packed === null ? null : packedWords(packed.packing, at);
};
const strided = (s: Shape): number[] => s.map((_, d) => size(s.slice(d + 1)));

/** out[…] = x[…], each dimension with its own strides; dimensions that run on are joined. */
function copy(dims: readonly (readonly [length: number, out: number, x: number])[], outOffset = 0, xOffset = 0, from = 0): readonly Word[] {
  const joined: [number, number, number][] = [];
  for (const [n, o, x] of dims) {
    if (n === 1) continue;
    const outer = joined.at(-1);
    if (outer !== undefined && outer[1] === o * n && outer[2] === x * n) joined[joined.length - 1] = [outer[0] * n, o, x];
    else joined.push([n, o, x]);
  }
  const list = joined.length === 0 ? [[1, 1, 1]] : joined;
  return instruction(code.COPY, OUT, operand(from), list.length, outOffset, xOffset, ...list.flat());
}

const reduction =
  (op: number): Native =>
  (out, [x], { axes }: { axes: readonly number[] }) => {
    const long = axes.filter((a) => x![a]! > 1);
    const [first, last] = [long[0] ?? axes[0]!, long.at(-1) ?? axes[0]!];
    const between = x!.slice(first, last + 1);
    if (between.some((n, k) => n > 1 && !axes.includes(first + k))) return null; // axes with others in between
    return [instruction(op, OUT, operand(0), size(x!.slice(0, first)), size(between), size(out) / size(x!.slice(0, first)))];
  };

const natives: Readonly<Record<string, Native>> = {
  ...nativeCode,
  sum: reduction(code.SUM),
  maxOver: reduction(code.MAX),
  logsumexp: reduction(code.LOGSUMEXP),
  argmax: reduction(code.ARGMAX),
  unpack: (out, _, packing: Packing) => [instruction(code.UNPACK, OUT, out[0]!, ...packedWords(packing, 0))],
  matmul: (out, [a, b], { ta, tb }: { ta: boolean; tb: boolean }, [ra, rb], [pa, pb]) => {
    const [m, n, k] = [dim(out, -2), dim(out, -1), dim(a!, ta ? -2 : -1)];
    const batch = out.slice(0, -2);
    const folded = b!.length === 2 && !ta; // one weight: the batch is more rows
    const offsets = (s: Shape): number[] => batchOffsets(batch, s.slice(0, -2), dim(s, -2) * dim(s, -1));
    const [oa, ob] = folded ? [[0], [0]] : [offsets(a!), offsets(b!)];
    const [da, db] = [partOf(ra!, pa!), partOf(rb!, pb!)];
    const packed = da === null && db === null ? [] : [...(da ?? NOT_PACKED), ...(db ?? NOT_PACKED), ta ? 1 : 0, tb ? 1 : 0];
    return [
      instruction(
        packed.length === 0 ? code.MATMUL : code.MATMUL_PACKED,
        OUT,
        operand(pa!.at),
        operand(pb!.at),
        oa.length,
        folded ? m * size(batch) : m,
        n,
        k,
        ta ? 1 : k,
        ta ? m : 1,
        tb ? 1 : n,
        tb ? k : 1,
        ...packed,
        ...oa.flatMap((o, i) => [o, ob[i]!]),
      ),
    ];
  },
  reshape: (out) => [copy([[size(out), 1, 1]])],
  permute: (out, [x], { order }: { order: readonly number[] }) => {
    const [so, sx] = [strided(out), strided(x!)];
    return [copy(out.map((n, d) => [n, so[d]!, sx[order[d]!]!] as const))];
  },
  slice: (out, [x], { axis, start }: { axis: number; start: number }) => {
    const [so, sx] = [strided(out), strided(x!)];
    return [
      copy(
        out.map((n, d) => [n, so[d]!, sx[d]!] as const),
        0,
        start * sx[axis]!,
      ),
    ];
  },
  pad: (out, [x], { axis, before, value }: { axis: number; before: number; value: number }) => {
    const [so, sx] = [strided(out), strided(x!)];
    return [
      instruction(code.FILL, OUT, size(out), { float: value }),
      copy(
        x!.map((n, d) => [n, so[d]!, sx[d]!] as const),
        before * so[axis]!,
      ),
    ];
  },
  concat: (out, ins, { axis }: { axis: number }) => {
    const so = strided(out);
    return ins.map((x, k) =>
      copy(
        x.map((n, d) => [n, so[d]!, strided(x)[d]!] as const),
        k === 0 ? 0 : ins[0]![axis]! * so[axis]!,
        0,
        k,
      ),
    );
  },
  flip: (out, _, { axis }: { axis: number }) => {
    const s = strided(out);
    return [
      copyExactly(
        out.map((n, d) => [n, s[d]!, d === axis ? -s[d]! : s[d]!] as const),
        (out[axis]! - 1) * s[axis]!,
      ),
    ];
  },
  gather: (_, [t, ids], __, [table], [pt, pi]) => {
    const packed = partOf(table!, pt!);
    return packed === null
      ? [instruction(code.GATHER, OUT, operand(pt!.at), operand(pi!.at), size(ids!), dim(t!, 1))]
      : [instruction(code.GATHER_PACKED, OUT, operand(pi!.at), size(ids!), ...packed)];
  },
  scatterAdd: (out, [ids]) => [instruction(code.SCATTER_ADD, OUT, operand(0), operand(1), size(ids!), dim(out, 1), dim(out, 0))],
  takeAlong: (out, [x]) => [instruction(code.TAKE_ALONG, OUT, operand(0), operand(1), table(out).rows, dim(out, -1), dim(x!, -1))],
  putAlong: (out, [index]) => [instruction(code.PUT_ALONG, OUT, operand(0), operand(1), table(out).rows, dim(index!, -1), dim(out, -1))],
  oneHot: (out) => [instruction(code.ONE_HOT, OUT, operand(0), table(out).rows, dim(out, -1))],
  iota: (out) => [instruction(code.IOTA, OUT, size(out))],
  causalBias: (out) => [instruction(code.CAUSAL, OUT, out[0]!, out[1]!)],
  quarterTurn: (out) => [instruction(code.QUARTER, OUT, operand(0), table(out).rows, dim(out, -1))],
};

/** A copy whose dimensions are kept apart: joining assumes that strides grow. */
const copyExactly = (dims: readonly (readonly [number, number, number])[], xOffset: number): readonly Word[] =>
  instruction(code.COPY, OUT, operand(0), dims.length, 0, xOffset, ...dims.flat());

/** Where each matrix of a batch starts in an operand whose leading dimensions broadcast. */
function batchOffsets(batch: Shape, own: Shape, each: number): number[] {
  const strides = batch.map((_, d) => {
    const e = d - (batch.length - own.length);
    return e < 0 || own[e] === 1 ? 0 : size(own.slice(e + 1)) * each;
  });
  return Array.from({ length: size(batch) }, (_, k) => {
    let rest = k;
    let at = 0;
    for (let d = batch.length - 1; d >= 0; d--) {
      at += (rest % batch[d]!) * strides[d]!;
      rest = Math.floor(rest / batch[d]!);
    }
    return at;
  });
}
