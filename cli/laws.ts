// npm run laws -- NAME: the laws of one method, on every network.
import { parseArgs } from 'node:util';
import { nearest } from '../core/nearest.ts';
import { methods } from '../peft/all.ts';
import { vitest } from './vitest.ts';

const help = `npm run laws -- [NAME …] [--seed N] [--pairs] [--long]

  Runs the laws of the named methods (of all methods when none is named) on every small network.
  A failing law prints the method, the network and the seed.

  --seed N   other weights and texts (1)
  --pairs    also the sampled pairs that the methods take part in
  --long     all pairs of all methods (minutes)
  --help     this text

  Methods: ${methods.map((m) => m.name).join(' ')}`;

function read(): { names: string[]; seed: string; pairs: boolean; long: boolean; help: boolean } | string {
  try {
    const { values, positionals } = parseArgs({
      allowPositionals: true,
      options: {
        seed: { type: 'string', default: '1' },
        pairs: { type: 'boolean', default: false },
        long: { type: 'boolean', default: false },
        help: { type: 'boolean', short: 'h', default: false },
      },
    });
    if (!/^\d+$/.test(values.seed)) return `--seed ${values.seed}: expected a whole number`;
    for (const name of positionals)
      if (!methods.some((m) => m.name === name))
        return `there is no method ${name}. Nearest: ${nearest(
          name,
          methods.map((m) => m.name),
        ).join(', ')}. All: npm run methods`;
    return { names: positionals, ...values };
  } catch (e) {
    return e instanceof Error ? e.message : String(e);
  }
}

const asked = read();
if (typeof asked === 'string') {
  console.error(`laws: ${asked}`);
  process.exitCode = 2;
} else if (asked.help) console.log(help);
else {
  const one = `(${asked.names.map((n) => n.replace(/\+/g, '\\+')).join('|')})`; // compacter++
  const filter = asked.names.length === 0 ? [] : ['-t', `^${one} |^pairs of methods.* ${one}, (then|on) | then ${one}, on `];
  const files = asked.long ? ['test/laws/pairs.long'] : ['test/laws/methods.test', ...(asked.pairs ? ['test/laws/pairs.test'] : [])];
  process.exitCode = await vitest(['run', ...files, ...(asked.long ? [] : ['--reporter=verbose', ...filter])], {
    TINYPEFT_SEED: asked.seed,
    TINYPEFT_NETWORKS: 'all',
    ...(asked.long ? { TINYPEFT_LONG: '1' } : {}),
  });
}
