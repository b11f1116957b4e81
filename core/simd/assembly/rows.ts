// Softmax and norms over the last dimension: each row is read once from memory and stays in the first-level cache.
import { madd } from './madd';
import { decay4 } from './math';

@inline function hsum(v: v128): f32 {
  return f32x4.extract_lane(v, 0) + f32x4.extract_lane(v, 1) + (f32x4.extract_lane(v, 2) + f32x4.extract_lane(v, 3));
}
@inline function hmax(v: v128): f32 {
  return max(max(f32x4.extract_lane(v, 0), f32x4.extract_lane(v, 1)), max(f32x4.extract_lane(v, 2), f32x4.extract_lane(v, 3)));
}
@inline function exp1(x: f32): f32 { return f32x4.extract_lane(decay4(f32x4.splat(x)), 0); }
@inline function get(x: usize, i: i32): f32 { return load<f32>(x + (<usize>i << 2)); }
@inline function set(x: usize, i: i32, v: f32): void { store<f32>(x + (<usize>i << 2), v); }

function dot(x: usize, y: usize, n: i32): f32 {
  const n8 = <usize>(n & ~7) << 2;
  let a = f32x4.splat(0), b = a;
  for (let i: usize = 0; i < n8; i += 32) {
    a = madd(v128.load(x + i), v128.load(y + i), a);
    b = madd(v128.load(x + i, 16), v128.load(y + i, 16), b);
  }
  let s = hsum(f32x4.add(a, b));
  for (let i = n & ~7; i < n; i++) s += get(x, i) * get(y, i);
  return s;
}

/** [out, x, rows, cols]: eˣ / Σ eˣ */
export function softmaxRows(p: usize, tid: i32, threads: i32): void {
  const out = <usize>load<u32>(p), x0 = <usize>load<u32>(p, 4), rows = load<i32>(p, 8), n = load<i32>(p, 12);
  const n4 = n & ~3, end4 = <usize>n4 << 2;
  for (let r = <i32>(<i64>rows * tid / threads), end = <i32>(<i64>rows * (tid + 1) / threads); r < end; r++) {
    const x = x0 + (<usize>r * <usize>n << 2), y = out + (<usize>r * <usize>n << 2);
    let a = f32x4.splat(-1e38);
    for (let i: usize = 0; i < end4; i += 16) a = f32x4.max(a, v128.load(x + i));
    let m = hmax(a);
    for (let i = n4; i < n; i++) m = max(m, get(x, i));
    const shift = f32x4.splat(m);
    let s = f32x4.splat(0);
    for (let i: usize = 0; i < end4; i += 16) {
      const e = decay4(f32x4.sub(v128.load(x + i), shift));
      v128.store(y + i, e);
      s = f32x4.add(s, e);
    }
    let sum = hsum(s);
    for (let i = n4; i < n; i++) {
      const e = exp1(get(x, i) - m);
      set(y, i, e);
      sum += e;
    }
    const c = f32x4.splat(1 / sum);
    for (let i: usize = 0; i < end4; i += 16) v128.store(y + i, f32x4.mul(v128.load(y + i), c));
    for (let i = n4; i < n; i++) set(y, i, get(y, i) * (1 / sum));
  }
}

/** [out, y, dy, rows, cols]: y·(dy − Σ dy·y) */
export function softmaxRowsBack(p: usize, tid: i32, threads: i32): void {
  const out = <usize>load<u32>(p), y0 = <usize>load<u32>(p, 4), d0 = <usize>load<u32>(p, 8), rows = load<i32>(p, 12), n = load<i32>(p, 16);
  const n4 = n & ~3, end4 = <usize>n4 << 2;
  for (let r = <i32>(<i64>rows * tid / threads), end = <i32>(<i64>rows * (tid + 1) / threads); r < end; r++) {
    const at = <usize>r * <usize>n << 2;
    const y = y0 + at, d = d0 + at, to = out + at;
    const s = dot(y, d, n), s4 = f32x4.splat(s);
    for (let i: usize = 0; i < end4; i += 16) v128.store(to + i, f32x4.mul(v128.load(y + i), f32x4.sub(v128.load(d + i), s4)));
    for (let i = n4; i < n; i++) set(to, i, get(y, i) * (get(d, i) - s));
  }
}

@inline function meanOf(x: usize, n: i32): f32 {
  const n8 = <usize>(n & ~7) << 2;
  let a = f32x4.splat(0), b = a;
  for (let i: usize = 0; i < n8; i += 32) {
    a = f32x4.add(a, v128.load(x + i));
    b = f32x4.add(b, v128.load(x + i, 16));
  }
  let s = hsum(f32x4.add(a, b));
  for (let i = n & ~7; i < n; i++) s += get(x, i);
  return s / <f32>n;
}
/** 1/√(mean (x − μ)² + ε) */
@inline function inverseDeviation(x: usize, n: i32, mean: f32, eps: f32): f32 {
  const n8 = <usize>(n & ~7) << 2, m = f32x4.splat(mean);
  let a = f32x4.splat(0), b = a;
  for (let i: usize = 0; i < n8; i += 32) {
    const u = f32x4.sub(v128.load(x + i), m), v = f32x4.sub(v128.load(x + i, 16), m);
    a = madd(u, u, a);
    b = madd(v, v, b);
  }
  let s = hsum(f32x4.add(a, b));
  for (let i = n & ~7; i < n; i++) {
    const u = get(x, i) - mean;
    s += u * u;
  }
  return 1 / sqrt<f32>(s / <f32>n + eps);
}

