// Picks an engine for this machine, or the one that was asked for.
import type { Engine } from './engine.ts';

export interface EngineChoice {
  /** 'gpujs' (default) or 'float64', the slow oracle in double precision. */
  readonly engine?: 'gpujs' | 'float64' | undefined;
  /** Inside gpujs; the best that answers when left out. */
  readonly mode?: 'webgpu' | 'webasm' | 'cpu' | undefined;
}

/**
 * An engine, and in its report which and why. Without a choice, the variables TINYPEFT_ENGINE and TINYPEFT_GPU_MODE decide
 * where there is an environment, else gpu.js on webgpu when an adapter answers, on webasm, or on cpu.
 */
export async function openEngine(choice: EngineChoice = {}): Promise<Engine> {
  const env = typeof process === 'undefined' ? {} : process.env;
  const engine = oneOf('engine', choice.engine ?? env.TINYPEFT_ENGINE, ['gpujs', 'float64'] as const) ?? 'gpujs';
  const mode = oneOf('mode', choice.mode ?? env.TINYPEFT_GPU_MODE, ['webgpu', 'webasm', 'cpu'] as const);
  if (engine === 'float64') return (await import('./engines/float64.ts')).float64();
  const { gpujsEngine } = await import('./engines/gpujs.ts');
  return gpujsEngine(mode === undefined ? {} : { mode });
}

function oneOf<T extends string>(what: string, value: string | undefined, known: readonly T[]): T | undefined {
  if (value === undefined || value === '') return undefined;
  const hit = known.find((k) => k === value);
  if (hit === undefined) throw new RangeError(`openEngine: there is no ${what} '${value}'; choose one of ${known.join(', ')}`);
  return hit;
}
