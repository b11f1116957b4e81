// Names that were probably meant, for whoever was given one that does not exist.

/** The few of `names` nearest to `name` (Levenshtein). */
export const nearest = (name: string, names: readonly string[], count = 3): string[] =>
  [...names].sort((a, b) => distance(name, a) - distance(name, b)).slice(0, count);

function distance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) next.push(Math.min(row[j]! + 1, next[j - 1]! + 1, row[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1)));
    row = next;
  }
  return row[b.length]!;
}
