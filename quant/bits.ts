// Codes of one, two or four bits in bytes, the first one in the lowest bits: packed on the host or by a recipe, and unpacked by a recipe.
//   byte k = Σ_j 2^{b·j}·code_{k·8/b + j};   code = ⌊byte/2^{b·j}⌋ − 2ᵇ·⌊byte/2^{b·(j+1)}⌋, exact in float32
import { floor } from '../core/ops/map.ts';
import { pad } from '../core/ops/move.ts';
import { size } from '../core/shape.ts';
import { leaf, type Tensor } from '../core/tensor.ts';

export type FewBits = 1 | 2 | 4;
/** Bytes for n codes. */
export const bytesFor = (n: number, bits: FewBits): number => Math.ceil((n * bits) / 8);
const weights = (bits: FewBits): number[] => Array.from({ length: 8 / bits }, (_, j) => 2 ** (bits * j));

export function packBits(codes: ArrayLike<number>, bits: FewBits): Uint8Array {
  const bytes = new Uint8Array(bytesFor(codes.length, bits));
  for (let i = 0; i < codes.length; i++) bytes[Math.floor((i * bits) / 8)]! |= codes[i]! << ((i * bits) % 8);
  return bytes;
}

/** codes in any shape, n of them → bytes [⌈n·bits/8⌉] */
export function packedBits(codes: Tensor, bits: FewBits): Tensor {
  const [n, per] = [size(codes.shape), 8 / bits];
  const bytes = bytesFor(n, bits);
  const all = pad(codes.reshape(n), 0, 0, bytes * per - n).reshape(bytes, per);
  return all.mul(leaf(weights(bits), [1, per])).sum([1]);
}

/** bytes [⌈n·bits/8⌉] → their first n codes, [n] */
export function unpackedBits(bytes: Tensor, bits: FewBits, n: number): Tensor {
  const [k, per] = [size(bytes.shape), 8 / bits];
  const shifted = bytes.reshape(k, 1).div(leaf(weights(bits), [1, per]));
  return floor(shifted)
    .sub(floor(shifted.mul(2 ** -bits)).mul(2 ** bits))
    .reshape(k * per)
    .slice(0, 0, n);
}
