// Flags that several commands share, and how texts given to them are checked.
import { UsageError } from '../usage.ts';

/** For parseArgs. */
export const ENGINE_FLAGS = { engine: { type: 'string' }, mode: { type: 'string' } } as const;
export const HELP_FLAG = { help: { type: 'boolean', short: 'h', default: false } } as const;
export const ENGINE_HELP = `  --engine NAME   gpujs, simd or float64 (default: the fastest here)
  --mode NAME     webgpu, webasm or cpu, inside gpujs
  --help          this text`;

export function needed(value: string | undefined, flag: string, what: string): string {
  if (value === undefined || value === '') throw new UsageError(`--${flag} is missing: ${what}`);
  return value;
}
export function wholeFrom(value: string, flag: string, least: number): number {
  const n = Number(value);
  if (!Number.isInteger(n) || n < least) throw new UsageError(`--${flag} must be a whole number from ${least}, got '${value}'`);
  return n;
}
export function numberFrom(value: string, flag: string, least: number): number {
  const n = Number(value);
  if (value.trim() === '' || !(n >= least)) throw new UsageError(`--${flag} must be a number from ${least}, got '${value}'`);
  return n;
}
