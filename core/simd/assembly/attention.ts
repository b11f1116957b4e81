// Attention without stored scores: softmax(q·kᵀ·scale + bias)·v a few rows at a time (Dao et al. 2022, arXiv 2205.14135). Forward
// keeps each row's log Σ exp; backward computes the probabilities again from it. Tiles that the causal mask hides are skipped.
import { madd } from './madd';
import { decay4, log4 } from './math';
import { packColumns, packKeys, packRows, tile, tileAdd, tileRows } from './tiles';
import { LD, STRIP } from './tiles';

const KEYS: i32 = 256;  // keys at a time: scores of six rows stay in the first-level cache
const ROWS: i32 = 192;  // rows of a block: their p and ds stay in the second-level cache
const FAR: f32 = -1e30; // a score whose exponential is 0

// Words of an instruction: [out, q, k, v, bias, o, dy, lse, B, H, Hk, T, S, D, Dv, causal, scale, then places].
// A place is (offset, batch, head, row) in floats; the last dimension runs on. Of the bias: (batch, head, row, column), all 0 without one.
const Q: usize = 4, K: usize = 8, V: usize = 12, BIAS: usize = 16, O: usize = 20, DY: usize = 24, LSE: usize = 28;
const SIZES: usize = 32, CAUSAL: usize = 60, SCALE: usize = 64;
const AT_Q: usize = 68, AT_K: usize = 84, AT_V: usize = 100, AT_BIAS: usize = 116, AT_O: usize = 132, AT_LSE: usize = 148;
const AT_DY: usize = 152, AT_DQ: usize = 168, AT_DK: usize = 184, AT_DV: usize = 200;

@inline function hsum(v: v128): f32 {
  return f32x4.extract_lane(v, 0) + f32x4.extract_lane(v, 1) + (f32x4.extract_lane(v, 2) + f32x4.extract_lane(v, 3));
}
@inline function hmax(v: v128): f32 {
  return max(max(f32x4.extract_lane(v, 0), f32x4.extract_lane(v, 1)), max(f32x4.extract_lane(v, 2), f32x4.extract_lane(v, 3)));
}
@inline function up(n: i32, to: i32): i32 { return (n + to - 1) / to * to; }
/** Address of row 0 of a matrix: pointer + offset + b·batch + h·head. */
@inline function matrixAt(p: usize, pointer: usize, place: usize, b: i32, h: i32): usize {
  return <usize>load<u32>(p + pointer) + (<usize>(load<i32>(p + place) + b * load<i32>(p + place, 4) + h * load<i32>(p + place, 8)) << 2);
}
@inline function rowBytes(p: usize, place: usize): usize { return <usize>load<i32>(p + place, 12) << 2; }

// Loops of our own: memory.fill and memory.copy leave the module, which costs more than a row is worth. `bytes` is a multiple of 32.
function zero(to: usize, bytes: usize): void {
  const none = f32x4.splat(0);
  for (const end = to + bytes; to < end; to += 32) {
    v128.store(to, none);
    v128.store(to, none, 16);
  }
}
function copyRow(to: usize, from: usize, n: i32): void {
  let i = 0;
  for (; i + 4 <= n; i += 4) v128.store(to + (<usize>i << 2), v128.load(from + (<usize>i << 2)));
  for (; i < n; i++) store<f32>(to + (<usize>i << 2), load<f32>(from + (<usize>i << 2)));
}

