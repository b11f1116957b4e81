// Rows of cells as aligned text for terminals.

/** Cells in columns two spaces apart under a heading; numbers (and what starts with one) to the right, text to the left. */
export function columns(heading: readonly string[], rows: readonly (readonly string[])[]): string {
  const width = heading.map((h, k) => Math.max(h.length, ...rows.map((r) => (r[k] ?? '').length)));
  const right = heading.map((_, k) => rows.length > 0 && rows.every((r) => /^[\d—–]/.test(r[k] ?? '') || r[k] === ''));
  const line = (cells: readonly string[]): string =>
    cells
      .map((c, k) => (right[k] ? c.padStart(width[k]!) : c.padEnd(width[k]!)))
      .join('  ')
      .trimEnd();
  return [line(heading), line(width.map((w) => '─'.repeat(w))), ...rows.map(line)].join('\n');
}
