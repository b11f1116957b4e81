// Strided copies (permute, slice, pad, concat, flip, broadcast) and reading and writing by index.

/**
 * [out, x, rank, outOffset, xOffset, rank × (length, outStride, xStride)], in floats: out[…] = x[…]. Threads share the
 * elements of all dimensions but the last.
 */
export function copy(p: usize, tid: i32, threads: i32): void {
  const rank = load<i32>(p, 8);
  const out = <usize>load<u32>(p) + (<usize>load<i32>(p, 12) << 2), x = <usize>load<u32>(p, 4) + (<usize>load<i32>(p, 16) << 2);
  const dims = p + 20;
  const last = dims + <usize>((rank - 1) * 12);
  const n = load<i32>(last), so = load<i32>(last, 4), sx = load<i32>(last, 8);
  let lines = 1;
  for (let k = 0; k < rank - 1; k++) lines *= load<i32>(dims + <usize>(k * 12));
  if (lines == 1 && so == 1 && sx == 1) {                // one long run
    const from = <i32>(<i64>n * tid / threads), to = <i32>(<i64>n * (tid + 1) / threads);
    memory.copy(out + (<usize>from << 2), x + (<usize>from << 2), <usize>(to - from) << 2);
    return;
  }
  for (let l = <i32>(<i64>lines * tid / threads), end = <i32>(<i64>lines * (tid + 1) / threads); l < end; l++) {
    let rest = l, po = 0, px = 0;
    for (let k = rank - 2; k >= 0; k--) {
      const at = dims + <usize>(k * 12);
      const length = load<i32>(at), q = rest / length, i = rest - q * length;
      po += i * load<i32>(at, 4);
      px += i * load<i32>(at, 8);
      rest = q;
    }
    const to = out + (<usize>po << 2), from = x + (<usize>px << 2);
    if (so == 1 && sx == 1) memory.copy(to, from, <usize>n << 2);
    else for (let i = 0; i < n; i++) store<f32>(to + (<usize>(i * so) << 2), load<f32>(from + (<usize>(i * sx) << 2)));
  }
}

/** [out, count, bits] */
export function fillAll(p: usize, tid: i32, threads: i32): void {
  const out = <usize>load<u32>(p), n = load<i32>(p, 4), v = load<f32>(p, 8);
  for (let i = <i32>(<i64>n * tid / threads), end = <i32>(<i64>n * (tid + 1) / threads); i < end; i++) store<f32>(out + (<usize>i << 2), v);
}

/** [out, table, ids, count, width] */
export function gather(p: usize, tid: i32, threads: i32): void {
  const out = <usize>load<u32>(p), table = <usize>load<u32>(p, 4), ids = <usize>load<u32>(p, 8);
  const n = load<i32>(p, 12), width = <usize>load<i32>(p, 16) << 2;
  for (let i = n * tid / threads, end = n * (tid + 1) / threads; i < end; i++)
    memory.copy(out + <usize>i * width, table + <usize>(<i32>load<f32>(ids + (<usize>i << 2))) * width, width);
}

/** [out, ids, values, count, width, rows]: each thread owns a range of columns, so no two write the same place. */
export function scatterAdd(p: usize, tid: i32, threads: i32): void {
  const out = <usize>load<u32>(p), ids = <usize>load<u32>(p, 4), values = <usize>load<u32>(p, 8);
  const n = load<i32>(p, 12), width = load<i32>(p, 16), rows = load<i32>(p, 20);
  const from = width * tid / threads, to = width * (tid + 1) / threads;
  for (let r = 0; r < rows; r++) memory.fill(out + (<usize>r * <usize>width + <usize>from << 2), 0, <usize>(to - from) << 2);
  for (let i = 0; i < n; i++) {
    const row = out + (<usize>(<i32>load<f32>(ids + (<usize>i << 2))) * <usize>width << 2);
    const v = values + (<usize>i * <usize>width << 2);
    for (let k = from; k < to; k++) store<f32>(row + (<usize>k << 2), load<f32>(row + (<usize>k << 2)) + load<f32>(v + (<usize>k << 2)));
  }
}

