// C = A·B by packed panels: a 6×8 tile of C stays in registers while a strip of A and one of B stream by.
// Any strides, so every transpose is a way of packing.
import { SCRATCH } from '../opcodes';
import { tile } from './tiles';

export const MR: i32 = 6;
export const NR: i32 = 8;
export const KC: i32 = 256; // a strip of A (6·KC) and of B (8·KC) fit the first-level cache
export const MC: i32 = 120; // a block of A (MC·KC) fits the second-level cache
export const NC: i32 = 512;
/** Bytes from one column of a strip of A to the next. */
const STEP: usize = 24;

/** rows×kc of A from (m0, k0) into strips of MR rows, k-major; missing rows are 0. */
export function packA(to: usize, a: usize, rows: i32, kc: i32, am: i32, ak: i32): void {
  for (let m = 0; m < rows; m += MR) {
    const n = min(MR, rows - m);
    const from = a + (<usize>(m * am) << 2);
    if (n == MR) {
      const s = <usize>am << 2;
      const p1 = from + s, p2 = p1 + s, p3 = p2 + s, p4 = p3 + s, p5 = p4 + s;
      const step = <usize>ak << 2;
      let o: usize = 0;
      for (let k = 0; k < kc; k++) {
        store<f32>(to, load<f32>(from + o));
        store<f32>(to, load<f32>(p1 + o), 4);
        store<f32>(to, load<f32>(p2 + o), 8);
        store<f32>(to, load<f32>(p3 + o), 12);
        store<f32>(to, load<f32>(p4 + o), 16);
        store<f32>(to, load<f32>(p5 + o), 20);
        to += 24;
        o += step;
      }
    } else {
      for (let k = 0; k < kc; k++) {
        for (let r = 0; r < MR; r++) store<f32>(to + (<usize>r << 2), r < n ? load<f32>(from + (<usize>(r * am + k * ak) << 2)) : 0);
        to += 24;
      }
    }
  }
}

/** kc×cols of B into strips of NR columns, k-major; missing columns are 0. */
export function packB(to: usize, b: usize, cols: i32, kc: i32, bk: i32, bn: i32): void {
  for (let n0 = 0; n0 < cols; n0 += NR) {
    const n = min(NR, cols - n0);
    const from = b + (<usize>(n0 * bn) << 2);
    if (n == NR && bn == 1) {
      let p = from;
      const step = <usize>bk << 2;
      for (let k = 0; k < kc; k++) {
        v128.store(to, v128.load(p));
        v128.store(to, v128.load(p, 16), 16);
        to += 32;
        p += step;
      }
    } else if (n == NR && bk == 1) {
      const s = <usize>bn << 2;
      let k = 0;
      for (; k + 4 <= kc; k += 4) { // 4×4 transposes
        const p = from + (<usize>k << 2);
        for (let half = 0; half < 2; half++) {
          const q = p + s * <usize>(half * 4);
          const r0 = v128.load(q), r1 = v128.load(q + s), r2 = v128.load(q + 2 * s), r3 = v128.load(q + 3 * s);
          const t0 = v128.shuffle<f32>(r0, r1, 0, 4, 1, 5), t1 = v128.shuffle<f32>(r2, r3, 0, 4, 1, 5);
          const t2 = v128.shuffle<f32>(r0, r1, 2, 6, 3, 7), t3 = v128.shuffle<f32>(r2, r3, 2, 6, 3, 7);
          const o = to + <usize>(half << 4);
          v128.store(o, v128.shuffle<f64>(t0, t1, 0, 2));
          v128.store(o, v128.shuffle<f64>(t0, t1, 1, 3), 32);
          v128.store(o, v128.shuffle<f64>(t2, t3, 0, 2), 64);
          v128.store(o, v128.shuffle<f64>(t2, t3, 1, 3), 96);
        }
        to += 128;
      }
      for (; k < kc; k++) {
        for (let j = 0; j < NR; j++) store<f32>(to + (<usize>j << 2), load<f32>(from + (<usize>k << 2) + s * <usize>j));
        to += 32;
      }
    } else {
      for (let k = 0; k < kc; k++) {
        for (let j = 0; j < NR; j++) store<f32>(to + (<usize>j << 2), j < n ? load<f32>(from + (<usize>(j * bn + k * bk) << 2)) : 0);
        to += 32;
      }
    }
  }
}

/** C += a finished tile, rows of 8 floats. Apart from the tile's loop: a branch after it makes V8 spill inside it (tiles.ts). */
function addTile(c: usize, ldc: usize, from: usize): void {
  for (let i = 0; i < MR; i++) {
    v128.store(c, f32x4.add(v128.load(c), v128.load(from)));
    v128.store(c, f32x4.add(v128.load(c, 16), v128.load(from, 16)), 16);
    c += ldc;
    from += 32;
  }
}

