// For eyes: values as text, and why a tensor is kept.
/** Numbers in rows of `cols`, shortened in the middle when there are many. */
export function format(values: ArrayLike<number>, cols: number, limit = 6): string {
  const one = (v: number): string => (Number.isInteger(v) ? String(v) : v.toPrecision(4));
  const cut = <T>(xs: T[], f: (x: T) => string, gap: string): string[] =>
    xs.length <= limit ? xs.map(f) : [...xs.slice(0, limit / 2).map(f), gap, ...xs.slice(-limit / 2).map(f)];
  const row = (r: number): string =>
    `[${cut(
      Array.from({ length: cols }, (_, c) => values[r * cols + c]!),
      one,
      '…',
    ).join(' ')}]`;
  const rows = Array.from({ length: values.length / cols }, (_, r) => r);
  return rows.length === 1 ? row(0) : cut(rows, row, '⋮').join('\n');
}
