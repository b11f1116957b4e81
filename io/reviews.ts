// Labelled texts: review sentences as they ship in a package, or anyone's own as JSON lines; and the split that keeps some aside.
import { readFile } from 'node:fs/promises';
import { rng } from '../core/rng.ts';

export interface Example {
  readonly text: string;
  /** Place in the list of labels. */
  readonly label: number;
}
export interface Labelled {
  readonly labels: readonly string[];
  readonly examples: readonly Example[];
}

/**
 * The 1,000 Amazon sentences of Kotzias et al. 2015 ("From Group to Individual Labels using Deep Features", KDD), half of them
 * negative, from the file of npm's wink-naive-bayes-text-classifier: a JSON list of [text, "0" or "1"].
 */
export async function readAmazon(path: string): Promise<Labelled> {
  const rows: unknown = JSON.parse(await readFile(path, 'utf8'));
  if (!Array.isArray(rows)) throw new Error(`${path}: is not a list of [text, label]`);
  const examples = rows.map((row: unknown, k): Example => {
    const [text, label] = Array.isArray(row) ? (row as unknown[]) : [];
    if (typeof text !== 'string' || (label !== '0' && label !== '1')) throw new Error(`${path}: entry ${k} is not [text, "0" or "1"]`);
    return { text, label: Number(label) };
  });
  return { labels: ['negative', 'positive'], examples };
}

/** Reads a file of JSON lines; see `parseLabelled`. */
export const readLabelled = async (path: string): Promise<Labelled> => parseLabelled(await readFile(path, 'utf8'), path);

/**
 * One {"text": …, "label": …} per line, empty lines left out. Labels are texts or whole numbers, the same kind throughout; their
 * order is alphabetic or numeric. Throws with every bad line (of many, the first ten) by its number.
 */
export function parseLabelled(content: string, path: string): Labelled {
  const wrong: string[] = [];
  const found: { text: string; label: string | number }[] = [];
  for (const [k, line] of content.split('\n').entries()) {
    if (line.trim() === '') continue;
    const row = parseLine(line);
    if (typeof row === 'string') wrong.push(`line ${k + 1}: ${row}`);
    else if (found.length > 0 && typeof found[0]!.label !== typeof row.label)
      wrong.push(`line ${k + 1}: label is a ${typeof row.label}, earlier ones are ${typeof found[0]!.label}s`);
    else found.push(row);
  }
  const labels = [...new Set(found.map((f) => f.label))].sort((a, b) =>
    typeof a === 'number' && typeof b === 'number' ? a - b : String(a) < String(b) ? -1 : 1,
  );
  if (wrong.length === 0 && labels.length < 2)
    wrong.push(
      `${found.length} lines with ${labels.length === 1 ? `one label, ${JSON.stringify(labels[0])}` : 'no label'}; a classifier needs two or more`,
    );
  if (wrong.length > 0)
    throw new Error(
      `${path}: each line must be like {"text": "I love it", "label": 1}\n  ${wrong.slice(0, 10).join('\n  ')}${wrong.length > 10 ? `\n  … and ${wrong.length - 10} more` : ''}`,
    );
  const place = new Map(labels.map((l, k) => [l, k]));
  return { labels: labels.map(String), examples: found.map(({ text, label }) => ({ text, label: place.get(label)! })) };
}

/** What a line says, or what is wrong with it. */
function parseLine(line: string): { text: string; label: string | number } | string {
  const row = json(line);
  if (row === undefined) return 'is not JSON';
  if (typeof row !== 'object' || row === null || Array.isArray(row)) return 'is not an object';
  const { text, label } = row as { readonly text?: unknown; readonly label?: unknown };
  if (typeof text !== 'string') return text === undefined ? 'has no text' : 'text is not a string';
  if (text.trim() === '') return 'text is empty';
  if (label === undefined || label === null) return 'has no label';
  if (typeof label !== 'string' && !Number.isInteger(label))
    return `label is ${JSON.stringify(label)}; it must be a text or a whole number`;
  return { text, label: label as string | number };
}
function json(line: string): unknown {
  try {
    return JSON.parse(line);
  } catch {
    return undefined;
  }
}

/**
 * Shuffles by `seed` and keeps `held` examples aside. Examples of one text, differences of case and spacing aside, never end up on
 * both sides. Throws where there are not enough examples.
 */
export function splitExamples(
  examples: readonly Example[],
  { held, seed }: { readonly held: number; readonly seed: number },
): { readonly train: readonly Example[]; readonly held: readonly Example[] } {
  if (!(Number.isInteger(held) && held >= 1 && held < examples.length))
    throw new RangeError(
      `splitExamples: ${held} of ${examples.length} examples cannot be kept aside; it must be a whole number below that`,
    );
  const groups = new Map<string, Example[]>();
  for (const e of examples) {
    const key = e.text.toLowerCase().split(/\s+/).join(' ').trim();
    groups.set(key, [...(groups.get(key) ?? []), e]);
  }
  const all = [...groups.values()];
  const [train, aside]: [Example[], Example[]] = [[], []];
  for (const k of rng(seed).split('split').permutation(all.length))
    (aside.length + all[k]!.length <= held ? aside : train).push(...all[k]!);
  return { train, held: aside };
}
