// The fast CPU engine: schedules run as programs of WebAssembly SIMD kernels, over one memory, on several threads.
import { type Engine, makeEngine } from '../engine.ts';
import type { Device, Executable, Numbers } from '../plan.ts';
import type { Ref, Schedule } from '../schedule.ts';
import { type Arena, arena, type Block } from '../simd/arena.ts';
import { plain, relaxed } from '../simd/binary.ts';
import { encode, type Instructions, type Word } from '../simd/encode.ts';
import { SCRATCH } from '../simd/opcodes.ts';
import { CONTROL, type Pool, pool } from '../simd/pool.ts';
import { type Compiled, compileText } from './text.ts';

/** A table in the engine's memory. */
interface Table {
  readonly block: Block;
  readonly rows: number;
  readonly cols: number;
}
type Run = (from: number, to: number, tid: number, threads: number, scratch: number, control: number) => void;

export interface SimdOptions {
  /** Threads to compute with; as many as the machine has cores when left out, at most 16. */
  readonly threads?: number;
  /** Fused multiply-add where the runtime has it (default), or never: for comparing the two. */
  readonly relaxed?: boolean;
  /** Most bytes of memory the engine may hold; 4 GiB when left out, which is also the most there can be. */
  readonly memoryLimit?: number;
  /** Why this engine was picked, for its report. */
  readonly because?: string;
}

const bytesOf = (base64: string): Uint8Array<ArrayBuffer> => Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));

/** Node 20 has relaxed SIMD behind a flag that may be set until the first module is compiled. */
async function allowRelaxed(): Promise<void> {
  if (typeof process !== 'undefined') (await import('node:v8')).setFlagsFromString('--experimental-wasm-relaxed-simd');
}

async function cores(): Promise<number> {
  if (typeof process !== 'undefined') return (await import('node:os')).availableParallelism();
  return globalThis.crossOriginIsolated && typeof document === 'undefined' ? navigator.hardwareConcurrency : 1; // a browser's main thread may not wait
}

/** Whether this runtime can run the engine; when not, why. */
export function simdMissing(): string | null {
  if (typeof WebAssembly === 'undefined') return 'there is no WebAssembly';
  if (typeof SharedArrayBuffer === 'undefined')
    return 'there is no SharedArrayBuffer (in a browser the page must be cross-origin isolated)';
  return WebAssembly.validate(bytesOf(plain)) ? null : 'this runtime has no WebAssembly SIMD or threads';
}

/** Opens the engine. Throws where the runtime lacks WebAssembly SIMD, and says so. */
export async function simd(options: SimdOptions = {}): Promise<Engine> {
  const missing = simdMissing();
  if (missing !== null) throw new Error(`simd engine: ${missing}; use openEngine(), which picks what there is`);
  await allowRelaxed();
  const fused = options.relaxed !== false && WebAssembly.validate(bytesOf(relaxed));
  const limit = Math.min(options.memoryLimit ?? 2 ** 32, 2 ** 32 - 65536);
  const threads = Math.max(1, Math.min(options.threads ?? (await cores()), 16));
  const first = 1024 + threads * SCRATCH;
  const memory = new WebAssembly.Memory({ initial: Math.ceil(first / 65536) + 16, maximum: 65536, shared: true });
  const module = await WebAssembly.compile(bytesOf(fused ? relaxed : plain));
  const { exports } = await WebAssembly.instantiate(module, { env: { memory } });
  const scratch = (tid: number): number => 1024 + tid * SCRATCH;
  const workers = threads > 1 ? await pool(module, memory, threads, scratch) : null;
  const run = exports.run as Run;
  const program = (from: number, to: number): void => {
    if (workers?.failure != null) throw workers.failure;
    workers?.start(from, to);
    run(from, to, 0, threads, scratch(0), CONTROL);
  };
  const device = deviceOn(arena(memory, first, limit), program, workers);
  return makeEngine(device, {
    engine: 'simd',
    mode: `wasm, ${threads} thread${threads === 1 ? '' : 's'}${fused ? ', relaxed SIMD' : ''}`,
    adapter: null,
    why: options.because ?? 'asked for',
  });
}

