// Matrix factorisations on the host, in double precision: singular values by ml-matrix, and a randomised form for large weights.
// Of a network without numbers (core/blank.ts) they have none either, at no cost: only their shapes count.
import { CholeskyDecomposition, inverse as inverted, Matrix, QrDecomposition, SingularValueDecomposition } from 'ml-matrix';
import { blankResult, isBlank } from '../core/blank.ts';
import type { Rng } from '../core/rng.ts';
import type { Data } from '../core/tensor.ts';

/** W ≈ U·diag(s)·Vᵀ, singular values descending, row by row. */
export interface Svd {
  readonly u: Float64Array; // [rows, rank]
  readonly s: Float64Array; // [rank]
  readonly vt: Float64Array; // [rank, cols]
}

const matrix = (data: ArrayLike<number>, rows: number, cols: number): Matrix => Matrix.from1DArray(rows, cols, data);
const flat = (m: Matrix): Float64Array => Float64Array.from(m.to1DArray());

/** The first `rank` singular triplets of data [rows, cols], exact to rounding. Cost rows·cols·min(rows, cols). */
export function svd(data: Data, rows: number, cols: number, rank: number): Svd {
  if (isBlank(data)) return blankSvd(rows, cols, rank);
  return triplets(matrix(data, rows, cols), rank);
}
const blankSvd = (rows: number, cols: number, rank: number): Svd => ({
  u: blankResult(rows * rank),
  s: blankResult(rank),
  vt: blankResult(rank * cols),
});
function triplets(m: Matrix, rank: number): Svd {
  const d = new SingularValueDecomposition(m, { autoTranspose: true });
  return {
    u: flat(d.leftSingularVectors.subMatrix(0, m.rows - 1, 0, rank - 1)),
    s: Float64Array.from(d.diagonal.slice(0, rank)),
    vt: flat(d.rightSingularVectors.transpose().subMatrix(0, rank - 1, 0, m.columns - 1)),
  };
}

/** Directions drawn beyond the rank asked for, which make the randomised range safe (Halko et al. 2011, §4.2 names 5 to 10). */
const OVERSAMPLE = 8;

/**
 * The same, approximately: the range of W is found from random directions and `iterations` of power iteration, and only the
 * small projection is factorised (Halko, Martinsson & Tropp 2011, arXiv 0909.4061, algorithms 4.4 and 5.1). Exact where rank(W) ≤ rank.
 */
export function randomizedSvd(data: Data, rows: number, cols: number, rank: number, iterations: number, r: Rng): Svd {
  if (isBlank(data)) return blankSvd(rows, cols, rank);
  const w = matrix(data, rows, cols);
  const wide = Math.min(rank + OVERSAMPLE, rows, cols);
  const range = (m: Matrix): Matrix => new QrDecomposition(m).orthogonalMatrix;
  let q = range(w.mmul(matrix(r.normal(cols * wide), cols, wide)));
  for (let k = 0; k < iterations; k++) q = range(w.mmul(range(w.transpose().mmul(q))));
  const small = triplets(q.transpose().mmul(w), rank); // [wide, cols]
  return { ...small, u: flat(q.mmul(matrix(small.u, wide, rank))) };
}

/** a [n, k] · b [k, m], row by row. */
export const product = (a: Data, b: Data, n: number, k: number, m: number): Float64Array =>
  isBlank(a) || isBlank(b) ? blankResult(n * m) : flat(matrix(a, n, k).mmul(matrix(b, k, m)));

/** a [n, m] with its two dimensions swapped: [m, n]. */
export const transposed = (a: Data, n: number, m: number): Float64Array =>
  Float64Array.from({ length: n * m }, (_, k) => a[(k % n) * m + Math.floor(k / n)]!);

/** An orthonormal basis of the columns of data [n, m], m ≤ n: the Q of its QR factorisation, [n, m]. */
export const orthonormal = (data: Data, n: number, m: number): Float64Array =>
  flat(new QrDecomposition(matrix(data, n, m)).orthogonalMatrix);
/** The same with LAPACK's signs, which does not turn the last number of a square matrix round. */
export const orthonormalAsLapack = (data: Data, n: number, m: number): Float64Array =>
  orthonormal(data, n, m).map((v, k) => (n === m && k % m === m - 1 ? -v : v));

/** The inverse of a [n, n]. Throws when it is singular. */
export const inverse = (a: Data, n: number): Float64Array => (isBlank(a) ? blankResult(n * n) : flat(inverted(matrix(a, n, n))));

/** a [n, n] + v I. */
export function plusDiagonal(a: Float64Array, n: number, v: number): Float64Array {
  if (isBlank(a)) return a;
  const sum = a.slice();
  for (let k = 0; k < n; k++) sum[k * n + k]! += v;
  return sum;
}
/** The mean of a [n, n]'s diagonal. */
export const meanDiagonal = (a: Data, n: number): number =>
  Array.from({ length: n }, (_, k) => a[k * n + k]!).reduce((x, y) => x + y, 0) / n;

/** √Σ vᵢ², of any number of values: Math.hypot takes what fits on the stack. */
export function length(data: Data): number {
  let sum = 0;
  if (!isBlank(data)) for (let k = 0; k < data.length; k++) sum += data[k]! ** 2;
  return Math.sqrt(sum);
}
/** The lengths of data [rows, cols]'s rows. */
export const rowLengths = (data: Data, rows: number, cols: number): Float64Array =>
  Float64Array.from({ length: rows }, (_, i) => length(data.subarray(i * cols, (i + 1) * cols)));
/** The lengths of its columns. */
export function columnLengths(data: Data, rows: number, cols: number): Float64Array {
  const sums = new Float64Array(cols);
  if (!isBlank(data)) for (let i = 0; i < rows; i++) for (let j = 0; j < cols; j++) sums[j]! += data[i * cols + j]! ** 2;
  return sums.map(Math.sqrt);
}

/** a [n, n] = L·Lᵀ, and what follows from it. */
export interface Cholesky {
  readonly lower: Float64Array; // [n, n]
  readonly logDet: number;
  /** a⁻¹·b for b [n, m]. */
  readonly solve: (b: ArrayLike<number>, m?: number) => Float64Array;
}
/** Of a symmetric positive definite a [n, n]. Throws when it is not. */
export function cholesky(a: Data, n: number): Cholesky {
  const d = new CholeskyDecomposition(matrix(a, n, n));
  if (!d.isPositiveDefinite()) throw new RangeError(`cholesky: this matrix of ${n} rows is not positive definite; add to its diagonal`);
  const lower = flat(d.lowerTriangularMatrix);
  return {
    lower,
    logDet: 2 * Array.from({ length: n }, (_, i) => Math.log(lower[i * n + i]!)).reduce((s, v) => s + v, 0),
    solve: (b, m = 1) => flat(d.solve(matrix(b, n, m))),
  };
}
