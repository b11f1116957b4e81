// Matrix product over the last two dimensions: any transposes, batched, leading dimensions broadcast.
import { defineOp, type Op } from '../op.ts';
import { broadcast, dim, type Shape, ShapeError, show, size } from '../shape.ts';
import type { Tensor } from '../tensor.ts';
import { reshape } from './move.ts';
import { sumTo } from './reduce.ts';

interface Transposes {
  readonly ta: boolean;
  readonly tb: boolean;
}

/** [M, K] of an operand as it enters the product. */
const sides = (s: Shape, t: boolean): readonly [number, number] => (t ? [dim(s, -1), dim(s, -2)] : [dim(s, -2), dim(s, -1)]);

/** A kernel's inner sum is cut into pieces of this length, which keeps float32 sums accurate. */
const PIECE = 256;

// y = a·b.  da = dy·bᵀ,  db = aᵀ·dy; each once more transposed where the operand was.
const matmulOp: Op<'a' | 'b', Transposes> = defineOp<'a' | 'b', Transposes>({
  name: 'matmul',
  inputs: ['a', 'b'],
  inline: ['a', 'b'],
  shape: ({ a, b }, { ta, tb }) => {
    if (a.length < 2 || b.length < 2)
      throw new ShapeError(`matmul: both operands need two dimensions or more, got ${show(a)} and ${show(b)}`);
    const [m, k] = sides(a, ta);
    const [k2, n] = sides(b, tb);
    if (k !== k2)
      throw new ShapeError(
        `matmul: the inner dimensions differ: ${show(a)}${ta ? 'ᵀ' : ''} × ${show(b)}${tb ? 'ᵀ' : ''} would pair ${k} with ${k2}`,
      );
    return [...broadcast(a.slice(0, -2), b.slice(0, -2), 'matmul (leading dimensions)'), m, n];
  },
  kernel: {
    kind: 'custom',
    body: ({ out, shapes, attrs: { ta, tb }, i, read }) => {
      const [row, col] = [i.at(-2)!, i.at(-1)!];
      const lead = (s: Shape): string[] => s.slice(0, -2).map((n, k) => (n === 1 ? '0' : i[k + out.length - s.length]!));
      const k = sides(shapes.a, ta)[1];
      const a = read('a', [...lead(shapes.a), ...(ta ? ['k', row] : [row, 'k'])], 'a_');
      const b = read('b', [...lead(shapes.b), ...(tb ? [col, 'k'] : ['k', col])], 'b_');
      const into = (sum: string): string => [a.before, b.before, `${sum} += ${a.value} * ${b.value};`].filter(Boolean).join('\n  ');
      if (k <= PIECE) return `let s = 0.0; for (let k = 0; k < ${k}; k++) { ${into('s')} } return s;`;
      const whole = Math.floor(k / PIECE);
      const rest = k % PIECE === 0 ? '' : `let p = 0.0; for (let k = ${whole * PIECE}; k < ${k}; k++) { ${into('p')} } s += p;`;
      return `let s = 0.0; for (let c = 0; c < ${whole}; c++) { let p = 0.0; for (let j = 0; j < ${PIECE}; j++) { const k = c * ${PIECE} + j; ${into('p')} } s += p; } ${rest} return s;`;
    },
  },
  vjp: ({ a, b, dy, attrs: { ta, tb } }) => ({
    a: () => sumTo(ta ? product(b, dy, tb, true) : product(dy, b, false, !tb), a.shape),
    b: () => {
      // One weight for a whole batch: fold the batch into the rows, so that its gradient is one product, not a sum of many.
      if (b.shape.length === 2 && a.shape.length > 2 && !ta)
        return tb ? product(rows(dy), rows(a), true, false) : product(rows(a), rows(dy), true, false);
      return sumTo(tb ? product(dy, a, true, ta) : product(a, dy, !ta, false), b.shape);
    },
  }),
  flops: ({ a }, out, { ta }) => 2 * size(out) * sides(a, ta)[1],
});

const product = (a: Tensor, b: Tensor, ta: boolean, tb: boolean): Tensor => {
  const [x, fx] = unswap(a);
  const [y, fy] = unswap(b);
  return matmulOp({ a: x, b: y }, { ta: ta !== fx, tb: tb !== fy });
};
const rows = (t: Tensor): Tensor => reshape(t, [size(t.shape.slice(0, -1)), dim(t.shape, -1)]);

/** A swap of the last two dimensions is a flag of the product, not a copy. */
function unswap(t: Tensor): readonly [Tensor, boolean] {
  const s = t.source;
  if (s.kind !== 'apply' || s.op.name !== 'permute') return [t, false];
  const { order } = s.attrs as { order: readonly number[] };
  const n = order.length;
  const swaps = n >= 2 && order[n - 1] === n - 2 && order[n - 2] === n - 1 && order.slice(0, -2).every((o, k) => o === k);
  return swaps ? [s.ins[0]!, true] : [t, false];
}

/** a·b over the last two dimensions. `a.T` and `b.T` cost nothing. */
export const matmul = (a: Tensor, b: Tensor): Tensor => product(a, b, false, false);