function deviceOn(
  mem: Arena,
  program: (from: number, to: number) => void,
  workers: Pool | null,
): Device<Table> & { close(): Promise<void>; compiled: () => number } {
  const texts = new Map<string, Compiled>();
  const compiled = new Set<string>();
  const plans = new FinalizationRegistry<() => void>((release) => release()); // a plan's blocks go when nobody can run it
  const tableFor = (rows: number, cols: number): Table => ({ block: mem.alloc(rows * cols * 4), rows, cols });
  const view = (t: Table): Float32Array => mem.floats(t.block, t.rows * t.cols);
  const rowsOf = (t: Table): Float32Array[] => Array.from({ length: t.rows }, (_, r) => view(t).subarray(r * t.cols, (r + 1) * t.cols));
  const text = (source: string, helpers: readonly string[]): Compiled => {
    const known = texts.get(source) ?? compileText(source, helpers);
    texts.set(source, known);
    return known;
  };

  /** The whole schedule as words; where an operand's address goes is written before each run. */
  const prepare = async (s: Schedule): Promise<Executable<Table>> => {
    const owned = new Set(s.roots.flatMap((r) => (r.kind === 'step' ? [r.index] : [])));
    const { offsets, bytes } = placeTemporaries(s, owned);
    const encoded = s.steps.map(encode);
    for (const st of s.steps) compiled.add(`${st.kernel.cols}x${st.kernel.rows} ${st.kernel.text}`);
    const words = encoded.reduce((n, e) => n + (e?.reduce((m, i) => m + i.length, 0) ?? 0), 0);
    const [code, temporaries] = [mem.alloc(Math.max(words, 1) * 4), mem.alloc(Math.max(bytes, 4))];
    const executable: Executable<Table> = {
      executor: 'one program of SIMD kernels',
      fallback: named(s, encoded),
      run: async (read) => {
        const mine = new Map([...owned].map((k) => [k, tableFor(s.steps[k]!.kernel.rows, s.steps[k]!.kernel.cols)]));
        const at = (r: Ref): number =>
          r.kind !== 'step' ? read(r).block.at : (mine.get(r.index)?.block.at ?? temporaries.at + offsets[r.index]!);
        const table = (r: Ref): Table =>
          r.kind !== 'step'
            ? read(r)
            : (mine.get(r.index) ?? {
                block: { at: at(r), bytes: 0 },
                rows: s.steps[r.index]!.kernel.rows,
                cols: s.steps[r.index]!.kernel.cols,
              });
        const out = mem.words(code);
        const floats = new Float32Array(out.buffer, out.byteOffset, out.length);
        let [from, to] = [0, 0];
        const flush = (): void => {
          if (to > from) program(code.at + from * 4, code.at + to * 4);
          from = to;
        };
        for (const [k, st] of s.steps.entries()) {
          const instructions = encoded[k];
          const self: Ref = { kind: 'step', index: k };
          if (instructions == null) {
            // no kernel: its text, as JavaScript
            flush();
            const t = table(self);
            text(st.kernel.text, st.kernel.helpers)(view(t), t.rows, t.cols, ...st.args.map((a) => rowsOf(table(a))));
            continue;
          }
          for (const w of instructions.flat()) to = write(out, floats, to, w, (o) => at(o < 0 ? self : st.args[o]!));
        }
        flush();
        return s.roots.map(table);
      },
    };
    plans.register(executable, () => {
      mem.free(code);
      mem.free(temporaries);
    });
    return executable;
  };

  return {
    upload: async (data, rows, cols) => {
      const t = tableFor(rows, cols);
      view(t).set(data);
      return t;
    },
    download: async (t): Promise<Numbers> => view(t).slice(),
    free: (t) => mem.free(t.block),
    prepare,
    compiled: () => compiled.size,
    close: async () => {
      texts.clear();
      await workers?.close();
    },
  };
}

function write(words: Int32Array, floats: Float32Array, at: number, w: Word, address: (operand: number) => number): number {
  if (typeof w === 'number') words[at] = w;
  else if ('float' in w) floats[at] = w.float;
  else words[at] = address(w.operand);
  return at + 1;
}

/** Where each step's result lies in the plan's block: a place is used again once its last reader is done. */
function placeTemporaries(s: Schedule, owned: ReadonlySet<number>): { offsets: number[]; bytes: number } {
  const offsets: number[] = [];
  const sizes = new Map<number, number>();
  const idle: { at: number; bytes: number }[] = [];
  let top = 0;
  for (const [k, st] of s.steps.entries()) {
    if (!owned.has(k)) {
      const need = Math.ceil((st.kernel.rows * st.kernel.cols * 4 + 16) / 64) * 64;
      const fits = idle.filter((f) => f.bytes >= need && f.bytes <= 2 * need).sort((a, b) => a.bytes - b.bytes)[0];
      if (fits !== undefined) idle.splice(idle.indexOf(fits), 1);
      const place = fits ?? { at: top, bytes: need };
      if (fits === undefined) top += need;
      offsets[k] = place.at;
      sizes.set(k, place.bytes);
    }
    for (const f of st.free) if (!owned.has(f)) idle.push({ at: offsets[f]!, bytes: sizes.get(f)! });
  }
  return { offsets, bytes: top };
}

/** Names the ops that ran as JavaScript. */
function named(s: Schedule, encoded: readonly (Instructions | null)[]): string | null {
  const slow = [...new Set(s.steps.flatMap((st, k) => (encoded[k] === null ? [st.kernel.name] : [])))];
  return slow.length === 0 ? null : `without a SIMD kernel, run as JavaScript: ${slow.join(', ')}`;
}
