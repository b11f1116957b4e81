// The vector Arrow knows an expert by: the direction of input that its update B A changes most.
import { orthonormal, product, svd, transposed } from '../linalg.ts';
import { atHand } from '../site.ts';
import type { Factors } from './lora.ts';

/** The first right singular vector of B A, from Q R = B: that of R A, a matrix of r rows. */
export function prototype({ A, B }: Factors): Float64Array {
  const [rank, into] = A.shape as [number, number];
  const out = B.shape[0]!;
  const [a, b] = [atHand(A)!, atHand(B)!];
  const r = product(transposed(orthonormal(b, out, rank), out, rank), b, rank, out, rank);
  return svd(product(r, a, rank, rank, into), rank, into, 1).vt;
}
