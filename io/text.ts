// Real text as training data: a vocabulary of characters, and windows of ids cut from a text.
import { rng } from '../core/rng.ts';
import type { Fed } from '../optim/trainer.ts';

export interface Characters {
  readonly size: number;
  /** Ids of a text; characters outside the vocabulary become spaces. */
  encode(text: string): Int32Array;
  decode(ids: Iterable<number>): string;
}

/** The characters that occur at least `least` times in every one of the texts, in code order. */
export function characters(texts: readonly string[], least = 20): Characters {
  const counts = texts.map((text) => {
    const n = new Map<string, number>();
    for (const c of text) n.set(c, (n.get(c) ?? 0) + 1);
    return n;
  });
  const known = [...new Set([' ', ...counts.flatMap((n) => [...n.keys()])])]
    .filter((c) => c === ' ' || counts.every((n) => (n.get(c) ?? 0) >= least))
    .sort();
  const ids = new Map(known.map((c, i) => [c, i]));
  const space = ids.get(' ')!;
  return {
    size: known.length,
    encode: (text) => Int32Array.from(text, (c) => ids.get(c) ?? space),
    decode: (list) => Array.from(list, (i) => known[i] ?? '').join(''),
  };
}

/** Prose as one line: every run of white space is one space, typographic quotes are plain. */
export const oneLine = (text: string): string => text.replace(/[“”]/g, '"').replace(/[‘’]/g, "'").replace(/\s+/g, ' ').trim();

export interface Windows {
  readonly ids: Fed; // [B, T]
  readonly targets: Fed; // [B, T], each the id after
}

/** B windows of T ids at random places; the same seed and step give the same windows. */
export function randomWindows(
  text: Int32Array,
  { rows, tokens, seed }: { rows: number; tokens: number; seed: number },
): (step: number) => Windows {
  if (text.length <= tokens) throw new RangeError(`windows: a text of ${text.length} ids is too short for windows of ${tokens}`);
  return (step) => {
    const r = rng(seed).split(step);
    return windowsAt(
      text,
      Array.from({ length: rows }, () => r.below(text.length - tokens)),
      tokens,
    );
  };
}

/** The text from its start in windows that do not overlap, `rows` at a time, at most `batches` of them. */
export function* inOrder(
  text: Int32Array,
  { rows, tokens, batches }: { rows: number; tokens: number; batches: number },
): Generator<Windows> {
  for (let b = 0; b < batches && (b + 1) * rows * tokens < text.length; b++)
    yield windowsAt(
      text,
      Array.from({ length: rows }, (_, k) => (b * rows + k) * tokens),
      tokens,
    );
}

function windowsAt(text: Int32Array, starts: readonly number[], tokens: number): Windows {
  const cut = (shift: number): Fed => {
    const data = new Int32Array(starts.length * tokens);
    for (const [k, s] of starts.entries()) data.set(text.subarray(s + shift, s + shift + tokens), k * tokens);
    return { data, shape: [starts.length, tokens] };
  };
  return { ids: cut(0), targets: cut(1) };
}
