// 6×8 tiles of C: twelve sums, two rows of B and one element of A just fill the registers. The first is every product's; the others are those inside
// attention, over operands that lie where a strip of scores leaves them, with the ways of packing them. They differ in where A lies and in what C starts
// from, and are written out: a branch after the loop, or sums handed to a function, makes V8 spill inside it, which costs a third of the speed.
import { madd } from './madd';

export const STRIP: i32 = 6;
/** Floats from one row of scores to the next, so that six rows are one pointer and five constants. */
export const LD: i32 = 272;

/** C = A·B: six elements of A lie side by side, the next six `step` bytes on; B is eight columns packed row by row. */
export function tile(c: usize, ldc: usize, a: usize, step: usize, b: usize, kc: i32): void {
  let c00 = f32x4.splat(0), c01 = f32x4.splat(0);
  let c10 = f32x4.splat(0), c11 = f32x4.splat(0);
  let c20 = f32x4.splat(0), c21 = f32x4.splat(0);
  let c30 = f32x4.splat(0), c31 = f32x4.splat(0);
  let c40 = f32x4.splat(0), c41 = f32x4.splat(0);
  let c50 = f32x4.splat(0), c51 = f32x4.splat(0);
  const end = b + (<usize>kc << 5);
  while (b < end) {
    const b0 = v128.load(b), b1 = v128.load(b, 16);
    const x0 = v128.load_splat<f32>(a, 0);
    c00 = madd(x0, b0, c00);
    c01 = madd(x0, b1, c01);
    const x1 = v128.load_splat<f32>(a, 4);
    c10 = madd(x1, b0, c10);
    c11 = madd(x1, b1, c11);
    const x2 = v128.load_splat<f32>(a, 8);
    c20 = madd(x2, b0, c20);
    c21 = madd(x2, b1, c21);
    const x3 = v128.load_splat<f32>(a, 12);
    c30 = madd(x3, b0, c30);
    c31 = madd(x3, b1, c31);
    const x4 = v128.load_splat<f32>(a, 16);
    c40 = madd(x4, b0, c40);
    c41 = madd(x4, b1, c41);
    const x5 = v128.load_splat<f32>(a, 20);
    c50 = madd(x5, b0, c50);
    c51 = madd(x5, b1, c51);
    a += step;
    b += 32;
  }
  v128.store(c, c00);
  v128.store(c, c01, 16);
  c += ldc;
  v128.store(c, c10);
  v128.store(c, c11, 16);
  c += ldc;
  v128.store(c, c20);
  v128.store(c, c21, 16);
  c += ldc;
  v128.store(c, c30);
  v128.store(c, c31, 16);
  c += ldc;
  v128.store(c, c40);
  v128.store(c, c41, 16);
  c += ldc;
  v128.store(c, c50);
  v128.store(c, c51, 16);
}

/** C += A·B, operands as in `tile`. */
export function tileAdd(c: usize, ldc: usize, a: usize, step: usize, b: usize, kc: i32): void {
  const r1 = c + ldc, r2 = r1 + ldc, r3 = r2 + ldc, r4 = r3 + ldc, r5 = r4 + ldc;
  let c00 = v128.load(c), c01 = v128.load(c, 16);
  let c10 = v128.load(r1), c11 = v128.load(r1, 16);
  let c20 = v128.load(r2), c21 = v128.load(r2, 16);
  let c30 = v128.load(r3), c31 = v128.load(r3, 16);
  let c40 = v128.load(r4), c41 = v128.load(r4, 16);
  let c50 = v128.load(r5), c51 = v128.load(r5, 16);
  const end = b + (<usize>kc << 5);
  while (b < end) {
    const b0 = v128.load(b), b1 = v128.load(b, 16);
    const x0 = v128.load_splat<f32>(a, 0);
    c00 = madd(x0, b0, c00);
    c01 = madd(x0, b1, c01);
    const x1 = v128.load_splat<f32>(a, 4);
    c10 = madd(x1, b0, c10);
    c11 = madd(x1, b1, c11);
    const x2 = v128.load_splat<f32>(a, 8);
    c20 = madd(x2, b0, c20);
    c21 = madd(x2, b1, c21);
    const x3 = v128.load_splat<f32>(a, 12);
    c30 = madd(x3, b0, c30);
    c31 = madd(x3, b1, c31);
    const x4 = v128.load_splat<f32>(a, 16);
    c40 = madd(x4, b0, c40);
    c41 = madd(x4, b1, c41);
    const x5 = v128.load_splat<f32>(a, 20);
    c50 = madd(x5, b0, c50);
    c51 = madd(x5, b1, c51);
    a += step;
    b += 32;
  }
  v128.store(c, c00);
  v128.store(c, c01, 16);
  c += ldc;
  v128.store(c, c10);
  v128.store(c, c11, 16);
  c += ldc;
  v128.store(c, c20);
  v128.store(c, c21, 16);
  c += ldc;
  v128.store(c, c30);
  v128.store(c, c31, 16);
  c += ldc;
  v128.store(c, c40);
  v128.store(c, c41, 16);
  c += ldc;
  v128.store(c, c50);
  v128.store(c, c51, 16);
}

