// Sums, maxima, logsumexp and argmax over the middle of [outer, length, inner]; each result belongs to one thread.
import { ARGMAX, LOGSUMEXP, MAX, SUM } from '../opcodes';
import { exp4, log4 } from './math';

@inline function hsum(v: v128): f32 {
  return f32x4.extract_lane(v, 0) + f32x4.extract_lane(v, 1) + (f32x4.extract_lane(v, 2) + f32x4.extract_lane(v, 3));
}
@inline function hmax(v: v128): f32 {
  return max(max(f32x4.extract_lane(v, 0), f32x4.extract_lane(v, 1)), max(f32x4.extract_lane(v, 2), f32x4.extract_lane(v, 3)));
}
// Not Math.log: its tables would be static data, where the threads keep their scratch.
@inline function log1(x: f32): f32 { return f32x4.extract_lane(log4(f32x4.splat(x)), 0); }
function sumRow(x: usize, n: i32): f32 {
  let a = f32x4.splat(0), b = a;
  let i = 0;
  for (; i + 8 <= n; i += 8) { a = f32x4.add(a, v128.load(x + (<usize>i << 2))); b = f32x4.add(b, v128.load(x + (<usize>i << 2), 16)); }
  let s = hsum(f32x4.add(a, b));
  for (; i < n; i++) s += load<f32>(x + (<usize>i << 2));
  return s;
}
function maxRow(x: usize, n: i32): f32 {
  let a = f32x4.splat(-1e38);
  let i = 0;
  for (; i + 4 <= n; i += 4) a = f32x4.max(a, v128.load(x + (<usize>i << 2)));
  let s = hmax(a);
  for (; i < n; i++) s = max(s, load<f32>(x + (<usize>i << 2)));
  return s;
}
function sumExpRow(x: usize, n: i32, m: f32): f32 {
  const shift = f32x4.splat(m);
  let a = f32x4.splat(0);
  let i = 0;
  for (; i + 4 <= n; i += 4) a = f32x4.add(a, exp4(f32x4.sub(v128.load(x + (<usize>i << 2)), shift)));
  let s = hsum(a);
  for (; i < n; i++) s += f32x4.extract_lane(exp4(f32x4.splat(load<f32>(x + (<usize>i << 2)) - m)), 0);
  return s;
}
function one(op: i32, x: usize, length: i32, stride: i32): f32 {
  const step = <usize>stride << 2;
  let m: f32 = -1e38;
  let best = 0;
  if (op == SUM) {
    let s: f32 = 0;
    for (let k = 0; k < length; k++) s += load<f32>(x + <usize>k * step);
    return s;
  }
  for (let k = 0; k < length; k++) {
    const v = load<f32>(x + <usize>k * step);
    if (v > m || v != v) { m = v; best = k; }
  }
  if (op == MAX) return m;
  if (op == ARGMAX) return <f32>best;
  let s: f32 = 0;
  for (let k = 0; k < length; k++) s += f32x4.extract_lane(exp4(f32x4.splat(load<f32>(x + <usize>k * step) - m)), 0);
  return m + log1(s);
}

/** [op, words, out, x, outer, length, inner] */
export function reduce(op: i32, p: usize, tid: i32, threads: i32): void {
  const out = <usize>load<u32>(p), x = <usize>load<u32>(p, 4);
  const outer = load<i32>(p, 8), length = load<i32>(p, 12), inner = load<i32>(p, 16);
  if (inner == 1) {
    for (let o = outer * tid / threads, end = outer * (tid + 1) / threads; o < end; o++) {
      const row = x + (<usize>o * <usize>length << 2);
      let y: f32;
      if (op == SUM) y = sumRow(row, length);
      else if (op == MAX) y = maxRow(row, length);
      else if (op == LOGSUMEXP) { const m = maxRow(row, length); y = m + log1(sumExpRow(row, length, m)); }
      else y = one(op, row, length, 1);
      store<f32>(out + (<usize>o << 2), y);
    }
    return;
  }
  // Many columns: whole rows are added to the result, each thread in its own range of columns, which stays in its cache.
  if (inner >= 16 && (op == SUM || op == MAX)) {
    const blocks = inner >> 2;
    const c0 = (blocks * tid / threads) << 2, c1 = tid == threads - 1 ? inner : (blocks * (tid + 1) / threads) << 2;
    const n4 = <usize>((c1 - c0) & ~3) << 2;
    for (let o = 0; o < outer; o++) {
      const to = out + (<usize>o * <usize>inner + <usize>c0 << 2);
      let row = x + (<usize>o * <usize>length * <usize>inner + <usize>c0 << 2);
      memory.copy(to, row, <usize>(c1 - c0) << 2);
      for (let k = 1; k < length; k++) {
        row += <usize>inner << 2;
        if (op == SUM) for (let i: usize = 0; i < n4; i += 16) v128.store(to + i, f32x4.add(v128.load(to + i), v128.load(row + i)));
        else for (let i: usize = 0; i < n4; i += 16) v128.store(to + i, f32x4.max(v128.load(to + i), v128.load(row + i)));
        for (let i: usize = n4, end = <usize>(c1 - c0) << 2; i < end; i += 4) {
          const a = load<f32>(to + i), b = load<f32>(row + i);
          store<f32>(to + i, op == SUM ? a + b : max(a, b));
        }
      }
    }
    return;
  }
  // Columns in fours; each thread owns a range of all columns of all outer slices.
  const fours = (inner + 3) / 4;
  const total = outer * fours;
  for (let t = <i32>(<i64>total * tid / threads), end = <i32>(<i64>total * (tid + 1) / threads); t < end; t++) {
    const o = t / fours, i = (t - o * fours) * 4;
    const from = x + (<usize>o * <usize>length * <usize>inner + <usize>i << 2);
    const to = out + (<usize>o * <usize>inner + <usize>i << 2);
    if (i + 4 <= inner && (op == SUM || op == MAX)) {
      const step = <usize>inner << 2;
      let acc = op == SUM ? f32x4.splat(0) : f32x4.splat(-1e38);
      if (op == SUM) for (let k = 0; k < length; k++) acc = f32x4.add(acc, v128.load(from + <usize>k * step));
      else for (let k = 0; k < length; k++) acc = f32x4.max(acc, v128.load(from + <usize>k * step));
      v128.store(to, acc);
    } else for (let j = 0, n = min(4, inner - i); j < n; j++) store<f32>(to + (<usize>j << 2), one(op, from + (<usize>j << 2), length, inner));
  }
}