/** [out, x, index, rows, k, width] */
export function takeAlong(p: usize, tid: i32, threads: i32): void {
  const out = <usize>load<u32>(p), x = <usize>load<u32>(p, 4), index = <usize>load<u32>(p, 8);
  const rows = load<i32>(p, 12), k = load<i32>(p, 16), width = load<i32>(p, 20);
  for (let r = rows * tid / threads, end = rows * (tid + 1) / threads; r < end; r++)
    for (let j = 0; j < k; j++) {
      const at = <usize>(r * k + j) << 2;
      store<f32>(out + at, load<f32>(x + (<usize>r * <usize>width + <usize>(<i32>load<f32>(index + at)) << 2)));
    }
}

/** [out, index, values, rows, k, width] */
export function putAlong(p: usize, tid: i32, threads: i32): void {
  const out = <usize>load<u32>(p), index = <usize>load<u32>(p, 4), values = <usize>load<u32>(p, 8);
  const rows = load<i32>(p, 12), k = load<i32>(p, 16), width = load<i32>(p, 20);
  for (let r = rows * tid / threads, end = rows * (tid + 1) / threads; r < end; r++) {
    const row = out + (<usize>r * <usize>width << 2);
    memory.fill(row, 0, <usize>width << 2);
    for (let j = 0; j < k; j++) {
      const at = <usize>(r * k + j) << 2;
      const to = row + (<usize>(<i32>load<f32>(index + at)) << 2);
      store<f32>(to, load<f32>(to) + load<f32>(values + at));
    }
  }
}

/** [out, ids, rows, classes]: an id outside the classes gives a row of zeros. */
export function oneHot(p: usize, tid: i32, threads: i32): void {
  const out = <usize>load<u32>(p), ids = <usize>load<u32>(p, 4), rows = load<i32>(p, 8), classes = load<i32>(p, 12);
  for (let r = rows * tid / threads, end = rows * (tid + 1) / threads; r < end; r++) {
    const row = out + (<usize>r * <usize>classes << 2);
    memory.fill(row, 0, <usize>classes << 2);
    const id = load<f32>(ids + (<usize>r << 2));
    if (id >= 0 && id < <f32>classes) store<f32>(row + (<usize>(<i32>id) << 2), 1);
  }
}

/** [out, n] */
export function iota(p: usize, tid: i32, threads: i32): void {
  const out = <usize>load<u32>(p), n = load<i32>(p, 4);
  if (tid == 0) for (let i = 0; i < n; i++) store<f32>(out + (<usize>i << 2), <f32>i);
}

/** [out, t, s]: 0 where query i may see key j ≤ i + s − t, −1e9 elsewhere. */
export function causal(p: usize, tid: i32, threads: i32): void {
  const out = <usize>load<u32>(p), t = load<i32>(p, 4), s = load<i32>(p, 8);
  for (let i = t * tid / threads, end = t * (tid + 1) / threads; i < end; i++)
    for (let j = 0; j < s; j++) store<f32>(out + (<usize>(i * s + j) << 2), j > i + s - t ? -1e9 : 0);
}

/** [out, x, rows, cols]: (x₁, x₂) → (−x₂, x₁) on the halves of each row. */
export function quarterTurn(p: usize, tid: i32, threads: i32): void {
  const out = <usize>load<u32>(p), x = <usize>load<u32>(p, 4), rows = load<i32>(p, 8), cols = load<i32>(p, 12);
  const half = cols >> 1;
  for (let r = rows * tid / threads, end = rows * (tid + 1) / threads; r < end; r++) {
    const to = out + (<usize>(r * cols) << 2), from = x + (<usize>(r * cols) << 2);
    for (let k = 0; k < half; k++) {
      store<f32>(to + (<usize>k << 2), -load<f32>(from + (<usize>(k + half) << 2)));
      store<f32>(to + (<usize>(k + half) << 2), load<f32>(from + (<usize>k << 2)));
    }
  }
}
