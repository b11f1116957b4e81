// What every example starts with: an engine, chosen with `--engine` and `--mode`, and `--help` in one line.
import { parseArgs } from 'node:util';
import type { Engine } from '../core/engine.ts';
import { openEngine } from '../core/open.ts';

const ENGINES = ['gpujs', 'float64'] as const;
const MODES = ['webgpu', 'webasm', 'cpu'] as const;

/**
 * The engine an example runs on. Prints which one and why, so that no example is fast or slow for a secret reason. With `--help`, prints
 * `about` and ends the program. `--engine` and `--mode` take what `openEngine` takes, and what it does not know it refuses.
 */
export async function engineFor(about: string): Promise<Engine> {
  const { values } = parseArgs({
    options: { help: { type: 'boolean', short: 'h' }, engine: { type: 'string' }, mode: { type: 'string' } },
  });
  if (values.help) {
    console.log(`${about}  [--engine ${ENGINES.join('|')}] [--mode ${MODES.join('|')}]`);
    process.exit(0);
  }
  const engine = await openEngine({ engine: oneOf(ENGINES, values.engine), mode: oneOf(MODES, values.mode) });
  const { mode, adapter, why } = engine.report;
  console.log(`${about}\nengine: ${engine.report.engine}, ${mode}${adapter === null ? '' : ` on ${adapter}`} (${why})\n`);
  return engine;
}

function oneOf<T extends string>(known: readonly T[], value: string | undefined): T | undefined {
  const hit = known.find((k) => k === value);
  if (value !== undefined && hit === undefined) throw new RangeError(`'${value}' is none of ${known.join(', ')}`);
  return hit;
}
