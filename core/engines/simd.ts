// The fast CPU engine: schedules run as programs of WebAssembly SIMD kernels, over one memory, on several threads.
import { type Engine, makeEngine } from '../engine.ts';
import { arena } from '../simd/arena.ts';
import { plain, plainAlone, relaxed, relaxedAlone } from '../simd/binary.ts';
import { simdDevice } from '../simd/device.ts';
import { SCRATCH } from '../simd/opcodes.ts';
import { CONTROL, pool } from '../simd/pool.ts';

type Run = (from: number, to: number, tid: number, threads: number, scratch: number, control: number) => void;

const PAGE = 65536;
const MOST_THREADS = 16;
/** Where the first thread's scratch begins: the words before it are the threads' signals. */
const START = 1024;

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
export const simdMissing = (): string | null => {
  if (typeof WebAssembly === 'undefined') return 'there is no WebAssembly';
  return WebAssembly.validate(bytesOf(plainAlone)) ? null : 'this runtime has no WebAssembly SIMD';
};

/** Shared memory needs a page that is cross-origin isolated, and a runtime with WebAssembly threads. */
const canShare = (): boolean => typeof SharedArrayBuffer !== 'undefined' && WebAssembly.validate(bytesOf(plain));

/** Opens the engine. Throws where the runtime lacks WebAssembly SIMD, and says so. */
export async function simd(options: SimdOptions = {}): Promise<Engine> {
  const missing = simdMissing();
  if (missing !== null) throw new Error(`simd engine: ${missing}; use openEngine(), which picks what there is`);
  if (options.threads !== undefined && !(Number.isInteger(options.threads) && options.threads >= 1))
    throw new RangeError(`simd engine: threads must be a whole number from 1, got ${options.threads}`);
  await allowRelaxed();
  const shared = canShare();
  const fused = options.relaxed !== false && WebAssembly.validate(bytesOf(relaxedAlone));
  const limit = Math.min(options.memoryLimit ?? 2 ** 32, 2 ** 32 - PAGE);
  const threads = shared ? Math.min(options.threads ?? (await cores()), MOST_THREADS) : 1;
  const first = START + threads * SCRATCH;
  const memory = new WebAssembly.Memory({ initial: Math.ceil(first / PAGE) + 16, maximum: 65536, shared });
  const module = await WebAssembly.compile(bytesOf(shared ? (fused ? relaxed : plain) : fused ? relaxedAlone : plainAlone));
  const { exports } = await WebAssembly.instantiate(module, { env: { memory } });
  const scratch = (tid: number): number => START + tid * SCRATCH;
  const workers = threads > 1 ? await pool(module, memory, threads, scratch) : null;
  const walk = exports.run as Run;
  const run = (from: number, to: number): void => {
    if (workers?.failure != null) throw workers.failure;
    workers?.start(from, to);
    walk(from, to, 0, threads, scratch(0), CONTROL);
  };
  const device = simdDevice(arena(memory, first, limit), run, async () => workers?.close());
  const kind = `${threads} thread${threads === 1 ? '' : 's'}${fused ? ', relaxed SIMD' : ''}${shared ? '' : ', memory not shared'}`;
  return makeEngine(device, { engine: 'simd', mode: `wasm, ${kind}`, adapter: null, why: options.because ?? 'asked for' });
}
