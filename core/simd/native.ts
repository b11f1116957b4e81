// Ops that the simd engine computes in kernels of its own: attention without stored scores. What it has no kernel for (a head
// too wide, queries that see no key) is opened as on every engine.
import { type AnyOp, defineOp, type Op, reapply } from '../op.ts';
import { permute, reshape, slice } from '../ops/move.ts';
import { sum } from '../ops/reduce.ts';
import type { Opening } from '../schedule.ts';
import { here } from '../scope.ts';
import { dim, type Shape, size, table } from '../shape.ts';
import type { Tensor } from '../tensor.ts';
import { contiguous, moves, type Strided, strided } from './strided.ts';

/** Where a matrix of each batch and head lies: offset, then floats from one batch, head and row to the next. */
export type Place = readonly [offset: number, batch: number, head: number, row: number];

export interface FlashAttrs {
  readonly B: number;
  readonly H: number;
  readonly Hk: number;
  readonly T: number;
  readonly S: number;
  readonly D: number;
  readonly Dv: number;
  readonly causal: boolean;
  readonly scale: number;
  readonly q: Place;
  readonly k: Place;
  readonly v: Place;
  /** Floats from one batch, head, row and column to the next; null without a bias. */
  readonly bias: Place | null;
}
export interface FlashBackAttrs extends FlashAttrs {
  readonly dy: Place;
  readonly dq: Place;
  readonly dk: Place;
  readonly dv: Place;
  readonly shape: Shape;
}
/** Widest head the kernels' scratch has room for. */
const WIDEST = 128;

/** Scores that are computed: those the causal mask leaves. */
const pairs = ({ B, H, T, S, causal }: FlashAttrs): number => B * H * (causal ? T * (S - T) + (T * (T + 1)) / 2 : T * S);

/** The result [B, T, H, Dv], then log Σ exp of each row [B, H, T], as one table of Dv + 1 rows. */
export const flash: Op<'q' | 'k' | 'v' | 'bias', FlashAttrs> = defineOp<'q' | 'k' | 'v' | 'bias', FlashAttrs>({
  name: 'flashAttention',
  inputs: ['q', 'k', 'v', 'bias'],
  shape: (_, { B, T, H, Dv }) => [Dv + 1, B * T * H],
  kernel: { kind: 'native' },
  flops: (_s, _out, a) => pairs(a) * (2 * a.D + 2 * a.Dv + 5),
});
/** dq, dk and dv in one table; `o` is what `flash` computed. */
export const flashBack: Op<'q' | 'k' | 'v' | 'bias' | 'o' | 'dy', FlashBackAttrs> = defineOp<
  'q' | 'k' | 'v' | 'bias' | 'o' | 'dy',
  FlashBackAttrs
>({
  name: 'flashAttentionGrad',
  inputs: ['q', 'k', 'v', 'bias', 'o', 'dy'],
  shape: (_, { shape }) => shape,
  kernel: { kind: 'native' },
  flops: (_s, _out, a) => pairs(a) * (6 * a.D + 4 * a.Dv + 9),
});

/** Operands as the kernels read them: rows that run on, whatever lies between rows. */
function rows(t: Tensor): { readonly base: Tensor; readonly at: Place } {
  const whole: Strided = { base: t, offset: 0, strides: contiguous(t.shape) };
  const found = strided(t);
  const { base, offset, strides } = t.shape[3] === 1 || found.strides[3] === 1 ? found : whole;
  return { base, at: [offset, strides[0]!, strides[1]!, strides[2]!] };
}

interface Heads {
  readonly attrs: FlashAttrs;
  readonly bases: { readonly q: Tensor; readonly k: Tensor; readonly v: Tensor; readonly bias: Tensor };
}
function readable([q, k, v, bias]: readonly Tensor[], { causal, scale }: { causal: boolean; scale: number }): Heads | null {
  const [B, H, T, D] = q!.shape as readonly [number, number, number, number];
  const [, Hk, S] = k!.shape as readonly [number, number, number];
  const Dv = dim(v!.shape, 3);
  if (D > WIDEST || Dv > WIDEST || (causal && T > S)) return null;
  const at = { q: rows(q!), k: rows(k!), v: rows(v!) };
  const free = size(bias!.shape) === 1; // softmax does not see a number added to all scores
  const own = contiguous(bias!.shape);
  const along = (d: number): number => (dim(bias!.shape, d - 4) === 1 ? 0 : own.at(d - 4)!);
  return {
    attrs: {
      ...{ B, H, Hk, T, S, D, Dv, causal: causal && T > 1, scale },
      ...{ q: at.q.at, k: at.k.at, v: at.v.at, bias: free ? null : [along(0), along(1), along(2), along(3)] },
    },
    bases: { q: at.q.base, k: at.k.base, v: at.v.base, bias: free ? at.q.base : bias! },
  };
}

/** Rows from … of a table of one matrix after the other, [B, T, H, D] or [B, H, T, D], as [B, H, T, D]. */
function part(table: Tensor, from: number, [B, H, T, D]: readonly [number, number, number, number], byTime: boolean): Tensor {
  const cols = table.shape[1]!;
  const rows = slice(table, 0, from / cols, (from + B * H * T * D) / cols);
  return byTime ? permute(reshape(rows, [B, T, H, D]), [0, 2, 1, 3]) : reshape(rows, [B, H, T, D]);
}