/** One product. Element (m, k) of A is at a + 4(m·am + k·ak), (k, n) of B at b + 4(k·bk + n·bn); rows of C are ldc apart. */
export function gemm(c: usize, a: usize, b: usize, M: i32, N: i32, K: i32, am: i32, ak: i32, bk: i32, bn: i32, ldc: i32, scratch: usize): void {
  const edge = scratch;                                  // 6×8 floats for tiles that hang over
  const pb = scratch + 256;                              // NC·KC floats
  const pa = pb + <usize>(NC * KC * 4);                  // MC·KC floats
  const row = <usize>ldc << 2;
  for (let n0 = 0; n0 < N; n0 += NC) {
    const nc = min(NC, N - n0);
    for (let k0 = 0; k0 < K; k0 += KC) {
      const kc = min(KC, K - k0);
      packB(pb, b + (<usize>(k0 * bk + n0 * bn) << 2), nc, kc, bk, bn);
      for (let m0 = 0; m0 < M; m0 += MC) {
        const mc = min(MC, M - m0);
        packA(pa, a + (<usize>(m0 * am + k0 * ak) << 2), mc, kc, am, ak);
        multiply(c + <usize>m0 * row + (<usize>n0 << 2), row, pa, pb, mc, nc, kc, k0 > 0, edge);
      }
    }
  }
}

/** Packed panels times each other, mc×nc of C, written or added to what is there. `edge`: 6×8 floats for tiles that hang over. */
export function multiply(c: usize, row: usize, pa: usize, pb: usize, mc: i32, nc: i32, kc: i32, add: bool, edge: usize): void {
  for (let n = 0; n < nc; n += NR) {
    const bs = pb + (<usize>(n * kc) << 2);
    for (let m = 0; m < mc; m += MR) {
      const as = pa + (<usize>(m * kc) << 2);
      const at = c + <usize>m * row + (<usize>n << 2);
      if (m + MR <= mc && n + NR <= nc) {
        if (add) {
          tile(edge, 32, as, STEP, bs, kc);
          addTile(at, row, edge);
        } else tile(at, row, as, STEP, bs, kc);
      }
      else {
        tile(edge, 32, as, STEP, bs, kc);
        const h = min(MR, mc - m), w = min(NR, nc - n);
        for (let i = 0; i < h; i++)
          for (let j = 0; j < w; j++) {
            const p = at + <usize>i * row + (<usize>j << 2);
            const v = load<f32>(edge + <usize>((i << 5) + (j << 2)));
            store<f32>(p, add ? load<f32>(p) + v : v);
          }
      }
    }
  }
}

/** [c, a, b, batch, M, N, K, am, ak, bk, bn, batches: (aOffset, bOffset) per batch index, in elements] */
export function matmul(p: usize, tid: i32, threads: i32, scratch: usize): void {
  const c = <usize>load<u32>(p), a = <usize>load<u32>(p, 4), b = <usize>load<u32>(p, 8);
  const batch = load<i32>(p, 12), M = load<i32>(p, 16), N = load<i32>(p, 20), K = load<i32>(p, 24);
  const am = load<i32>(p, 28), ak = load<i32>(p, 32), bk = load<i32>(p, 36), bn = load<i32>(p, 40);
  const offsets = p + 44;
  const each = <usize>(M * N) << 2;
  if (batch >= threads || threads == 1) {
    const from = batch * tid / threads, to = batch * (tid + 1) / threads;
    for (let k = from; k < to; k++)
      gemm(c + <usize>k * each, a + (<usize>load<u32>(offsets + (<usize>k << 3)) << 2), b + (<usize>load<u32>(offsets + (<usize>k << 3), 4) << 2), M, N, K, am, ak, bk, bn, N, scratch);
    return;
  }
  for (let k = 0; k < batch; k++) {
    const ca = c + <usize>k * each, aa = a + (<usize>load<u32>(offsets + (<usize>k << 3)) << 2), ba = b + (<usize>load<u32>(offsets + (<usize>k << 3), 4) << 2);
    if (M >= N) {                                        // whole tiles to each thread
      const strips = (M + MR - 1) / MR;
      const from = min(M, strips * tid / threads * MR), to = min(M, strips * (tid + 1) / threads * MR);
      if (to > from) gemm(ca + (<usize>(from * N) << 2), aa + (<usize>(from * am) << 2), ba, to - from, N, K, am, ak, bk, bn, N, scratch);
    } else {
      const strips = (N + NR - 1) / NR;
      const from = min(N, strips * tid / threads * NR), to = min(N, strips * (tid + 1) / threads * NR);
      if (to > from) gemm(ca + (<usize>from << 2), aa, ba + (<usize>(from * bn) << 2), M, to - from, K, am, ak, bk, bn, N, scratch);
    }
  }
}
