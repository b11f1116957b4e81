// The gpu.js engine: every kernel on webgpu, webasm or cpu. The only file that imports gpu.js, and the one that owns the
// casts its typings need (DESIGN §2.13).
import gpujs from 'gpu.js';
import { type Engine, makeEngine } from '../engine.ts';
import type { Device, Executable, Numbers } from '../plan.ts';
import type { Ref, Schedule, Step } from '../schedule.ts';
import type { Data } from '../tensor.ts';
import { findAdapter, releaseAdapter } from './adapter.ts';
import { threeInOne } from './text.ts';

export type GpuMode = 'webgpu' | 'webasm' | 'cpu';

/** A WebGPU result that stays on the device. */
interface Resident {
  toArray(): Promise<Float32Array[]>;
  delete(): void;
}
type Table = Float32Array[];
type KernelCall = ((...args: unknown[]) => unknown) & { destroy(): void };
interface Pipeline {
  (...args: unknown[]): Promise<Table[]>;
  executorKind: string;
  fallbackReason: string | null;
  destroy(): void;
}

const f32 = (d: Data): Float32Array => (d instanceof Float32Array ? d : Float32Array.from(d));
const inputOf = (d: Float32Array, rows: number, cols: number): unknown => new gpujs.Input(d as unknown as number[], [cols, rows]);

/** gpu.js answers a table as an array of rows. */
function flatten(rows: Table, cols: number): Float32Array {
  const out = new Float32Array(rows.length * cols);
  for (const [r, row] of rows.entries()) out.set(row, r * cols);
  return out;
}

/** Kernels by text, grid and operand sizes: equal ones are compiled once. */
function kernels(
  gpu: InstanceType<typeof gpujs.GPU>,
  settings: object,
): { get(s: Step, sizes: string): KernelCall; count(): number; clear(): void } {
  const made = new Map<string, KernelCall>();
  const helpers = new Set<string>();
  return {
    get(s, sizes) {
      const { text, cols, rows } = s.kernel;
      const key = `${cols}x${rows} ${sizes} ${text}`;
      const known = made.get(key);
      if (known !== undefined) return known;
      for (const h of s.kernel.helpers) if (!helpers.has(h)) gpu.addFunction(h as never);
      for (const h of s.kernel.helpers) helpers.add(h);
      const k = gpu.createKernel(text, { output: [cols, rows], ...settings }) as unknown as KernelCall;
      made.set(key, k);
      return k;
    },
    count: () => made.size,
    clear: () => made.clear(),
  };
}

/** Sizes of what a step reads, which gpu.js bakes into a kernel. */
function sizesOf(schedule: Schedule): (r: Ref) => string {
  return (r) => {
    switch (r.kind) {
      case 'leaf':
        return `${schedule.leaves[r.index]!.shape}${schedule.leaves[r.index]!.bytes ? ' bytes' : ''}`;
      case 'input':
        return String(schedule.inputs[r.index]!.shape);
      case 'state':
        return String(schedule.states[r.index]!.shape);
      case 'step':
        return `${schedule.steps[r.index]!.kernel.cols}x${schedule.steps[r.index]!.kernel.rows}`;
      default:
        return r.kind satisfies never;
    }
  };
}

/* webgpu: tables live on the device; a plan is a chain of kernels over handles, freed after their last reader. */

interface Held {
  readonly h: Resident;
}
function webgpuDevice(gpu: InstanceType<typeof gpujs.GPU>): Device<Held> & { close(): Promise<void>; compiled: () => number } {
  const cache = kernels(gpu, { pipeline: true, immutable: true });
  const copies = new Map<string, KernelCall>();
  const copy = (rows: number, cols: number): KernelCall => {
    const key = `${cols}x${rows}`;
    const k =
      copies.get(key) ??
      (gpu.createKernel('function (a) { return a[this.thread.y][this.thread.x]; }', {
        output: [cols, rows],
        pipeline: true,
        immutable: true,
      }) as unknown as KernelCall);
    copies.set(key, k);
    return k;
  };
  const upload = async (data: Data, rows: number, cols: number): Promise<Held> => ({
    h: (await copy(rows, cols)(inputOf(f32(data), rows, cols))) as Resident,
  });
  return {
    upload,
    uploadBytes: (data, rows, cols) => upload(threeInOne(data, rows, cols), rows, Math.ceil(cols / 3)),
    download: async (t, _rows, cols): Promise<Numbers> => flatten(await t.h.toArray(), cols),
    free: (t) => t.h.delete(),
    compiled: cache.count,
    close: async () => {
      cache.clear();
      copies.clear();
      await gpu.destroy();
    },
    prepare: async (s: Schedule): Promise<Executable<Held>> => {
      const size = sizesOf(s);
      const ready = s.steps.map((st) => ({ run: cache.get(st, st.args.map(size).join(' ')), args: st.args, free: st.free }));
      return {
        executor: 'chained kernels',
        fallback: null,
        run: async (read) => {
          const values: (Held | undefined)[] = [];
          const get = (r: Ref): Held => (r.kind === 'step' ? values[r.index]! : read(r));
          for (const [k, st] of ready.entries()) {
            values[k] = { h: (await st.run(...st.args.map((a) => get(a).h))) as Resident };
            for (const f of st.free) {
              values[f]!.h.delete();
              values[f] = undefined;
            }
          }
          return s.roots.map(get);
        },
      };
    },
  };
}

