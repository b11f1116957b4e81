// Flags that several commands share, and how texts given to them are checked.
import { type ParseArgsConfig, parseArgs } from 'node:util';
import { nearest } from '../../core/nearest.ts';
import { UsageError } from '../usage.ts';

/** For parseArgs. */
export const ENGINE_FLAGS = { engine: { type: 'string' }, mode: { type: 'string' } } as const;
export const HELP_FLAG = { help: { type: 'boolean', short: 'h', default: false } } as const;
export const ENGINE_HELP = `  --engine NAME   gpujs, simd or float64 (default: the fastest here)
  --mode NAME     webgpu, webasm or cpu, inside gpujs
  --help          this text`;

/** How the frozen base may be packed. */
export const PACKINGS = ['none', 'nf4', 'nf4-double', 'fp4', 'int8', 'int4', 'int2'] as const;
export type Packing = (typeof PACKINGS)[number];

/** Node's parseArgs, whose errors name the command, the flags that were probably meant, and where all of them are listed. */
export function parsed<T extends ParseArgsConfig & { readonly options: object }>(
  command: string,
  config: T,
): ReturnType<typeof parseArgs<T>> {
  try {
    return parseArgs(config);
  } catch (e) {
    const { code, message } = e as NodeJS.ErrnoException;
    if (code === undefined || !code.startsWith('ERR_PARSE_ARGS')) throw e;
    const unknown = code === 'ERR_PARSE_ARGS_UNKNOWN_OPTION' ? /'(-[^' ]*)/.exec(message)?.[1] : undefined;
    const says =
      unknown === undefined
        ? message
        : `there is no ${unknown}. Nearest: ${nearest(unknown.replace(/^-+/, ''), Object.keys(config.options))
            .map((n) => `--${n}`)
            .join(', ')}`;
    throw new UsageError(`${command}: ${says}\nAll flags: tinypeft ${command} --help`, { cause: e });
  }
}

export function needed(value: string | undefined, flag: string, what: string): string {
  if (value === undefined || value === '') throw new UsageError(`--${flag} is missing: ${what}`);
  return value;
}
export function wholeFrom(value: string, flag: string, least: number): number {
  const n = Number(value);
  if (value.trim() === '' || !Number.isSafeInteger(n) || n < least)
    throw new UsageError(`--${flag} must be a whole number from ${least}, got '${value}'`);
  return n;
}
export function numberFrom(value: string, flag: string, least: number): number {
  const n = Number(value);
  if (value.trim() === '' || !(n >= least && n < Number.POSITIVE_INFINITY))
    throw new UsageError(`--${flag} must be a number from ${least}, got '${value}'`);
  return n;
}
/** One of several names, or null where none was given. */
export function oneOf<T extends string>(value: string | undefined, flag: string, names: readonly T[]): T | null {
  if (value === undefined) return null;
  const found = names.find((n) => n === value);
  if (found === undefined) throw new UsageError(`--${flag}: there is no ${value}; ${names.join(', ')}`);
  return found;
}