/** Scores of one row get their bias; those from `seen` on are far below all others. `n` is a multiple of 8, which rows have room for. */
function biasAndMask(row: usize, n: i32, seen: i32, bias: usize, column: i32): void {
  if (bias != 0) {
    if (column != 0) {
      let i = 0;
      for (; i + 4 <= seen; i += 4) {
        const at = <usize>i << 2;
        v128.store(row + at, f32x4.add(v128.load(row + at), v128.load(bias + at)));
      }
      for (; i < seen; i++) {
        const at = <usize>i << 2;
        store<f32>(row + at, load<f32>(row + at) + load<f32>(bias + at));
      }
    } else {
      const b = v128.load_splat<f32>(bias, 0);
      for (let i: usize = 0, end = <usize>n << 2; i < end; i += 16) v128.store(row + i, f32x4.add(v128.load(row + i), b));
    }
  }
  for (let i = max(seen, 0); i < n; i++) store<f32>(row + (<usize>i << 2), FAR);
}
function largest(row: usize, n: i32): f32 {
  let a = v128.load(row), b = v128.load(row, 16);
  for (let i: usize = 32, end = <usize>n << 2; i < end; i += 32) {
    a = f32x4.max(a, v128.load(row + i));
    b = f32x4.max(b, v128.load(row + i, 16));
  }
  return hmax(f32x4.max(a, b));
}
/** Scores become e^(score − m); answers their sum. */
function exponentials(row: usize, n: i32, m: f32): f32 {
  const shift = f32x4.splat(m);
  let a = f32x4.splat(0), b = a;
  for (let i: usize = 0, end = <usize>n << 2; i < end; i += 32) {
    const x = decay4(f32x4.sub(v128.load(row + i), shift)), y = decay4(f32x4.sub(v128.load(row + i, 16), shift));
    v128.store(row + i, x);
    v128.store(row + i, y, 16);
    a = f32x4.add(a, x);
    b = f32x4.add(b, y);
  }
  return hsum(f32x4.add(a, b));
}
function scaleRow(row: usize, n: i32, by: f32): void {
  const s = f32x4.splat(by);
  for (let i: usize = 0, end = <usize>n << 2; i < end; i += 16) v128.store(row + i, f32x4.mul(v128.load(row + i), s));
}
function copyScaled(to: usize, from: usize, n: i32, by: f32): void {
  const s = f32x4.splat(by);
  let i = 0;
  for (; i + 4 <= n; i += 4) v128.store(to + (<usize>i << 2), f32x4.mul(v128.load(from + (<usize>i << 2)), s));
  for (; i < n; i++) store<f32>(to + (<usize>i << 2), load<f32>(from + (<usize>i << 2)) * by);
}
function addRow(to: usize, from: usize, n: i32): void {
  let i = 0;
  for (; i + 4 <= n; i += 4) v128.store(to + (<usize>i << 2), f32x4.add(v128.load(to + (<usize>i << 2)), v128.load(from + (<usize>i << 2))));
  for (; i < n; i++) store<f32>(to + (<usize>i << 2), load<f32>(to + (<usize>i << 2)) + load<f32>(from + (<usize>i << 2)));
}
function dot(x: usize, y: usize, n: i32): f32 {
  let a = f32x4.splat(0);
  let i = 0;
  for (; i + 4 <= n; i += 4) a = madd(v128.load(x + (<usize>i << 2)), v128.load(y + (<usize>i << 2)), a);
  let s = hsum(a);
  for (; i < n; i++) s += load<f32>(x + (<usize>i << 2)) * load<f32>(y + (<usize>i << 2));
  return s;
}