/* webasm: a plan is one gpu.js pipeline, compiled over one shared memory and run by a pool of threads.
   cpu: a plan is its kernels, one after the other. Tables live in JavaScript in both. */

interface Host {
  readonly data: Float32Array;
  readonly rows: number;
  readonly cols: number;
}
function hostDevice(
  gpu: InstanceType<typeof gpujs.GPU>,
  mode: 'webasm' | 'cpu',
): Device<Host> & { close(): Promise<void>; compiled: () => number } {
  const cache = kernels(gpu, {});
  const argument = (t: Host): unknown => inputOf(t.data, t.rows, t.cols);
  return {
    upload: async (data, rows, cols) => ({ data: f32(data), rows, cols }),
    uploadBytes: async (data, rows, cols) => ({ data: threeInOne(data, rows, cols), rows, cols: Math.ceil(cols / 3) }),
    download: async (t): Promise<Numbers> => t.data.slice(), // the caller's own copy
    free: () => {},
    compiled: cache.count,
    close: async () => {
      cache.clear();
      await gpu.destroy();
    },
    prepare: async (s: Schedule): Promise<Executable<Host>> => {
      const size = sizesOf(s);
      const ready = s.steps.map((st) => ({ ...st, run: cache.get(st, st.args.map(size).join(' ')) }));
      const host = (k: number, rows: Table): Host => {
        const { cols } = s.steps[k]!.kernel;
        return { data: flatten(rows, cols), rows: rows.length, cols };
      };
      if (mode === 'cpu' || ready.length === 0)
        return {
          executor: 'one kernel after the other',
          fallback: null,
          run: async (read) => {
            const values: (Host | undefined)[] = [];
            const get = (r: Ref): Host => (r.kind === 'step' ? values[r.index]! : read(r));
            for (const [k, st] of ready.entries()) {
              values[k] = host(k, st.run(...st.args.map((a) => argument(get(a)))) as Table);
              for (const f of st.free) values[f] = undefined;
            }
            return s.roots.map(get);
          },
        };
      const outside = uniqueRefs(s);
      const results = [...new Set(s.roots.flatMap((r) => (r.kind === 'step' ? [r.index] : [])))];
      const trace = (...args: unknown[]): unknown[] => {
        const values: unknown[] = [];
        const get = (r: Ref): unknown =>
          r.kind === 'step' ? values[r.index] : args[outside.findIndex((o) => o.kind === r.kind && o.index === r.index)];
        for (const st of ready) values.push(st.run(...st.args.map(get)));
        return results.map((k) => values[k]);
      };
      Object.defineProperty(trace, 'length', { value: outside.length }); // gpu.js counts a pipeline's arguments by it
      const pipeline = gpu.createPipeline(trace as never) as unknown as Pipeline;
      return {
        get executor() {
          return pipeline.executorKind;
        },
        get fallback() {
          return pipeline.fallbackReason;
        },
        run: async (read) => {
          const tables = results.length === 0 ? [] : await pipeline(...outside.map((r) => argument(read(r))));
          const made = new Map(results.map((k, i) => [k, host(k, tables[i]!)]));
          return s.roots.map((r) => (r.kind === 'step' ? made.get(r.index)! : read(r)));
        },
      };
    },
  };
}

/** What the steps read from outside, each once. */
function uniqueRefs(s: Schedule): Ref[] {
  const seen = new Map<string, Ref>();
  for (const st of s.steps) for (const r of st.args) if (r.kind !== 'step') seen.set(`${r.kind} ${r.index}`, r);
  return [...seen.values()];
}

const hasThreadsAndSimd = (): boolean => gpujs.GPU.isWebAssemblySupported;

/**
 * gpu.js on the best mode this machine has: webgpu when a hardware adapter answers, else webasm, else cpu. With `mode`, that one
 * or an error saying why it cannot be had. The report says which and why; `because` is added to it.
 */
export async function gpujsEngine({ mode, because }: { mode?: GpuMode; because?: string } = {}): Promise<Engine> {
  const found = mode === undefined || mode === 'webgpu' ? await findAdapter() : { reason: `mode ${mode} was asked for` };
  if (mode === 'webgpu' && 'reason' in found) {
    releaseAdapter();
    throw new Error(`gpujs: mode webgpu was asked for, but ${found.reason}. Leave the mode out to use what there is`);
  }
  if (mode === 'webasm' && !hasThreadsAndSimd())
    throw new Error('gpujs: mode webasm was asked for, but this runtime has no WebAssembly; use mode cpu');
  if ('adapter' in found && (mode === 'webgpu' || !found.software)) {
    const device = webgpuDevice(new gpujs.GPU({ mode: 'webgpu' }));
    const close = async (): Promise<void> => {
      await device.close();
      releaseAdapter();
    };
    return makeEngine({ ...device, close }, { engine: 'gpujs', mode: 'webgpu', adapter: found.adapter, why: 'a WebGPU adapter answered' });
  }
  if (mode === undefined) releaseAdapter();
  const chosen = mode === 'cpu' || !hasThreadsAndSimd() ? 'cpu' : 'webasm';
  const reason = 'reason' in found ? found.reason : `the only WebGPU adapter computes in software (${found.adapter})`;
  const why = [
    reason,
    ...(chosen === 'cpu' && mode !== 'cpu' ? ['there is no WebAssembly'] : []),
    ...(because === undefined ? [] : [because]),
  ].join('; ');
  return makeEngine(hostDevice(new gpujs.GPU({ mode: chosen }), chosen), { engine: 'gpujs', mode: chosen, adapter: null, why });
}
