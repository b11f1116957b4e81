// The device behind the simd engine: tables in one memory, plans as programs over them.
import type { Engine } from '../engine.ts';
import { bytesOf, type Compiled, compileText } from '../engines/text.ts';
import type { Device, Executable, Numbers } from '../plan.ts';
import type { Ref, Schedule } from '../schedule.ts';
import type { Data } from '../tensor.ts';
import type { Arena, Block } from './arena.ts';
import { type Assembled, assemble, placeTemporaries, type Segment } from './assemble.ts';
import { opening } from './native.ts';

/** A table in the engine's memory. */
interface Table {
  readonly block: Block;
  readonly rows: number;
  readonly cols: number;
}

/** `run` lets all threads walk the instructions between two addresses. */
export function simdDevice(
  mem: Arena,
  run: (from: number, to: number) => void,
  close: () => Promise<void>,
): Device<Table> & { close(): Promise<void>; compiled: () => number } & Pick<Engine, 'memory' | 'adopt'> {
  const texts = new Map<string, Compiled>();
  const compiled = new Set<string>();
  const plans = new FinalizationRegistry<readonly Block[]>((blocks) => {
    for (const b of blocks) mem.free(b); // a plan's blocks go when nobody can run it any more
  });
  const make = (rows: number, cols: number): Table => ({ block: mem.alloc(rows * cols * 4), rows, cols });
  const view = (t: Table): Float32Array => mem.floats(t.block, t.rows * t.cols);
  const adopted = new WeakMap<Data, number>(); // by address: never given back, so that a part of such an array may outlive it
  const adopt = <D extends Data>(data: D): D => {
    if (adopted.has(data)) return data;
    const block = mem.alloc(data.byteLength);
    mem.bytes(block, data.byteLength).set(bytesOf(data));
    const Kind = data.constructor as new (buffer: ArrayBufferLike, at: number, n: number) => D; // the kind of array it was
    const mine = new Kind(mem.bytes(block, 0).buffer, block.at, data.length);
    adopted.set(mine, block.at);
    return mine;
  };
  /** Where adopted numbers lie, as a block that is nobody's to free. */
  const inPlace = (data: Data): Block | null => {
    const at = adopted.get(data);
    return at === undefined ? null : { at, bytes: 0 };
  };
  const text = (source: string, helpers: readonly string[]): Compiled => {
    const known = texts.get(source) ?? compileText(source, helpers);
    texts.set(source, known);
    return known;
  };
  const rows = (t: Table): Float32Array[] => {
    const all = view(t);
    return Array.from({ length: t.rows }, (_, r) => all.subarray(r * t.cols, (r + 1) * t.cols));
  };
  const script = (s: Extract<Segment, { kind: 'script' }>, result: Table, args: readonly Table[]): void =>
    text(s.text, s.helpers)(view(result), result.rows, result.cols, ...args.map(rows));

  const prepare = async (s: Schedule): Promise<Executable<Table>> => {
    for (const st of s.steps) compiled.add(`${st.kernel.cols}x${st.kernel.rows} ${st.kernel.text}`);
    const placed = placeTemporaries(s);
    const temporaries = mem.alloc(placed.bytes);
    const a = assemble(s, placed, temporaries.at);
    const code = mem.alloc(a.words.length * 4);
    mem.words(code).set(a.words);
    const executable = executableOf(a, code, temporaries);
    plans.register(executable, [code, temporaries]);
    return executable;
  };

  const executableOf = (a: Assembled, code: Block, temporaries: Block): Executable<Table> => ({
    executor: 'one program of SIMD kernels',
    fallback: a.scripts.length === 0 ? null : `without a SIMD kernel, run as JavaScript: ${a.scripts.join(', ')}`,
    run: async (read) => {
      const owned = new Map(a.owned.map((k) => [k, make(a.sizes[k]!.rows, a.sizes[k]!.cols)]));
      const table = (r: Ref): Table => {
        if (r.kind !== 'step') return read(r);
        const alias = a.aliases.get(r.index);
        if (alias !== undefined) {
          const { block } = table(alias.ref);
          return { ...a.sizes[r.index]!, block: { at: block.at + alias.offset, bytes: 0 } };
        }
        const mine = owned.get(r.index);
        return mine ?? { ...a.sizes[r.index]!, block: { at: temporaries.at + a.offsets[r.index]!, bytes: 0 } };
      };
      const words = mem.words(code);
      for (const { word, ref, offset } of a.patches) words[word] = table(ref).block.at + offset;
      for (const g of a.segments) {
        if (g.kind === 'native') run(code.at + g.from * 4, code.at + g.to * 4);
        else script(g, table({ kind: 'step', index: g.result }), g.args.map(table));
      }
      return a.roots.map(table);
    },
  });

  return {
    upload: async (data, r, cols) => {
      const block = data instanceof Float32Array ? inPlace(data) : null;
      if (block !== null) return { block, rows: r, cols };
      const t = make(r, cols);
      view(t).set(data);
      return t;
    },
    uploadBytes: async (data, r, cols) => {
      const block = inPlace(data) ?? mem.alloc(data.byteLength);
      if (block.bytes > 0) mem.bytes(block, data.byteLength).set(bytesOf(data));
      return { block, rows: r, cols };
    },
    ...(mem.shared ? { adopt } : {}),
    download: async (t): Promise<Numbers> => view(t).slice(),
    free: (t) => {
      if (t.block.bytes > 0) mem.free(t.block);
    },
    prepare,
    opening,
    compiled: () => compiled.size,
    memory: () => mem.held,
    close: async () => {
      texts.clear();
      await close();
    },
  };
}
