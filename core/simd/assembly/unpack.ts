// Packed matrices: codes of 2, 4 or 8 bits with scales by block, and half-precision floats, decoded a run of a row at a time.
import { AFFINE, BF16, F16, INT8, SHIFTED, TABLE } from '../opcodes';

// A packed operand is ten words: [codes, scales, values or zeros, offset, form (0: not packed), bits, block,
// layout (1: rows begin a byte and a block; 2: zeros are bytes), cols, from].

/** One code, by its place in the matrix's own numbering. */
@inline function codeAt(codes: usize, i: u32, bits: i32): i32 {
  if (bits == 8) return load<u8>(codes + i);
  if (bits == 4) return (<i32>load<u8>(codes + (i >> 1)) >> (4 - ((i & 1) << 2))) & 15;
  return (<i32>load<u8>(codes + (i >> 2)) >> (6 - ((i & 3) << 1))) & 3;
}

/** `n` codes from place `i` on, all of one block, as numbers: one at a time. */
function slow(to: usize, codes: usize, i: u32, n: i32, bits: i32, f: i32, table: usize, s: f32, z: f32): void {
  for (let k = 0; k < n; k++) {
    const q = codeAt(codes, i + k, bits);
    let v: f32;
    if (f == AFFINE) v = (<f32>q - z) * s;
    else if (f == INT8) v = <f32><i8>q * s / 127;
    else if (f == SHIFTED) v = load<f32>(table + (<usize>q << 2)) * s + z;
    else v = load<f32>(table + (<usize>q << 2)) * s;
    store<f32>(to + (<usize>k << 2), v);
  }
}

