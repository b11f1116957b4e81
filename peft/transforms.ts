// Structured matrices as recipes: Kronecker, block rotations by Cayley, small inverses, Walsh–Hadamard and Fastfood.
import { defineOp, type Op } from '../core/op.ts';
import { gather, iota } from '../core/ops/index.ts';
import { add, div, eq, mul, square, sub } from '../core/ops/map.ts';
import { sum } from '../core/ops/reduce.ts';
import { upperTriangle } from '../core/ops/triangle.ts';
import { dim, ShapeError, show, size } from '../core/shape.ts';
import { leaf, type Tensor } from '../core/tensor.ts';

/** a ⊗ b: [l, m] ⊗ [k, n] → [l·k, m·n]. */
export function kron(a: Tensor, b: Tensor): Tensor {
  const [[l, m], [k, n]] = [a.shape, b.shape] as [[number, number], [number, number]];
  return mul(a.reshape(l, 1, m, 1), b.reshape(1, k, 1, n)).reshape(l * k, m * n);
}

/** x (a ⊗ b)ᵀ without the large matrix: a row of x as a table X [m, n] becomes a X bᵀ. [..., m·n] → [..., l·k] */
export function timesKron(x: Tensor, a: Tensor, b: Tensor): Tensor {
  const [[l, m], [k, n]] = [a.shape, b.shape] as [[number, number], [number, number]];
  const rows = size(x.shape.slice(0, -1));
  const half = x.reshape(rows * m, n).matmul(b.T); // X bᵀ, [rows·m, k]
  const turned = half
    .reshape(rows, m, k)
    .permute(0, 2, 1)
    .reshape(rows * k, m); // rows of (X bᵀ)ᵀ
  const whole = turned.matmul(a.T).reshape(rows, k, l).permute(0, 2, 1); // [rows, l, k]
  return whole.reshape(...x.shape.slice(0, -1), l * k);
}

/** 1 on the diagonal, 0 elsewhere: [n, n]. */
export const identity = (n: number): Tensor => eq(iota(n).reshape(n, 1), iota(n));

/** Newton's iteration doubles the correct digits: enough in double precision while Σ tan²(θ/2) over the rotation's planes is below 1700 (177° in one). */
const STEPS = 16;

/**
 * A⁻¹ for A = I + Q, Q skew-symmetric: X ← X(2I − A X) from X = Aᵀ/(1 + ½‖Q‖²). The eigenvalues of I − A X start in [0, 1),
 * because skew singular values come in pairs, so that ‖Q‖₂² ≤ ½‖Q‖²; each step squares them. Only products, unlike elimination.
 * dA = −Xᵀ dX Xᵀ.
 */
const inverseOp: Op<'a', null> = defineOp<'a'>({
  name: 'inverseNearIdentity',
  inputs: ['a'],
  shape: ({ a }) => a,
  kernel: {
    kind: 'composite',
    of: ({ a }) => {
      const one = identity(dim(a.shape, -1));
      const length = sum(square(sub(a, one)), [-2, -1], true); // ‖Q‖²
      let x = div(a.T, add(1, mul(0.5, length)));
      for (let k = 0; k < STEPS; k++) x = x.matmul(sub(mul(2, one), a.matmul(x)));
      return x;
    },
  },
  vjp: ({ y, dy }) => ({ a: () => y.T.matmul(dy).matmul(y.T).neg() }),
});

/** Q with Q_ij = v, Q_ji = −v for i < j: [..., b(b − 1)/2] → [..., b, b]. */
export const skew = (v: Tensor, b: number): Tensor => {
  const upper = upperTriangle(v, b);
  return upper.sub(upper.T);
};

/** (I − Q)(I + Q)⁻¹, a rotation for skew-symmetric Q [..., b, b]: 2(I + Q)⁻¹ − I. */
export const cayley = (q: Tensor): Tensor => {
  const one = identity(dim(q.shape, -1));
  return inverseOp({ a: q.add(one) }, null)
    .mul(2)
    .sub(one);
};

/**
 * A⁻¹ for symmetric positive definite A [n, n], by Gauss–Jordan in place: M ← M − (M_·k − e_k)(M_k· + e_kᵀ)/M_kk for every k. No pivoting,
 * which such a matrix does not need. n dependent steps: for the small side of a low-rank update.
 */
