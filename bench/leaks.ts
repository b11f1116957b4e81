// Does training on texts of changing lengths leak? 2,000 steps in buckets; resident memory and the engine's own must stay flat.
//   npx tsx bench/leaks.ts [--engine simd|gpujs|float64] [--mode …] [--steps 2000] [--json]; the fastest engine there is by default
// Exits with 1 when resident memory grew by more than 5 %, or the engine's memory at all, after a fifth of the steps.
import { parseArgs } from 'node:util';
import { columns } from '../core/columns.ts';
import { engines, modes, openEngine } from '../core/open.ts';
import { rng } from '../core/rng.ts';
import { decoder, gpt2 } from '../nn/decoder.ts';
import { freeze } from '../nn/freeze.ts';
import { nextToken } from '../nn/losses.ts';
import { adamw } from '../optim/adamw.ts';
import { clipByNorm } from '../optim/clip.ts';
import { trainer } from '../optim/trainer.ts';
import { lora } from '../peft/reparameterized/lora.ts';
import { inUse, mb, resident } from './resident.ts';

const { values: flags } = parseArgs({
  options: {
    engine: { type: 'string' },
    mode: { type: 'string' },
    steps: { type: 'string', default: '2000' },
    json: { type: 'boolean', default: false },
    help: { type: 'boolean', short: 'h', default: false },
  },
});
const MOST_GROWTH = 0.05;
/** Rows and bucket widths: every combination is a plan of its own, fewer than an engine keeps. */
const ROWS = [4, 3];
const BUCKET = 8;
const BUCKETS = 8;

/** Sizes of every WebAssembly memory made from here on: an engine keeps its numbers there, out of Node's own accounts. */
function watchMemories(): () => number {
  const made: WebAssembly.Memory[] = [];
  const { Memory } = WebAssembly;
  WebAssembly.Memory = class extends Memory {
    constructor(d: WebAssembly.MemoryDescriptor) {
      super(d);
      made.push(this);
    }
  };
  return () => made.reduce((n, m) => n + m.buffer.byteLength, 0);
}

interface Reading {
  readonly step: number;
  readonly resident: number;
  readonly engine: number;
  readonly javascript: number;
  readonly plans: number;
}

async function main(): Promise<number> {
  const steps = Number(flags.steps);
  if (!(Number.isInteger(steps) && steps >= 100)) throw new RangeError(`--steps ${flags.steps}: expected a whole number from 100`);
  const asked = engines.find((e) => e === flags.engine);
  const mode = modes.find((m) => m === flags.mode);
  if (flags.engine !== asked) throw new RangeError(`--engine ${flags.engine}: choose one of ${engines.join(', ')}`);
  if (flags.mode !== mode) throw new RangeError(`--mode ${flags.mode}: choose one of ${modes.join(', ')}`);
  const engineBytes = watchMemories();
  await using engine = await openEngine({ engine: asked, mode });
  const base = freeze(decoder(gpt2({ vocabulary: 64, width: 32, layers: 2, heads: 2, positions: BUCKET * BUCKETS }), rng(1)));
  await using t = await trainer(lora({ rank: 4, dropout: 0.1 })(base), {
    engine,
    loss: nextToken,
    optimizer: adamw(),
    clip: clipByNorm(1),
  });
  const r = rng(2);
  const readings: Reading[] = [];
  const every = Math.floor(steps / 10);
  const began = performance.now();
  for (let step = 1; step <= steps; step++) {
    const rows = ROWS[r.below(ROWS.length)]!;
    const width = BUCKET * (1 + r.below(BUCKETS));
    const text = () => ({ data: Int32Array.from({ length: rows * width }, () => r.below(64)), shape: [rows, width] });
    await t.step({ ids: text(), targets: text() });
    if (step % every === 0)
      readings.push({ step, resident: await resident(), engine: engineBytes(), javascript: inUse(), plans: engine.stats.plansCompiled });
  }
  const seconds = (performance.now() - began) / 1000;
  const warm = readings[1]!; // a fifth of the steps
  const last = readings.at(-1)!;
  const growth = { resident: last.resident / warm.resident - 1, engine: last.engine - warm.engine };
  const flat = growth.resident <= MOST_GROWTH && growth.engine <= 0;
  if (flags.json) console.log(JSON.stringify({ engine: engine.report, steps, seconds, readings, growth, flat }, null, 2));
  else {
    const { engine: name, mode: how } = engine.report;
    console.log(`engine ${name} (${how}), ${steps} steps of ${ROWS.length * BUCKETS} shapes in ${seconds.toFixed(1)} s\n`);
    console.log(
      columns(
        ['step', 'resident', 'of the engine', 'of JavaScript', 'plans compiled'],
        readings.map((x) => [`${x.step}`, mb(x.resident), mb(x.engine), mb(x.javascript), `${x.plans}`]),
      ),
    );
    console.log(
      `\nafter step ${warm.step}: resident ${(100 * growth.resident).toFixed(1)} % (at most ${100 * MOST_GROWTH} %), engine ${mb(growth.engine)} (none): ${flat ? 'flat' : 'GROWS'}`,
    );
  }
  return flat ? 0 : 1;
}

if (flags.help)
  console.log(
    'npx tsx bench/leaks.ts [--engine simd|gpujs|float64] [--mode webgpu|webasm|cpu] [--steps 2000] [--json]\n\nTrains on texts of changing lengths and watches resident memory and the engine’s own; exits with 1 when they grow.',
  );
else
  process.exitCode = await main().catch((e: unknown) => {
    console.error(`leaks: ${e instanceof Error ? e.message : String(e)}`);
    return 2;
  });