/** C += A·B with the six rows of A `LD` floats apart. */
export function tileRows(c: usize, ldc: usize, a: usize, b: usize, kc: i32): void {
  const r1 = c + ldc, r2 = r1 + ldc, r3 = r2 + ldc, r4 = r3 + ldc, r5 = r4 + ldc;
  let c00 = v128.load(c), c01 = v128.load(c, 16);
  let c10 = v128.load(r1), c11 = v128.load(r1, 16);
  let c20 = v128.load(r2), c21 = v128.load(r2, 16);
  let c30 = v128.load(r3), c31 = v128.load(r3, 16);
  let c40 = v128.load(r4), c41 = v128.load(r4, 16);
  let c50 = v128.load(r5), c51 = v128.load(r5, 16);
  const end = b + (<usize>kc << 5);
  while (b < end) {
    const b0 = v128.load(b), b1 = v128.load(b, 16);
    const x0 = v128.load_splat<f32>(a, 0);
    c00 = madd(x0, b0, c00);
    c01 = madd(x0, b1, c01);
    const x1 = v128.load_splat<f32>(a, 1 * LD << 2);
    c10 = madd(x1, b0, c10);
    c11 = madd(x1, b1, c11);
    const x2 = v128.load_splat<f32>(a, 2 * LD << 2);
    c20 = madd(x2, b0, c20);
    c21 = madd(x2, b1, c21);
    const x3 = v128.load_splat<f32>(a, 3 * LD << 2);
    c30 = madd(x3, b0, c30);
    c31 = madd(x3, b1, c31);
    const x4 = v128.load_splat<f32>(a, 4 * LD << 2);
    c40 = madd(x4, b0, c40);
    c41 = madd(x4, b1, c41);
    const x5 = v128.load_splat<f32>(a, 5 * LD << 2);
    c50 = madd(x5, b0, c50);
    c51 = madd(x5, b1, c51);
    a += 4;
    b += 32;
  }
  v128.store(c, c00);
  v128.store(c, c01, 16);
  c += ldc;
  v128.store(c, c10);
  v128.store(c, c11, 16);
  c += ldc;
  v128.store(c, c20);
  v128.store(c, c21, 16);
  c += ldc;
  v128.store(c, c30);
  v128.store(c, c31, 16);
  c += ldc;
  v128.store(c, c40);
  v128.store(c, c41, 16);
  c += ldc;
  v128.store(c, c50);
  v128.store(c, c51, 16);
}

