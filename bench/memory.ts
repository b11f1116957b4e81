// Does training leak? A thousand steps of a tiny model; resident memory after step 100 and after step 1,000.
//   npx tsx bench/memory.ts [--engine gpujs|float64|simd] [--mode webgpu|webasm|cpu] [--steps 1000]; the fastest engine there is by default
// Exits with 1 when memory grew by more than 5 %. Lengths alternate, so that several plans share the store. The collector may
// once reserve a larger young generation (float64: about 20 MB near step 1,500); what is in use, printed too, then stays flat.

import { parseArgs } from 'node:util';
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
  options: { engine: { type: 'string' }, mode: { type: 'string' }, steps: { type: 'string', default: '1000' } },
});
const MOST_GROWTH = 0.05;
const EARLY = 100;

const steps = Number(flags.steps);
const engineAsked = engines.find((e) => e === flags.engine);
const modeAsked = modes.find((m) => m === flags.mode);
if (flags.engine !== engineAsked) throw new RangeError(`--engine ${flags.engine}: use one of ${engines.join(', ')}`);
if (flags.mode !== modeAsked) throw new RangeError(`--mode ${flags.mode}: use one of ${modes.join(', ')}`);
await using engine = await openEngine({ engine: engineAsked, mode: modeAsked });
const base = freeze(decoder(gpt2({ vocabulary: 32, width: 16, layers: 1, heads: 2, positions: 8 }), rng(1)));
const model = lora({ rank: 2, dropout: 0.1 })(base);
await using t = await trainer(model, { engine, loss: nextToken, optimizer: adamw(), clip: clipByNorm(1) });
const r = rng(2);
const started = performance.now();
let [early, used] = [0, 0];
for (let step = 1; step <= steps; step++) {
  const tokens = step % 2 === 0 ? 4 : 8;
  const text = () => ({ data: Int32Array.from({ length: 2 * tokens }, () => r.below(32)), shape: [2, tokens] });
  const batch = { ids: text(), targets: text() };
  await t.step(step % 10 === 0 ? [batch, batch] : batch);
  if (step % 50 === 0) {
    await t.evaluate([batch]);
    await t.state();
  }
  if (step === EARLY) {
    early = await resident();
    used = inUse();
  }
}
const seconds = (performance.now() - started) / 1000;
const late = await resident();
const growth = late / early - 1;
const { engine: name, mode } = engine.report;
console.log(`engine ${name} (${mode}), ${steps} steps in ${seconds.toFixed(1)} s`);
console.log(
  `resident after step ${EARLY}: ${mb(early)}; after step ${steps}: ${mb(late)}; growth ${(100 * growth).toFixed(1)} %, at most ${100 * MOST_GROWTH} % is allowed`,
);
console.log(`in use after step ${EARLY}: ${mb(used)}; after step ${steps}: ${mb(inUse())}`);
if (growth > MOST_GROWTH) process.exitCode = 1;
