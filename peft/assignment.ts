// The assignment problem: partners one to one, so that the sum of costs is least. Optimal transport between equally many equal weights.

/** For each row the column it gets, so that Σ cost[row][column] is least: the Hungarian method with potentials, O(n³). */
export function assignment(cost: readonly (readonly number[])[]): number[] {
  const n = cost.length;
  const [u, v, row] = [new Float64Array(n + 1), new Float64Array(n + 1), new Int32Array(n + 1)]; // row[column], 1-based; 0: free
  for (let r = 1; r <= n; r++) {
    const [least, from, done] = [new Float64Array(n + 1).fill(Number.POSITIVE_INFINITY), new Int32Array(n + 1), new Uint8Array(n + 1)];
    let at = 0;
    row[0] = r;
    do {
      done[at] = 1;
      const here = row[at]!;
      let [step, next] = [Number.POSITIVE_INFINITY, 0];
      for (let c = 1; c <= n; c++) {
        if (done[c]) continue;
        const gap = cost[here - 1]![c - 1]! - u[here]! - v[c]!;
        if (gap < least[c]!) [least[c], from[c]] = [gap, at];
        if (least[c]! < step) [step, next] = [least[c]!, c];
      }
      for (let c = 0; c <= n; c++)
        if (done[c]) {
          u[row[c]!]! += step;
          v[c]! -= step;
        } else least[c]! -= step;
      at = next;
    } while (row[at] !== 0);
    for (; at !== 0; at = from[at]!) row[at] = row[from[at]!]!;
  }
  const column = new Array<number>(n).fill(0);
  for (let c = 1; c <= n; c++) column[row[c]! - 1] = c - 1;
  return column;
}
