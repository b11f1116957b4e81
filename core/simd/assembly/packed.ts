// C = A·B where A, B or both are packed matrices: decoded a panel at a time, on the way into the panels that the product is made of.
import { KC, MC, MR, multiply, NC, NR, packA, packB } from './matmul';
import { unpackRow } from './unpack';

/** Columns of B that are decoded at once when its rows run along them: 64·KC floats stay in the second-level cache. */
const WIDE: i32 = 64;

/**
 * kc×nc of B from (k0, n0). `d`: the packed operand. Rows of the packed matrix are B's columns when `turned`. `room`: WIDE·KC floats.
 */
function decodeB(to: usize, d: usize, turned: bool, k0: i32, n0: i32, nc: i32, kc: i32, room: usize): void {
  const wide = turned ? NR : WIDE;
  for (let n = 0; n < nc; n += wide) {
    const w = min(wide, nc - n);
    if (turned) {
      for (let j = 0; j < w; j++) unpackRow(room + (<usize>(j * kc) << 2), d, n0 + n + j, k0, kc);
      packB(to + (<usize>(n * kc) << 2), room, w, kc, 1, kc);
    } else {
      for (let k = 0; k < kc; k++) unpackRow(room + (<usize>(k * w) << 2), d, k0 + k, n0 + n, w);
      packB(to + (<usize>(n * kc) << 2), room, w, kc, w, 1);
    }
  }
}

/** mc×kc of A from (m0, k0); `room`: MC·KC floats. */
function decodeA(to: usize, d: usize, turned: bool, m0: i32, k0: i32, mc: i32, kc: i32, room: usize): void {
  if (turned) {
    for (let k = 0; k < kc; k++) unpackRow(room + (<usize>(k * mc) << 2), d, k0 + k, m0, mc);
    packA(to, room, mc, kc, 1, mc);
  } else {
    for (let m = 0; m < mc; m++) unpackRow(room + (<usize>(m * kc) << 2), d, m0 + m, k0, kc);
    packA(to, room, mc, kc, kc, 1);
  }
}

/**
 * Rows m from … mTo and columns nFrom … nTo of one product. A plain operand is an address and strides, as in gemm; a packed one a
 * description (0: plain) and whether it is turned.
 */
function gemm(
  c: usize, a: usize, b: usize, da: usize, db: usize, ta: bool, tb: bool, mFrom: i32, mTo: i32, nFrom: i32, nTo: i32, K: i32,
  am: i32, ak: i32, bk: i32, bn: i32, ldc: i32, scratch: usize,
): void {
  const edge = scratch;                                  // laid out as for plain products, and room to decode into
  const pb = scratch + 256;
  const pa = pb + <usize>(NC * KC * 4);
  const room = pa + <usize>(MC * KC * 4);
  const row = <usize>ldc << 2;
  for (let n0 = nFrom; n0 < nTo; n0 += NC) {
    const nc = min(NC, nTo - n0);
    for (let k0 = 0; k0 < K; k0 += KC) {
      const kc = min(KC, K - k0);
      if (db != 0) decodeB(pb, db, tb, k0, n0, nc, kc, room);
      else packB(pb, b + (<usize>(k0 * bk + n0 * bn) << 2), nc, kc, bk, bn);
      for (let m0 = mFrom; m0 < mTo; m0 += MC) {
        const mc = min(MC, mTo - m0);
        if (da != 0) decodeA(pa, da, ta, m0, k0, mc, kc, room);
        else packA(pa, a + (<usize>(m0 * am + k0 * ak) << 2), mc, kc, am, ak);
        multiply(c + <usize>m0 * row + (<usize>n0 << 2), row, pa, pb, mc, nc, kc, k0 > 0, edge);
      }
    }
  }
}

/**
 * [c, a, b, batch, M, N, K, am, ak, bk, bn, da: 10 words, db: 10 words, ta, tb, batches: (aOffset, bOffset) per batch index, in elements]. A
 * packed operand is one matrix for the whole batch. Threads share rows or columns of C, never a sum.
 */
export function matmulPacked(p: usize, tid: i32, threads: i32, scratch: usize): void {
  const c = <usize>load<u32>(p), a = <usize>load<u32>(p, 4), b = <usize>load<u32>(p, 8);
  const batch = load<i32>(p, 12), M = load<i32>(p, 16), N = load<i32>(p, 20), K = load<i32>(p, 24);
  const am = load<i32>(p, 28), ak = load<i32>(p, 32), bk = load<i32>(p, 36), bn = load<i32>(p, 40);
  const da = load<i32>(p, 44 + 16) != 0 ? p + 44 : 0, db = load<i32>(p, 84 + 16) != 0 ? p + 84 : 0;
  const ta = load<i32>(p, 124) != 0, tb = load<i32>(p, 128) != 0;
  const offsets = p + 132;
  const each = <usize>(M * N) << 2;
  // A thread decodes what it multiplies. Sharing what runs along the packed operand, no two decode the same numbers.
  const byRows = db == 0;
  const strips = byRows ? (M + MR - 1) / MR : (N + NR - 1) / NR, size = byRows ? MR : NR, all = byRows ? M : N;
  const from = min(all, strips * tid / threads * size), to = min(all, strips * (tid + 1) / threads * size);
  if (from >= to) return;
  for (let k = 0; k < batch; k++) {
    const at = offsets + (<usize>k << 3);
    const ca = c + <usize>k * each, aa = a + (<usize>load<u32>(at) << 2), ba = b + (<usize>load<u32>(at, 4) << 2);
    if (byRows) gemm(ca, aa, ba, da, db, ta, tb, from, to, 0, N, K, am, ak, bk, bn, N, scratch);
    else gemm(ca, aa, ba, da, db, ta, tb, 0, M, from, to, K, am, ak, bk, bn, N, scratch);
  }
}