/** [out, x, g, b or 0, rows, cols, eps, centre]: g·(x − μ)·r + b; μ = 0 unless `centre` */
export function norm(p: usize, tid: i32, threads: i32): void {
  const out = <usize>load<u32>(p), x0 = <usize>load<u32>(p, 4), g = <usize>load<u32>(p, 8), b = <usize>load<u32>(p, 12);
  const rows = load<i32>(p, 16), n = load<i32>(p, 20), eps = load<f32>(p, 24), centre = load<i32>(p, 28);
  const n4 = n & ~3, end4 = <usize>n4 << 2;
  for (let row = <i32>(<i64>rows * tid / threads), end = <i32>(<i64>rows * (tid + 1) / threads); row < end; row++) {
    const at = <usize>row * <usize>n << 2;
    const x = x0 + at, y = out + at;
    const m: f32 = centre ? meanOf(x, n) : 0, r = inverseDeviation(x, n, m, eps);
    const m4 = f32x4.splat(m), r4 = f32x4.splat(r);
    if (b != 0) {
      for (let i: usize = 0; i < end4; i += 16)
        v128.store(y + i, madd(f32x4.mul(f32x4.sub(v128.load(x + i), m4), r4), v128.load(g + i), v128.load(b + i)));
    } else {
      for (let i: usize = 0; i < end4; i += 16) v128.store(y + i, f32x4.mul(f32x4.mul(f32x4.sub(v128.load(x + i), m4), r4), v128.load(g + i)));
    }
    for (let i = n4; i < n; i++) set(y, i, (get(x, i) - m) * r * get(g, i) + (b != 0 ? get(b, i) : 0));
  }
}

/** [out, x, g, dy, rows, cols, eps, centre]: r·(d − mean d − x̂·mean(d·x̂)), d = dy·g; the middle term only with `centre` */
export function normBack(p: usize, tid: i32, threads: i32): void {
  const out = <usize>load<u32>(p), x0 = <usize>load<u32>(p, 4), g = <usize>load<u32>(p, 8), y0 = <usize>load<u32>(p, 12);
  const rows = load<i32>(p, 16), n = load<i32>(p, 20), eps = load<f32>(p, 24), centre = load<i32>(p, 28);
  const n4 = n & ~3, end4 = <usize>n4 << 2;
  for (let row = <i32>(<i64>rows * tid / threads), end = <i32>(<i64>rows * (tid + 1) / threads); row < end; row++) {
    const at = <usize>row * <usize>n << 2;
    const x = x0 + at, dy = y0 + at, to = out + at;
    const m: f32 = centre ? meanOf(x, n) : 0, r = inverseDeviation(x, n, m, eps);
    const m4 = f32x4.splat(m), r4 = f32x4.splat(r);
    let a = f32x4.splat(0), c = a;                       // Σ d and Σ d·x̂
    for (let i: usize = 0; i < end4; i += 16) {
      const d = f32x4.mul(v128.load(dy + i), v128.load(g + i));
      a = f32x4.add(a, d);
      c = madd(d, f32x4.mul(f32x4.sub(v128.load(x + i), m4), r4), c);
    }
    let sd = hsum(a), sx = hsum(c);
    for (let i = n4; i < n; i++) {
      const d = get(dy, i) * get(g, i);
      sd += d;
      sx += d * ((get(x, i) - m) * r);
    }
    sd = centre ? sd / <f32>n : 0;
    sx = sx / <f32>n;
    const d4 = f32x4.splat(sd), x4 = f32x4.splat(sx);
    for (let i: usize = 0; i < end4; i += 16) {
      const d = f32x4.sub(f32x4.mul(v128.load(dy + i), v128.load(g + i)), d4);
      const unit = f32x4.mul(f32x4.sub(v128.load(x + i), m4), r4);
      v128.store(to + i, f32x4.mul(r4, f32x4.sub(d, f32x4.mul(unit, x4))));
    }
    for (let i = n4; i < n; i++) set(to, i, r * (get(dy, i) * get(g, i) - sd - (get(x, i) - m) * r * sx));
  }
}

/** [out, x, dy, rows, cols, eps, centre, block]: Σ dy·x̂ over each block of rows; threads share the blocks. */
export function normGain(p: usize, tid: i32, threads: i32): void {
  const out = <usize>load<u32>(p), x0 = <usize>load<u32>(p, 4), y0 = <usize>load<u32>(p, 8);
  const rows = load<i32>(p, 12), n = load<i32>(p, 16), eps = load<f32>(p, 20), centre = load<i32>(p, 24), block = load<i32>(p, 28);
  const blocks = (rows + block - 1) / block;
  const n4 = n & ~3, end4 = <usize>n4 << 2;
  for (let k = blocks * tid / threads, end = blocks * (tid + 1) / threads; k < end; k++) {
    const to = out + (<usize>k * <usize>n << 2);
    memory.fill(to, 0, <usize>n << 2);
    for (let row = k * block, last = min(rows, (k + 1) * block); row < last; row++) {
      const at = <usize>row * <usize>n << 2;
      const x = x0 + at, dy = y0 + at;
      const m: f32 = centre ? meanOf(x, n) : 0, r = inverseDeviation(x, n, m, eps);
      const m4 = f32x4.splat(m), r4 = f32x4.splat(r);
      for (let i: usize = 0; i < end4; i += 16)
        v128.store(to + i, madd(v128.load(dy + i), f32x4.mul(f32x4.sub(v128.load(x + i), m4), r4), v128.load(to + i)));
      for (let i = n4; i < n; i++) set(to, i, get(to, i) + get(dy, i) * ((get(x, i) - m) * r));
    }
  }
}
