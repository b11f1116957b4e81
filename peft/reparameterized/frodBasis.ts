// FRoD's joint decomposition: one basis for the weights of one kind in all blocks, and what each weight is in it.
//   V = Rᵀ E:  Q R = the weights stacked,  E the eigenvectors of mean_l (Q_lᵀ Q_l + αI)⁻¹;   fewer rows than columns: V the right singular vectors
//   U_l diag(λ_l) = W_l V⁻ᵀ, the columns of U of length 1
import { EigenvalueDecomposition, inverse, Matrix, pseudoInverse, QrDecomposition } from 'ml-matrix';
import type { Rng } from '../../core/rng.ts';
import { leaf, type Tensor } from '../../core/tensor.ts';
import { columnLengths } from '../linalg.ts';
import { sample } from '../select.ts';
import type { Site } from '../site.ts';
import type { Frod, FrodConfig } from './frod.ts';

export type Start = Pick<Frod, 'start' | 'U' | 'V'> & Partial<Pick<Frod, 'row' | 'col'>>;

/** How many entries of S are trained. */
export const entries = (into: number, { sparsity }: FrodConfig): number =>
  sparsity === 0 ? 0 : Math.max(1, Math.min(Math.floor(into * into * sparsity), into * (into - 1)));

/** V [in, in] of weights [out, in]. */
function basis(weights: readonly Matrix[], damping: number): Matrix {
  const into = weights[0]!.columns;
  const stacked = new Matrix(weights.flatMap((w) => w.to2DArray()));
  const vectors = (m: Matrix): Matrix => new EigenvalueDecomposition(m, { assumeSymmetric: true }).eigenvectorMatrix;
  if (stacked.rows < into) return vectors(stacked.transpose().mmul(stacked));
  const qr = new QrDecomposition(stacked);
  const sums = Matrix.zeros(into, into);
  for (let k = 0, from = 0; k < weights.length; from += weights[k]!.rows, k++) {
    const q = qr.orthogonalMatrix.subMatrix(from, from + weights[k]!.rows - 1, 0, into - 1);
    sums.add(inverse(q.transpose().mmul(q).add(Matrix.eye(into, into).mul(damping))));
  }
  return qr.upperTriangularMatrix.transpose().mmul(vectors(sums.div(weights.length)));
}

/** Of the layers that share a basis: U and λ⁰ of each, and for all V and the places of S that are trained. */
export function startsOf(sites: readonly Site<'linear'>[], weights: readonly Matrix[], c: FrodConfig, r: Rng): Start[] {
  const V = basis(weights, c.damping);
  const into = V.rows;
  const place = sample(entries(into, c), into * (into - 1), r);
  const row = place.map((k) => Math.floor(k / (into - 1)));
  const col = place.map((k, n) => (k % (into - 1)) + (k % (into - 1) < row[n]! ? 0 : 1)); // never the diagonal
  const of = (ns: readonly number[]): Tensor => leaf(Int32Array.from(ns), [ns.length]);
  const shared = { V: leaf(Float64Array.from(V.to1DArray()), [into, into]), ...(place.length === 0 ? {} : { row: of(row), col: of(col) }) };
  const back = invertible(V).transpose();
  return sites.map((s, k) => {
    const b = weights[k]!.mmul(back); // W V⁻ᵀ
    const numbers = Float64Array.from(b.to1DArray());
    const lambda = columnLengths(numbers, b.rows, into);
    const U = numbers.map((v, n) => (lambda[n % into]! > 1e-12 ? v / lambda[n % into]! : 0));
    return { ...shared, U: leaf(U, s.shape), start: leaf(lambda, [into]) };
  });
}
function invertible(m: Matrix): Matrix {
  try {
    return inverse(m);
  } catch {
    return pseudoInverse(m, 1e-6); // weights that do not span their inputs
  }
}