/** `rows` (at most 6) × D into columns of six, times `by`; missing rows are 0. */
export function packRows(to: usize, x: usize, row: usize, rows: i32, D: i32, by: f32): void {
  const s = f32x4.splat(by);
  let k = 0;
  if (rows == STRIP) {
    const x1 = x + row, x2 = x1 + row, x3 = x2 + row, x4 = x3 + row, x5 = x4 + row;
    for (; k + 4 <= D; k += 4) {
      const o = <usize>k << 2;
      const r0 = f32x4.mul(s, v128.load(x + o)), r1 = f32x4.mul(s, v128.load(x1 + o)), r2 = f32x4.mul(s, v128.load(x2 + o));
      const r3 = f32x4.mul(s, v128.load(x3 + o)), r4 = f32x4.mul(s, v128.load(x4 + o)), r5 = f32x4.mul(s, v128.load(x5 + o));
      const t0 = v128.shuffle<f32>(r0, r1, 0, 4, 1, 5), t1 = v128.shuffle<f32>(r2, r3, 0, 4, 1, 5);
      const t2 = v128.shuffle<f32>(r0, r1, 2, 6, 3, 7), t3 = v128.shuffle<f32>(r2, r3, 2, 6, 3, 7);
      const u0 = v128.shuffle<f32>(r4, r5, 0, 4, 1, 5), u1 = v128.shuffle<f32>(r4, r5, 2, 6, 3, 7);
      v128.store(to, v128.shuffle<f64>(t0, t1, 0, 2));
      v128.store_lane<i64>(to, u0, 0, 16);
      v128.store(to, v128.shuffle<f64>(t0, t1, 1, 3), 24);
      v128.store_lane<i64>(to, u0, 1, 40);
      v128.store(to, v128.shuffle<f64>(t2, t3, 0, 2), 48);
      v128.store_lane<i64>(to, u1, 0, 64);
      v128.store(to, v128.shuffle<f64>(t2, t3, 1, 3), 72);
      v128.store_lane<i64>(to, u1, 1, 88);
      to += 96;
    }
  }
  for (; k < D; k++) {
    for (let r = 0; r < STRIP; r++) store<f32>(to + (<usize>r << 2), r < rows ? load<f32>(x + <usize>r * row + (<usize>k << 2)) * by : 0);
    to += 24;
  }
}

/** n rows × D, transposed: strips of eight rows, D × 8 each; missing rows are 0. */
export function packKeys(to: usize, x: usize, row: usize, n: i32, D: i32): void {
  for (let n0 = 0; n0 < n; n0 += 8) {
    const from = x + <usize>n0 * row;
    let k = 0;
    if (n0 + 8 <= n)
      for (; k + 4 <= D; k += 4) {
        for (let half: usize = 0; half < 2; half++) {
          const q = from + (<usize>k << 2) + row * (half << 2);
          const r0 = v128.load(q), r1 = v128.load(q + row), r2 = v128.load(q + 2 * row), r3 = v128.load(q + 3 * row);
          const t0 = v128.shuffle<f32>(r0, r1, 0, 4, 1, 5), t1 = v128.shuffle<f32>(r2, r3, 0, 4, 1, 5);
          const t2 = v128.shuffle<f32>(r0, r1, 2, 6, 3, 7), t3 = v128.shuffle<f32>(r2, r3, 2, 6, 3, 7);
          const o = to + (half << 4);
          v128.store(o, v128.shuffle<f64>(t0, t1, 0, 2));
          v128.store(o, v128.shuffle<f64>(t0, t1, 1, 3), 32);
          v128.store(o, v128.shuffle<f64>(t2, t3, 0, 2), 64);
          v128.store(o, v128.shuffle<f64>(t2, t3, 1, 3), 96);
        }
        to += 128;
      }
    for (; k < D; k++) {
      for (let j = 0; j < 8; j++) store<f32>(to + (<usize>j << 2), n0 + j < n ? load<f32>(from + <usize>j * row + (<usize>k << 2)) : 0);
      to += 32;
    }
  }
}

/** n rows × D: strips of eight columns, n × 8 each; missing columns are 0. */
export function packColumns(to: usize, x: usize, row: usize, n: i32, D: i32): void {
  for (let j = 0; j < D; j += 8) {
    let from = x + (<usize>j << 2);
    const w = min(8, D - j);
    for (let i = 0; i < n; i++) {
      if (w == 8) {
        v128.store(to, v128.load(from));
        v128.store(to, v128.load(from, 16), 16);
      } else for (let c = 0; c < 8; c++) store<f32>(to + (<usize>c << 2), c < w ? load<f32>(from + (<usize>c << 2)) : 0);
      to += 32;
      from += row;
    }
  }
}