export function inverseOfPositive(a: Tensor): Tensor {
  const n = dim(a.shape, -1);
  let m = a;
  for (let k = 0; k < n; k++) {
    const e = eq(iota(n), k); // [n]
    const [column, row] = [m.slice(-1, k, k + 1).sub(e.reshape(n, 1)), m.slice(-2, k, k + 1).add(e)];
    m = m.sub(column.mul(row).div(m.slice(-2, k, k + 1).slice(-1, k, k + 1)));
  }
  return m;
}

/** I + 2Q + 2Q² + … + 2Qᵏ⁻² + Qᵏ⁻¹: the first k terms of (I + Q)(I − Q)⁻¹ as PEFT takes them, the last one halved. */
export function neumann(q: Tensor, terms: number): Tensor {
  let [power, r] = [q, identity(dim(q.shape, -1)).add(q.mul(2))];
  for (let k = 2; k < terms - 1; k++) {
    power = power.matmul(q);
    r = r.add(power.mul(2));
  }
  return r.add(power.matmul(q));
}

/** x·blockdiag(R_1 … R_n): [..., n·b] with R [n, b, b]. */
export function timesBlocks(x: Tensor, r: Tensor): Tensor {
  const [n, b] = r.shape as [number, number];
  const rows = size(x.shape.slice(0, -1));
  const blocks = x.reshape(rows, n, b).permute(1, 0, 2).matmul(r); // [n, rows, b]
  return blocks.permute(1, 0, 2).reshape(...x.shape);
}

/** A fixed reordering: its derivative is the reordering back, not a search for who names whom. */
const shuffleOp: Op<'x' | 'from' | 'back', null> = defineOp<'x' | 'from' | 'back'>({
  name: 'shuffle',
  inputs: ['x', 'from', 'back'],
  flops: () => 0,
  shape: ({ x, from, back }) => {
    if (x.length !== 1 || from[0] !== x[0] || back[0] !== x[0])
      throw new ShapeError(`shuffle: ${show(x)} needs an order of as many places, got ${show(from)} and ${show(back)}`);
    return x;
  },
  kernel: { kind: 'composite', of: ({ x, from }) => gather(x.reshape(size(x.shape), 1), from).reshape(size(x.shape)) },
  vjp: ({ from, back, dy }) => ({ x: () => shuffleOp({ x: dy, from: back, back: from }, null), from: null, back: null }),
});
/** y[k] = x[order[k]] for a permutation: [n] → [n]. */
export function shuffled(x: Tensor, order: readonly number[]): Tensor {
  const back = new Int32Array(order.length);
  for (const [k, p] of order.entries()) back[p] = k;
  return shuffleOp({ x, from: leaf(Int32Array.from(order), [order.length]), back: leaf(back, [order.length]) }, null);
}

/** The unnormalised Walsh–Hadamard matrix, (−1)^(number of ones in i & j): [n, n], n a power of two. */
export function hadamard(n: number): Float32Array {
  const h = new Float32Array(n * n).fill(1);
  for (let i = 0; i < n; i++)
    for (let j = 0; j < n; j++) {
      let both = i & j;
      while (both !== 0) {
        h[i * n + j]! *= both & 1 ? -1 : 1;
        both >>= 1;
      }
    }
  return h;
}
/** H x for x [2ᵏ]. H = H_a ⊗ H_b, so that x as a table [a, b] becomes H_a X H_b: two small products. */
export function walshHadamard(x: Tensor): Tensor {
  const n = size(x.shape);
  const bits = Math.log2(n);
  if (!Number.isInteger(bits)) throw new ShapeError(`walshHadamard: ${n} numbers are not a power of two; pad with zeros`);
  const [a, b] = [2 ** Math.floor(bits / 2), 2 ** Math.ceil(bits / 2)];
  return leaf(hadamard(a), [a, a])
    .matmul(x.reshape(a, b))
    .matmul(leaf(hadamard(b), [b, b]))
    .reshape(n);
}

/** A dimension written as two factors m ≤ n, as near to each other as `factor` allows; −1: no limit. A factor that divides is taken as m (LyCORIS). */
export function factorization(dimension: number, factor = -1): readonly [number, number] {
  if (factor > 0 && dimension % factor === 0) return [factor, dimension / factor];
  const most = factor === -1 ? dimension : factor;
  let [m, n] = [1, dimension];
  while (m < n) {
    let next = m + 1;
    while (dimension % next !== 0) next++;
    if (next + dimension / next > m + n || next > most) break;
    [m, n] = [next, dimension / next];
  }
  return m > n ? [n, m] : [m, n];
}