/** Sixteen codes, one to a byte, as sixteen numbers: (q − z)·s. */
@inline function affine16(to: usize, q: v128, s: v128, z: v128): void {
  const low = i16x8.extend_low_i8x16_u(q), high = i16x8.extend_high_i8x16_u(q);
  v128.store(to, f32x4.mul(f32x4.sub(f32x4.convert_i32x4_u(i32x4.extend_low_i16x8_u(low)), z), s));
  v128.store(to, f32x4.mul(f32x4.sub(f32x4.convert_i32x4_u(i32x4.extend_high_i16x8_u(low)), z), s), 16);
  v128.store(to, f32x4.mul(f32x4.sub(f32x4.convert_i32x4_u(i32x4.extend_low_i16x8_u(high)), z), s), 32);
  v128.store(to, f32x4.mul(f32x4.sub(f32x4.convert_i32x4_u(i32x4.extend_high_i16x8_u(high)), z), s), 48);
}
/** Eight bytes of two codes each, the first one high, as sixteen bytes. */
@inline function nibbles(p: usize): v128 {
  const b = v128.load64_zero(p);
  const high = i8x16.shr_u(b, 4), low = v128.and(b, i8x16.splat(15));
  return v128.shuffle<u8>(high, low, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
}
/** Four bytes of four codes each as sixteen bytes. */
@inline function pairs(p: usize): v128 {
  const b = v128.load32_zero(p);
  const three = i8x16.splat(3);
  const q0 = i8x16.shr_u(b, 6), q1 = v128.and(i8x16.shr_u(b, 4), three), q2 = v128.and(i8x16.shr_u(b, 2), three), q3 = v128.and(b, three);
  const even = v128.shuffle<u8>(q0, q2, 0, 16, 1, 17, 2, 18, 3, 19, 0, 0, 0, 0, 0, 0, 0, 0);
  const odd = v128.shuffle<u8>(q1, q3, 0, 16, 1, 17, 2, 18, 3, 19, 0, 0, 0, 0, 0, 0, 0, 0);
  return v128.shuffle<u8>(even, odd, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
}

/** `n` codes of one block, sixteen at a time where they begin on a byte. */
function run(to: usize, codes: usize, i: u32, n: i32, bits: i32, f: i32, table: usize, s: f32, z: f32): void {
  const per = 8 / bits;
  if (bits == 8 && (f == TABLE || f == SHIFTED)) { slow(to, codes, i, n, bits, f, table, s, z); return; }
  const skip = min(n, <i32>((per - <i32>(i & (per - 1))) & (per - 1)));
  if (skip > 0) {
    slow(to, codes, i, skip, bits, f, table, s, z);
    to += <usize>skip << 2;
    i += skip;
    n -= skip;
  }
  const whole = n & ~15;
  const vs = f32x4.splat(s), vz = f32x4.splat(z);
  let p = codes + i / per;
  const end = to + (<usize>whole << 2);
  if (f == AFFINE) {
    if (bits == 4) for (; to < end; to += 64, p += 8) affine16(to, nibbles(p), vs, vz);
    else if (bits == 2) for (; to < end; to += 64, p += 4) affine16(to, pairs(p), vs, vz);
    else for (; to < end; to += 64, p += 16) affine16(to, v128.load(p), vs, vz);
  } else if (f == INT8) {
    const d = f32x4.splat(127);
    for (; to < end; to += 64, p += 16) {
      const q = v128.load(p);
      const low = i16x8.extend_low_i8x16_s(q), high = i16x8.extend_high_i8x16_s(q);
      v128.store(to, f32x4.div(f32x4.mul(f32x4.convert_i32x4_s(i32x4.extend_low_i16x8_s(low)), vs), d));
      v128.store(to, f32x4.div(f32x4.mul(f32x4.convert_i32x4_s(i32x4.extend_high_i16x8_s(low)), vs), d), 16);
      v128.store(to, f32x4.div(f32x4.mul(f32x4.convert_i32x4_s(i32x4.extend_low_i16x8_s(high)), vs), d), 32);
      v128.store(to, f32x4.div(f32x4.mul(f32x4.convert_i32x4_s(i32x4.extend_high_i16x8_s(high)), vs), d), 48);
    }
  } else {
    // A table of 16 floats as four tables of 16 bytes: a swizzle picks byte k of sixteen values at once.
    const t0 = v128.load(table), t1 = v128.load(table, 16), t2 = v128.load(table, 32), t3 = v128.load(table, 48);
    const a0 = v128.shuffle<u8>(t0, t1, 0, 4, 8, 12, 16, 20, 24, 28, 0, 0, 0, 0, 0, 0, 0, 0), b0 = v128.shuffle<u8>(t2, t3, 0, 4, 8, 12, 16, 20, 24, 28, 0, 0, 0, 0, 0, 0, 0, 0);
    const a1 = v128.shuffle<u8>(t0, t1, 1, 5, 9, 13, 17, 21, 25, 29, 0, 0, 0, 0, 0, 0, 0, 0), b1 = v128.shuffle<u8>(t2, t3, 1, 5, 9, 13, 17, 21, 25, 29, 0, 0, 0, 0, 0, 0, 0, 0);
    const a2 = v128.shuffle<u8>(t0, t1, 2, 6, 10, 14, 18, 22, 26, 30, 0, 0, 0, 0, 0, 0, 0, 0), b2 = v128.shuffle<u8>(t2, t3, 2, 6, 10, 14, 18, 22, 26, 30, 0, 0, 0, 0, 0, 0, 0, 0);
    const a3 = v128.shuffle<u8>(t0, t1, 3, 7, 11, 15, 19, 23, 27, 31, 0, 0, 0, 0, 0, 0, 0, 0), b3 = v128.shuffle<u8>(t2, t3, 3, 7, 11, 15, 19, 23, 27, 31, 0, 0, 0, 0, 0, 0, 0, 0);
    const p0 = v128.shuffle<f64>(a0, b0, 0, 2), p1 = v128.shuffle<f64>(a1, b1, 0, 2), p2 = v128.shuffle<f64>(a2, b2, 0, 2), p3 = v128.shuffle<f64>(a3, b3, 0, 2);
    const shifted = f == SHIFTED;
    const step: usize = bits == 4 ? 8 : 4;
    for (; to < end; to += 64, p += step) {
      const q = bits == 4 ? nibbles(p) : pairs(p);
      const x0 = v128.swizzle(p0, q), x1 = v128.swizzle(p1, q), x2 = v128.swizzle(p2, q), x3 = v128.swizzle(p3, q);
      const l01 = v128.shuffle<u8>(x0, x1, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23), h01 = v128.shuffle<u8>(x0, x1, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
      const l23 = v128.shuffle<u8>(x2, x3, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23), h23 = v128.shuffle<u8>(x2, x3, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
      let v0 = f32x4.mul(v128.shuffle<u16>(l01, l23, 0, 8, 1, 9, 2, 10, 3, 11), vs), v1 = f32x4.mul(v128.shuffle<u16>(l01, l23, 4, 12, 5, 13, 6, 14, 7, 15), vs);
      let v2 = f32x4.mul(v128.shuffle<u16>(h01, h23, 0, 8, 1, 9, 2, 10, 3, 11), vs), v3 = f32x4.mul(v128.shuffle<u16>(h01, h23, 4, 12, 5, 13, 6, 14, 7, 15), vs);
      if (shifted) { v0 = f32x4.add(v0, vz); v1 = f32x4.add(v1, vz); v2 = f32x4.add(v2, vz); v3 = f32x4.add(v3, vz); }
      v128.store(to, v0);
      v128.store(to, v1, 16);
      v128.store(to, v2, 32);
      v128.store(to, v3, 48);
    }
  }
  slow(to, codes, i + whole, n - whole, bits, f, table, s, z);
}

/** Four half-precision floats in the low halves of four words. */
@inline function f16x4(h: v128): v128 {
  // Shifted into place, the exponent is too small by 112: one exact product mends it, for subnormal numbers too.
  const magnitude = f32x4.mul(i32x4.shl(v128.and(h, i32x4.splat(0x7fff)), 13), f32x4.splat(reinterpret<f32>(0x77800000))); // 2¹¹²
  return v128.or(magnitude, i32x4.shl(v128.and(h, i32x4.splat(0x8000)), 16));
}
function halves(to: usize, from: usize, n: i32, f: i32): void {
  let k = 0;
  if (f == F16) for (; k + 4 <= n; k += 4, to += 16, from += 8) v128.store(to, f16x4(v128.load16x4_u(from)));
  else for (; k + 4 <= n; k += 4, to += 16, from += 8) v128.store(to, i32x4.shl(v128.load16x4_u(from), 16));
  for (; k < n; k++, to += 4, from += 2) {
    const h = i32x4.splat(<i32>load<u16>(from));
    store<f32>(to, f32x4.extract_lane(f == F16 ? f16x4(h) : i32x4.shl(h, 16), 0));
  }
}

/** Columns col … col + n of one row of a packed matrix. */
export function unpackRow(to: usize, d: usize, row: i32, col: i32, n: i32): void {
  const codes = <usize>load<u32>(d), scales = <usize>load<u32>(d, 4), extra = <usize>load<u32>(d, 8);
  const f = load<i32>(d, 16), bits = load<i32>(d, 20), block = <u32>load<i32>(d, 24), layout = load<i32>(d, 28), byRows = (layout & 1) != 0, bytes = (layout & 2) != 0;
  const cols = <u32>load<i32>(d, 32);
  row += load<i32>(d, 36);
  if (f == F16 || f == BF16) {
    halves(to, codes + ((<u32>row * cols + <u32>col) << 1), n, f);
    return;
  }
  const offset: f32 = f == SHIFTED ? load<f32>(<usize>load<u32>(d, 12)) : 0;
  // byRows: a row begins a byte and a block; else places are counted through the whole matrix.
  const base = byRows ? codes + <usize>(<u32>row * ((cols * bits + 7) >> 3)) : codes;
  let i = byRows ? <u32>col : <u32>row * cols + <u32>col;
  let b = i / block;
  const first = byRows ? <u32>row * ((cols + block - 1) / block) : 0;
  let left = n;
  while (left > 0) {
    const m = min<i32>(left, <i32>((b + 1) * block - i));
    const at = <usize>(first + b) << 2;
    const z: f32 = f != AFFINE ? offset : bytes ? <f32>load<u8>(extra + (at >> 2)) : load<f32>(extra + at);
    run(to, base, i, m, bits, f, extra, load<f32>(scales + at), z);
    to += <usize>m << 2;
    i += m;
    left -= m;
    b++;
  }
}

/** [out, rows, packed operand]: the whole matrix, for readers that want one. */
export function unpack(p: usize, tid: i32, threads: i32): void {
  const out = <usize>load<u32>(p), rows = load<i32>(p, 4);
  const d = p + 8;
  const cols = load<i32>(d, 32);
  if (rows >= threads) {
    for (let r = <i32>(<i64>rows * tid / threads), end = <i32>(<i64>rows * (tid + 1) / threads); r < end; r++)
      unpackRow(out + (<usize>(<u32>r * <u32>cols) << 2), d, r, 0, cols);
    return;
  }
  const from = <i32>(<i64>cols * tid / threads), to = <i32>(<i64>cols * (tid + 1) / threads);
  for (let r = 0; r < rows; r++) unpackRow(out + (<usize>(<u32>r * <u32>cols + <u32>from) << 2), d, r, from, to - from);
}

/** [out, ids, count, packed table]: rows by index. */
export function gatherPacked(p: usize, tid: i32, threads: i32): void {
  const out = <usize>load<u32>(p), ids = <usize>load<u32>(p, 4), n = load<i32>(p, 8);
  const d = p + 12;
  const cols = load<i32>(d, 32);
  for (let i = <i32>(<i64>n * tid / threads), end = <i32>(<i64>n * (tid + 1) / threads); i < end; i++)
    unpackRow(out + (<usize>(<u32>i * <u32>cols) << 2), d, <i32>load<f32>(ids + (<usize>i << 2)), 0, cols);
}