/** Threads share (batch, head, block of rows). */
export function attend(p: usize, tid: i32, threads: i32, scratch: usize): void {
  const sizes = p + SIZES;
  const B = load<i32>(sizes), H = load<i32>(sizes, 4), Hk = load<i32>(sizes, 8), T = load<i32>(sizes, 12), S = load<i32>(sizes, 16);
  const D = load<i32>(sizes, 20), Dv = load<i32>(sizes, 24);
  const causal = load<i32>(p + CAUSAL), scale = load<f32>(p + SCALE);
  const wide = up(Dv, 8), blocks = (T + ROWS - 1) / ROWS, each = up((T + blocks - 1) / blocks, STRIP);
  const kp = scratch, vp = kp + <usize>(KEYS * D << 2), qa = vp + <usize>(KEYS * wide << 2), scores = qa + <usize>(STRIP * D << 2);
  const sums = scores + <usize>(STRIP * LD << 2), ms = sums + <usize>(ROWS * wide << 2), ls = ms + <usize>(ROWS << 2);
  const column = load<i32>(p + AT_BIAS, 12);
  const qRow = rowBytes(p, AT_Q), kRow = rowBytes(p, AT_K), vRow = rowBytes(p, AT_V), oRow = rowBytes(p, AT_O);
  const total = B * H * blocks;
  let packed = -1;                                      // the head whose keys and values are packed whole
  for (let unit = total * tid / threads, end = total * (tid + 1) / threads; unit < end; unit++) {
    const bh = unit / blocks, b = bh / H, h = bh - b * H, hk = h / (H / Hk);
    const q0 = (unit - bh * blocks) * each, rows = min(each, T - q0);
    if (rows <= 0) continue;
    const q = matrixAt(p, Q, AT_Q, b, h), k = matrixAt(p, K, AT_K, b, hk), v = matrixAt(p, V, AT_V, b, hk), o = matrixAt(p, 0, AT_O, b, h);
    const lse = <usize>load<u32>(p) + (<usize>(load<i32>(p + AT_LSE) + bh * T + q0) << 2);
    const biasOf = <usize>load<u32>(p + BIAS);
    const bias = biasOf == 0 ? 0 : biasOf + (<usize>(b * load<i32>(p + AT_BIAS) + h * load<i32>(p + AT_BIAS, 4)) << 2);
    zero(sums, <usize>(up(rows, STRIP) * wide) << 2);
    for (let k0 = 0; k0 < S; k0 += KEYS) {
      const keys = min(KEYS, S - k0);
      if (causal && k0 >= q0 + rows + S - T) break;
      const head = b * Hk + hk;
      if (packed != head || S > KEYS) {
        packKeys(kp, k + <usize>k0 * kRow, kRow, keys, D);
        packColumns(vp, v + <usize>k0 * vRow, vRow, keys, Dv);
        packed = head;
      }
      for (let r0 = 0; r0 < rows; r0 += STRIP) {
        const some = min(STRIP, rows - r0);
        const n = causal ? min(keys, q0 + r0 + some + S - T - k0) : keys;
        if (n <= 0) continue;
        const n8 = up(n, 8);
        packRows(qa, q + <usize>(q0 + r0) * qRow, qRow, some, D, scale);
        for (let j = 0; j < n8; j += 8) tile(scores + (<usize>j << 2), LD << 2, qa, STRIP << 2, kp + (<usize>(j * D) << 2), D);
        for (let r = 0; r < some; r++) {
          const i = q0 + r0 + r;
          const row = scores + <usize>(r * LD << 2);
          biasAndMask(row, n8, causal ? min(n, i + 1 + S - T - k0) : n,
            bias == 0 ? 0 : bias + (<usize>(i * load<i32>(p + AT_BIAS, 8) + k0 * column) << 2), column);
          const at = <usize>(r0 + r) << 2;
          let m = largest(row, n8);
          if (k0 == 0) {
            store<f32>(ms + at, m);
            store<f32>(ls + at, exponentials(row, n8, m));
          } else {
            const before = load<f32>(ms + at);
            m = max(m, before);
            const l = exponentials(row, n8, m);
            const fade = f32x4.extract_lane(decay4(f32x4.splat(before - m)), 0);
            store<f32>(ms + at, m);
            store<f32>(ls + at, load<f32>(ls + at) * fade + l);
            if (fade != 1) scaleRow(sums + (<usize>((r0 + r) * wide) << 2), wide, fade);
          }
        }
        for (let j = 0; j < wide; j += 8)
          tileRows(sums + (<usize>(r0 * wide + j) << 2), <usize>wide << 2, scores, vp + (<usize>(j * keys) << 2), n);
      }
    }
    for (let r = 0; r < rows; r++) {
      const at = <usize>r << 2;
      const l = load<f32>(ls + at);
      copyScaled(o + <usize>(q0 + r) * oRow, sums + (<usize>(r * wide) << 2), Dv, 1 / l);
      store<f32>(lse + at, load<f32>(ms + at) + f32x4.extract_lane(log4(f32x4.splat(l)), 0));
    }
  }
}

