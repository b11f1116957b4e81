// What a method's file says of itself: the sentence and the equations at its head, the docstring of its export, and the count in words.

export interface Header {
  /** The first line: what the file is. */
  readonly says: string;
  /** The indented lines: equations. */
  readonly equation: readonly string[];
  /** Everything else: paper, section, remarks. */
  readonly rest: string;
}
/** The comment a file opens with. */
export function headerOf(source: string): Header {
  const lines: string[] = [];
  for (const line of source.split('\n')) {
    if (!line.startsWith('//')) break;
    lines.push(line.slice(2));
  }
  const [first = '', ...others] = lines;
  const indented = (l: string): boolean => l.startsWith('  ');
  return {
    says: first.trim(),
    equation: others.filter(indented).map((l) => l.slice(3)),
    rest: others
      .filter((l) => !indented(l))
      .map((l) => l.trim())
      .join(' ')
      .trim(),
  };
}

/** The name a method is exported under. */
const exported = (name: string): string => name.replace('++', 'PlusPlus');

/** The comment before the export of a method or program, as one line; null where it has none. */
export function docstringOf(source: string, name: string): string | null {
  const at = source.search(new RegExp(`^export (const|(async )?function) ${exported(name)}\\b`, 'm'));
  const before = at < 0 ? '' : source.slice(0, at).trimEnd();
  if (!before.endsWith('*/')) return null;
  return before
    .slice(before.lastIndexOf('/**') + 3, -2)
    .split('\n')
    .map((l) => l.trim().replace(/^\*\s?/, ''))
    .join(' ')
    .trim();
}

/** What docstring or header state after "Count": a formula in words; null where they state none. */
export function formulaOf(source: string, name: string): string | null {
  for (const text of [docstringOf(source, name), headerOf(source).rest]) {
    const found = /\bCount([^:.]*): (.+?)\.(?=\s|$)/.exec(text ?? '');
    if (found !== null) return `${found[2]!.trim()}${found[1] === '' ? '' : ` (${found[1]!.trim()})`}`;
  }
  return null;
}
