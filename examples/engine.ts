// What every example starts with: an engine, chosen with `--engine` and `--mode`, and `--help` in one line.
import { parseArgs } from 'node:util';
import type { Engine } from '../core/engine.ts';
import { engines, modes, openEngine } from '../core/open.ts';

/**
 * The engine an example runs on: the one asked for on the command line, else `preferred`, else the best that answers. Prints which
 * and why, so that no example is fast or slow for a secret reason. With `--help`, prints `about` in one line and ends the program.
 */
export async function engineFor(about: string, preferred?: (typeof engines)[number]): Promise<Engine> {
  const { values } = parseArgs({
    options: { help: { type: 'boolean', short: 'h' }, engine: { type: 'string' }, mode: { type: 'string' } },
  });
  if (values.help) {
    console.log(`${about}  [--engine ${engines.join('|')}] [--mode ${modes.join('|')}]`);
    process.exit(0);
  }
  const mode = oneOf(modes, values.mode);
  const asked = oneOf(engines, values.engine) ?? (mode === undefined ? preferred : 'gpujs'); // only gpujs has modes
  const engine = await openEngine({ engine: asked, mode });
  const { report } = engine;
  console.log(
    `${about}\nengine: ${report.engine}, ${report.mode}${report.adapter === null ? '' : ` on ${report.adapter}`} (${report.why})\n`,
  );
  return engine;
}

function oneOf<T extends string>(known: readonly T[], value: string | undefined): T | undefined {
  const hit = known.find((k) => k === value);
  if (value !== undefined && hit === undefined) throw new RangeError(`'${value}' is none of ${known.join(', ')}`);
  return hit;
}