/** p = e^(s − lse) in place of s, ds = p·(dp − Σ dy·o)·scale in place of dp. */
function slopes(p: usize, ds: usize, n: i32, lse: f32, rowDot: f32, scale: f32): void {
  const shift = f32x4.splat(lse), d = f32x4.splat(rowDot), c = f32x4.splat(scale);
  for (let i: usize = 0, end = <usize>n << 2; i < end; i += 32) {
    const x = decay4(f32x4.sub(v128.load(p + i), shift)), y = decay4(f32x4.sub(v128.load(p + i, 16), shift));
    v128.store(p + i, x);
    v128.store(p + i, y, 16);
    v128.store(ds + i, f32x4.mul(f32x4.mul(x, c), f32x4.sub(v128.load(ds + i), d)));
    v128.store(ds + i, f32x4.mul(f32x4.mul(y, c), f32x4.sub(v128.load(ds + i, 16), d)), 16);
  }
}

/** dq, dk and dv. Threads share (batch, key head), so that every sum has one order. */
export function attendBack(p: usize, tid: i32, threads: i32, scratch: usize): void {
  const sizes = p + SIZES;
  const B = load<i32>(sizes), H = load<i32>(sizes, 4), Hk = load<i32>(sizes, 8), T = load<i32>(sizes, 12), S = load<i32>(sizes, 16);
  const D = load<i32>(sizes, 20), Dv = load<i32>(sizes, 24);
  const causal = load<i32>(p + CAUSAL), scale = load<f32>(p + SCALE);
  const wq = up(D, 8), wv = up(Dv, 8), blocks = (T + ROWS - 1) / ROWS, each = up((T + blocks - 1) / blocks, STRIP), group = H / Hk;
  const ks = kSize(KEYS, D), vs = kSize(KEYS, Dv), kc = kSize(KEYS, wq);
  const kp = scratch, vp = kp + ks, kb = vp + vs;
  const dks = kb + kc, dvs = dks + kSize(up(KEYS, STRIP), wq);
  const qa = dvs + kSize(up(KEYS, STRIP), wv), ya = qa + kSize(STRIP, D), dqs = ya + kSize(STRIP, Dv);
  const qb = dqs + kSize(STRIP, wq), yb = qb + kSize(ROWS, wq);
  const ps = yb + kSize(ROWS, wv), dss = ps + kSize(ROWS, LD);
  const column = load<i32>(p + AT_BIAS, 12);
  const qRow = rowBytes(p, AT_Q), kRow = rowBytes(p, AT_K), vRow = rowBytes(p, AT_V), oRow = rowBytes(p, AT_O), yRow = rowBytes(p, AT_DY);
  const dqRow = rowBytes(p, AT_DQ), dkRow = rowBytes(p, AT_DK), dvRow = rowBytes(p, AT_DV);
  const total = B * Hk;
  for (let unit = total * tid / threads, end = total * (tid + 1) / threads; unit < end; unit++) {
    const b = unit / Hk, hk = unit - b * Hk;
    const k = matrixAt(p, K, AT_K, b, hk), v = matrixAt(p, V, AT_V, b, hk);
    const dk = matrixAt(p, 0, AT_DK, b, hk), dv = matrixAt(p, 0, AT_DV, b, hk);
    for (let k0 = 0; k0 < S; k0 += KEYS) {
      const keys = min(KEYS, S - k0);
      packKeys(kp, k + <usize>k0 * kRow, kRow, keys, D);
      packColumns(kb, k + <usize>k0 * kRow, kRow, keys, D);
      packKeys(vp, v + <usize>k0 * vRow, vRow, keys, Dv);
      zero(dks, kSize(up(keys, STRIP), wq));
      zero(dvs, kSize(up(keys, STRIP), wv));
      for (let g = 0; g < group; g++) {
        const h = hk * group + g;
        const q = matrixAt(p, Q, AT_Q, b, h), o = matrixAt(p, O, AT_O, b, h), dy = matrixAt(p, DY, AT_DY, b, h), dq = matrixAt(p, 0, AT_DQ, b, h);
        const lse = <usize>load<u32>(p + LSE) + (<usize>(load<i32>(p + AT_LSE) + (b * H + h) * T) << 2);
        const biasOf = <usize>load<u32>(p + BIAS);
        const bias = biasOf == 0 ? 0 : biasOf + (<usize>(b * load<i32>(p + AT_BIAS) + h * load<i32>(p + AT_BIAS, 4)) << 2);
        for (let q0 = 0; q0 < T; q0 += each) {
          const rows = min(each, T - q0);
          const most = causal ? min(keys, q0 + rows + S - T - k0) : keys; // of the last row
          if (most <= 0) continue;
          packColumns(qb, q + <usize>q0 * qRow, qRow, rows, D);
          packColumns(yb, dy + <usize>q0 * yRow, yRow, rows, Dv);
          for (let r0 = 0; r0 < rows; r0 += STRIP) {
            const some = min(STRIP, rows - r0);
            const n = causal ? min(keys, q0 + r0 + some + S - T - k0) : keys;
            if (n <= 0) continue;
            const n8 = up(n, 8);
            const pr = ps + kSize(r0, LD), dr = dss + kSize(r0, LD);
            packRows(qa, q + <usize>(q0 + r0) * qRow, qRow, some, D, scale);
            packRows(ya, dy + <usize>(q0 + r0) * yRow, yRow, some, Dv, 1);
            for (let j = 0; j < n8; j += 8) {
              tile(pr + (<usize>j << 2), LD << 2, qa, STRIP << 2, kp + kSize(j, D), D);
              tile(dr + (<usize>j << 2), LD << 2, ya, STRIP << 2, vp + kSize(j, Dv), Dv);
            }
            for (let r = 0; r < some; r++) {
              const i = q0 + r0 + r;
              const row = pr + kSize(r, LD), dRow = dr + kSize(r, LD);
              biasAndMask(row, n8, causal ? min(n, i + 1 + S - T - k0) : n,
                bias == 0 ? 0 : bias + (<usize>(i * load<i32>(p + AT_BIAS, 8) + k0 * column) << 2), column);
              slopes(row, dRow, n8, load<f32>(lse + (<usize>i << 2)), dot(dy + <usize>i * yRow, o + <usize>i * oRow, Dv), scale);
              zero(row + (<usize>n8 << 2), 32);          // six keys at a time may look past the last one
              zero(dRow + (<usize>n8 << 2), 32);
            }
            zero(dqs, kSize(STRIP, wq));
            for (let j = 0; j < wq; j += 8) tileRows(dqs + (<usize>j << 2), <usize>wq << 2, dr, kb + kSize(j, keys), n);
            for (let r = 0; r < some; r++) {
              const to = dq + <usize>(q0 + r0 + r) * dqRow, from = dqs + kSize(r, wq);
              if (k0 == 0) copyRow(to, from, D);
              else addRow(to, from, D);
            }
          }
          for (let m = 0; m < most; m += STRIP) {
            let first = 0;                               // strips of rows that see key m
            if (causal) {
              const hidden = k0 + m - (q0 + S - T);      // rows before this one do not
              if (hidden > 0) first = hidden / STRIP * STRIP;
            }
            const p0 = ps + kSize(first, LD) + (<usize>m << 2), d0 = dss + kSize(first, LD) + (<usize>m << 2);
            for (let j = 0; j < wv; j += 8)
              tileAdd(dvs + kSize(m, wv) + (<usize>j << 2), <usize>wv << 2, p0, LD << 2, yb + kSize(j, rows) + kSize(first, 8), rows - first);
            for (let j = 0; j < wq; j += 8)
              tileAdd(dks + kSize(m, wq) + (<usize>j << 2), <usize>wq << 2, d0, LD << 2, qb + kSize(j, rows) + kSize(first, 8), rows - first);
          }
        }
      }
      for (let j = 0; j < keys; j++) {
        copyRow(dk + <usize>(k0 + j) * dkRow, dks + kSize(j, wq), D);
        copyRow(dv + <usize>(k0 + j) * dvRow, dvs + kSize(j, wv), Dv);
      }
    }
  }
}
@inline function kSize(rows: i32, cols: i32): usize { return <usize>(rows * cols) << 2; }
