// Picks an engine for this machine, or the one that was asked for.
import type { Engine } from './engine.ts';

export const engines = ['gpujs', 'simd', 'float64'] as const;
export const modes = ['webgpu', 'webasm', 'cpu'] as const;
export interface EngineChoice {
  /** Left out: the fastest this machine has. */
  readonly engine?: (typeof engines)[number] | undefined;
  /** Inside gpujs; left out, the best that answers. Asking for a mode is asking for gpujs. */
  readonly mode?: (typeof modes)[number] | undefined;
}

/**
 * An engine, and in its report which and why. Without a choice, the variables TINYPEFT_ENGINE and TINYPEFT_GPU_MODE decide
 * where there is an environment; else gpu.js on webgpu where a hardware adapter answers, else WebAssembly SIMD, else gpu.js
 * on what is left.
 */
export async function openEngine(choice: EngineChoice = {}): Promise<Engine> {
  const env = typeof process === 'undefined' ? {} : process.env;
  const mode = oneOf('mode', choice.mode ?? env.TINYPEFT_GPU_MODE, modes);
  const engine = oneOf('engine', choice.engine ?? env.TINYPEFT_ENGINE, engines) ?? (mode === undefined ? undefined : 'gpujs');
  switch (engine) {
    case 'float64':
      return (await import('./engines/float64.ts')).float64();
    case 'simd':
      return (await import('./engines/simd.ts')).simd();
    case 'gpujs':
      return gpujs(mode);
    case undefined: {
      const { simd, simdMissing } = await import('./engines/simd.ts');
      const { hardwareAdapter } = await import('./engines/adapter.ts');
      const gpu = await hardwareAdapter();
      const missing = simdMissing();
      if ('adapter' in gpu) return gpujs(mode);
      return missing === null ? simd({ because: `no GPU: ${gpu.reason}` }) : gpujs(mode, `no simd engine: ${missing}`);
    }
    default:
      return engine satisfies never;
  }
}
const gpujs = async (mode: EngineChoice['mode'], because?: string): Promise<Engine> =>
  (await import('./engines/gpujs.ts')).gpujsEngine({
    ...(mode === undefined ? {} : { mode }),
    ...(because === undefined ? {} : { because }),
  });

function oneOf<T extends string>(what: string, value: string | undefined, known: readonly T[]): T | undefined {
  if (value === undefined || value === '') return undefined;
  const hit = known.find((k) => k === value);
  if (hit === undefined) throw new RangeError(`openEngine: there is no ${what} '${value}'; choose one of ${known.join(', ')}`);
  return hit;
}
