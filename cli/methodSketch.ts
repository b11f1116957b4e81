// Where a method sits, as text: the layers of a model as a tree, the places it attaches to marked.
import type { Kind, Model } from '../nn/layer.ts';
import { layers } from '../nn/tree.ts';
import type { Transform } from '../peft/method.ts';
import { pick } from '../peft/site.ts';

const MEANS: Readonly<Record<Kind, string>> = {
  weight: 'the marked tensors are read through the method wherever they are used',
  linear: 'at each marked layer the method answers in place of y = W x + b, and may call it',
  norm: 'at each marked norm the method answers in its place, and may call it',
  embedding: 'between token ids and their vectors',
  attend: 'between projected queries, keys, values and what attention answers',
  branch: 'around the marked branch, inside its residual addition',
  block: 'around the whole block, on the residual stream',
  trunk: 'around all blocks: between the embedded tokens and the head',
  model: 'around the whole model',
};

interface Line {
  readonly path: string;
  readonly kind: Kind;
  readonly marks: readonly string[];
}

/** The tree with its marks, and what they mean. Blocks that are marked alike are drawn once. Null where the model has no such place. */
export function sketch(transform: Transform, model: Model): string | null {
  const marks = marksOf(transform, model);
  if (marks === null) return null;
  const seen = new Set<string>();
  const all: Line[] = [];
  for (const { path, layer } of layers(model)) {
    const on = marks.get(path) ?? [];
    if (seen.has(path) || (layer.kind === 'weight' && on.length === 0)) continue;
    seen.add(path);
    all.push({ path, kind: layer.kind, marks: on });
  }
  const blockOf = (p: string): string | null => /^.*?\bblocks\.\d+(?=\.|$)/.exec(p)?.[0] ?? null;
  const names = [...new Set(all.map((l) => blockOf(l.path)).filter((b) => b !== null))];
  const marked = (b: string): string =>
    all
      .filter((l) => blockOf(l.path) === b)
      .map((l) => `${l.path.slice(b.length)} ${l.marks}`)
      .join();
  const alike = names.length > 1 && names.every((b) => marked(b) === marked(names[0]!));
  const shown = all.filter(({ path }) => !alike || blockOf(path) === null || blockOf(path) === names[0]);
  const text = shown.map((l) => [label(l, alike ? names.length : 0), l.kind, l.marks.map((n) => `◀ ${n}`).join('  ')] as const);
  const widths = [0, 1].map((k) => Math.max(...text.map((row) => row[k]!.length)));
  const kinds = [...new Set(transform.parts.map((p) => p.method.at))];
  return [
    ...text.map(([name, kind, mark]) => `${name.padEnd(widths[0]!)}  ${kind.padEnd(widths[1]!)}  ${mark}`.trimEnd()),
    '',
    ...kinds.map((k) => `${k}: ${MEANS[k]}`),
  ].join('\n');
}

/** What is attached where; for a method that cannot attach yet (it needs data), where it would look. Null where it finds nothing. */
function marksOf(transform: Transform, model: Model): Map<string, string[]> | null {
  const attached = (): Place[] =>
    [...layers(transform(model))].flatMap(({ path, layer: l }) => (l.attached === null ? [] : [{ path, name: l.attached.method }]));
  const wanted = (): Place[] =>
    transform.parts.flatMap(({ method: m, config }) => pick(model, m.at, config.where, m.name).map(({ path }) => ({ path, name: m.name })));
  const found = tried(attached) ?? tried(wanted);
  if (found === null) return null;
  const marks = new Map<string, string[]>();
  for (const { path, name } of found) marks.set(path, [...new Set([...(marks.get(path) ?? []), name])]);
  return marks;
}
interface Place {
  readonly path: string;
  readonly name: string;
}
function tried<T>(f: () => T): T | null {
  try {
    return f();
  } catch {
    return null;
  }
}

/** Indented by depth; a branch has a plus, because its answer is added to the stream. */
function label({ path, kind }: Line, alike: number): string {
  if (path === '') return 'model';
  const parts = path.split('.').filter((p) => p !== 'blocks');
  const last = parts.at(-1)!;
  const name = kind === 'block' ? (alike > 0 ? `${alike} blocks alike` : `block ${last}`) : kind === 'branch' ? `+ ${last}` : last;
  return `${'  '.repeat(parts.length)}${name}`;
}
