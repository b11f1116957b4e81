// A schedule as one program: words for the WebAssembly module, the places in it where addresses are filled in before a run,
// and the steps that have no kernel and run as JavaScript in between.
import { lastReads, type Ref, rootSteps, type Schedule } from '../schedule.ts';
import { size } from '../shape.ts';
import { encode } from './encode.ts';
import { opening } from './native.ts';
import type { Instructions } from './words.ts';

/** The size of a step's result. */
export interface Size {
  readonly rows: number;
  readonly cols: number;
}
/** Instructions from one word to another, run in one go; or one step's kernel text. */
export type Segment =
  | { readonly kind: 'native'; readonly from: number; readonly to: number }
  | {
      readonly kind: 'script';
      readonly text: string;
      readonly helpers: readonly string[];
      readonly result: number;
      readonly args: readonly Ref[];
    };

export interface Assembled {
  readonly words: Int32Array;
  /** Words that hold the address of something outside the plan's own block: known only when it runs. */
  readonly patches: readonly { readonly word: number; readonly ref: Ref; readonly offset: number }[];
  readonly segments: readonly Segment[];
  readonly sizes: readonly Size[];
  /** Where each temporary lies in the plan's block, in bytes; −1 for results that belong to the caller. */
  readonly offsets: readonly number[];
  readonly owned: readonly number[];
  /** Results that are part of another table: no work, only an address. */
  readonly aliases: ReadonlyMap<number, Alias>;
  readonly roots: readonly Ref[];
  readonly scripts: readonly string[];
}

/** A part of a table that is no alias itself; `offset` in bytes. */
export interface Alias {
  readonly ref: Ref;
  readonly offset: number;
}
/** Bytes of the block that a plan's temporaries share. */
export interface Placement {
  readonly offsets: readonly number[];
  readonly bytes: number;
  readonly aliases: ReadonlyMap<number, Alias>;
}

/** Reshaped tables, and slices that are one run of their table, unless the caller will own them. */
function aliasesIn(s: Schedule): Map<number, Alias> {
  const owned = rootSteps(s);
  const aliases = new Map<number, Alias>();
  for (const [k, st] of s.steps.entries()) {
    const { source } = st.node;
    if (owned.has(k) || source.kind !== 'apply') continue;
    const { name } = source.op;
    if (name !== 'reshape' && name !== 'slice') continue;
    const { axis, start } = name === 'slice' ? (source.attrs as { axis: number; start: number }) : { axis: 0, start: 0 };
    const from = source.ins[0]!.shape;
    if (size(from.slice(0, axis)) !== 1) continue;
    const [ref] = st.args as readonly [Ref];
    const of = ref.kind === 'step' ? aliases.get(ref.index) : undefined;
    aliases.set(k, { ref: of?.ref ?? ref, offset: (of?.offset ?? 0) + 4 * start * size(from.slice(axis + 1)) });
  }
  return aliases;
}

/**
 * Where each result lies. The largest get their places first, each at the lowest address where nothing lies that is needed at the same time:
 * a training step's block is then within a percent of the most bytes alive at once, which `account` counts.
 */
export function placeTemporaries(s: Schedule): Placement {
  const owned = rootSteps(s);
  const bytes = s.steps.map(({ kernel: { rows, cols } }) => Math.ceil((rows * cols * 4 + 16) / 64) * 64); // a vector may be read past the end
  const aliases = aliasesIn(s);
  const last = s.steps.map((_, k) => k);
  const reads = s.steps.map(({ args }) => args);
  for (const [k, freed] of lastReads(reads, s.roots, aliases)) for (const f of freed) last[f] = k;
  const offsets = s.steps.map(() => -1);
  const placed: number[] = []; // steps by address
  let top = 0;
  for (const k of [...s.steps.keys()].filter((k) => !owned.has(k) && !aliases.has(k)).sort((a, b) => bytes[b]! - bytes[a]! || a - b)) {
    let at = 0;
    for (const p of placed) {
      if (p > last[k]! || last[p]! < k) continue; // not needed at the same time
      if (offsets[p]! - at >= bytes[k]!) break; // fits in front of it
      at = Math.max(at, offsets[p]! + bytes[p]!);
    }
    let [low, high] = [0, placed.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (offsets[placed[middle]!]! < at) low = middle + 1;
      else high = middle;
    }
    placed.splice(low, 0, k);
    offsets[k] = at;
    top = Math.max(top, at + bytes[k]!);
  }
  return { offsets, bytes: top, aliases };
}
/** For `account`: a program as this engine runs it. */
export const asSimd = { opening, parts: aliasesIn } as const;

/** The program of a schedule whose temporaries lie from byte `base` on. Keeps nothing of the graph. */
export function assemble(s: Schedule, { offsets, aliases }: Placement, base: number): Assembled {
  const encoded = s.steps.map((st, k) => (aliases.has(k) ? [] : encode(st)));
  const words = new Int32Array(encoded.reduce((n, e) => n + lengthOf(e), 0));
  const floats = new Float32Array(words.buffer);
  const patches: { word: number; ref: Ref; offset: number }[] = [];
  const segments: Segment[] = [];
  let [from, at] = [0, 0];
  const flush = (): void => {
    if (at > from) segments.push({ kind: 'native', from, to: at });
    from = at;
  };
  for (const [k, st] of s.steps.entries()) {
    const instructions = encoded[k];
    if (instructions == null) {
      flush();
      segments.push({ kind: 'script', text: st.kernel.text, helpers: st.kernel.helpers, result: k, args: st.args });
      continue;
    }
    for (const i of instructions)
      for (const w of i) {
        if (typeof w === 'number') words[at] = w;
        else if ('float' in w) floats[at] = w.float;
        else {
          const named: Ref = w.operand < 0 ? { kind: 'step', index: k } : st.args[w.operand]!;
          const { ref, offset } = (named.kind === 'step' ? aliases.get(named.index) : undefined) ?? { ref: named, offset: 0 };
          if (ref.kind === 'step' && offsets[ref.index]! >= 0) words[at] = base + offsets[ref.index]! + offset;
          else patches.push({ word: at, ref, offset });
        }
        at++;
      }
  }
  flush();
  return {
    words,
    patches,
    segments,
    offsets,
    aliases,
    roots: s.roots,
    owned: [...rootSteps(s)],
    sizes: s.steps.map(({ kernel }) => ({ rows: kernel.rows, cols: kernel.cols })),
    scripts: [...new Set(s.steps.flatMap((st, k) => (encoded[k] === null ? [st.kernel.name] : [])))],
  };
}
const lengthOf = (e: Instructions | null): number => e?.reduce((n, i) => n + i.length, 0) ?? 0;