function attention(ins: readonly Tensor[], attrs: { causal: boolean; scale: number }): Tensor | null {
  const x = readable(ins, attrs);
  if (x === null) return null;
  const { B, H, T, Dv } = x.attrs;
  return part(flash(x.bases, x.attrs), 0, [B, H, T, Dv], true);
}

function attentionGrad(ins: readonly Tensor[], { wrt, ...rest }: { causal: boolean; scale: number; wrt: string }): Tensor | null {
  const x = readable(ins, rest);
  if (x === null || wrt === 'bias') return null;
  const { B, H, Hk, T, S, D, Dv, q, k, v } = x.attrs;
  const dy = rows(ins[5]!);
  const of = (layout: Omit<FlashBackAttrs, keyof FlashAttrs | 'dy'>): Tensor =>
    flashBack({ ...x.bases, o: flash(x.bases, x.attrs), dy: dy.base }, { ...x.attrs, dy: dy.at, ...layout });
  // q, k and v side by side in the rows of one table: so are their gradients, and joining them copies nothing.
  const wide = (H + 2 * Hk) * D;
  const aside = (at: Place, offset: number): boolean => at[0] === offset && (B === 1 || at[1] === T * wide) && at[3] === wide;
  const { q: bq, k: bk, v: bv } = x.bases;
  if (
    bq === bk &&
    bq === bv &&
    T === S &&
    D === Dv &&
    T > 1 &&
    aside(q, 0) &&
    aside(k, H * D) &&
    aside(v, (H + Hk) * D) &&
    size(bq.shape) === B * T * wide
  ) {
    const place = (offset: number): Place => [offset, T * wide, D, wide];
    const all = of({ dq: place(0), dk: place(H * D), dv: place((H + Hk) * D), shape: [B, T, wide] });
    const [from, n] = wrt === 'q' ? [0, H] : [(wrt === 'k' ? H : H + Hk) * D, Hk];
    return permute(reshape(slice(all, 2, from, from + n * D), [B, T, n, D]), [0, 2, 1, 3]);
  }
  const byTime = [q, k, v].map((at) => at[3] > at[2]); // as the operand, so that a permutation before is undone
  const sizes = [B * H * T * D, B * Hk * S * D, B * Hk * S * Dv] as const;
  const place = (offset: number, h: number, t: number, d: number, time: boolean): Place =>
    time ? [offset, t * h * d, d, h * d] : [offset, t * h * d, t * d, d];
  const all = of({
    dq: place(0, H, T, D, byTime[0]!),
    dk: place(sizes[0], Hk, S, D, byTime[1]!),
    dv: place(sizes[0] + sizes[1], Hk, S, Dv, byTime[2]!),
    shape: [(sizes[0] + sizes[1] + sizes[2]) / (B * Hk), B * Hk],
  });
  if (wrt === 'q') return part(all, 0, [B, H, T, D], byTime[0]!);
  if (wrt === 'k') return part(all, sizes[0], [B, Hk, S, D], byTime[1]!);
  return part(all, sizes[0] + sizes[1], [B, Hk, S, Dv], byTime[2]!);
}

type Open = (ins: readonly Tensor[], attrs: never, op: AnyOp) => Tensor | null;

const natives = new WeakMap<AnyOp, AnyOp>();
/** The op itself, with a kernel instead of a composition. */
function closed(ins: readonly Tensor[], attrs: unknown, op: AnyOp): Tensor | null {
  if (op.kernel.kind !== 'composite') return null;
  const own = natives.get(op) ?? { ...op, kernel: { kind: 'native' } };
  natives.set(op, own);
  return reapply(own, ins, attrs, here());
}

/** Rows whose products are summed at once when a norm's gain gets its gradient: fixed, so that no count of threads changes the order. */
export const GAIN_ROWS = 32;
/** Σ dy·x̂ in two steps: over blocks of rows, then over blocks. */
function gain([x, dy]: readonly Tensor[], attrs: unknown, op: AnyOp): Tensor | null {
  if (op.kernel.kind !== 'composite') return null;
  const own: AnyOp = natives.get(op) ?? {
    ...op,
    shape: (s) => [Math.ceil(table(s.x!).rows / GAIN_ROWS), table(s.x!).cols],
    kernel: { kind: 'native' },
  };
  natives.set(op, own);
  return sum(reapply(own, [x!, dy!], attrs, here()), [0]);
}

const openings: Readonly<Record<string, Open>> = {
  ...moves,
  attention,
  attentionGrad,
  softmax: closed,
  softmaxGrad: closed,
  layerNorm: closed,
  layerNormGrad: closed,
  layerNormGain: gain,
  rmsNorm: closed,
  rmsNormGrad: closed,
  rmsNormGain: gain,
};

/** How the engine computes what it has kernels for. */
export const opening: Opening = (op, ins, attrs) => (Object.hasOwn(openings, op.name) ? openings[op.name]!(ins, attrs as never, op) : null);
