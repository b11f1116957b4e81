// The fast CPU engine: schedules run as programs of WebAssembly SIMD kernels, over one memory, on several threads.
import { type Engine, makeEngine } from '../engine.ts';
import { arena } from '../simd/arena.ts';
import { plain, relaxed } from '../simd/binary.ts';
import { simdDevice } from '../simd/device.ts';
import { SCRATCH } from '../simd/opcodes.ts';
import { CONTROL, pool } from '../simd/pool.ts';

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
  const device = simdDevice(arena(memory, first, limit), program, async () => workers?.close());
  return makeEngine(device, {
    engine: 'simd',
    mode: `wasm, ${threads} thread${threads === 1 ? '' : 's'}${fused ? ', relaxed SIMD' : ''}`,
    adapter: null,
    why: options.because ?? 'asked for',
  });
}
