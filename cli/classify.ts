// `npm run classify`: labels sentences with a classifier that `npm start` tuned and saved.
import { parseArgs } from 'node:util';
import { columns } from '../core/columns.ts';
import { type EngineChoice, openEngine } from '../core/open.ts';
import { softmax } from '../core/ops/fused.ts';
import { rng } from '../core/rng.ts';
import { leaf } from '../core/tensor.ts';
import { loadAdapter } from '../io/adapters.ts';
import { batchOf } from '../io/batches.ts';
import { context } from '../nn/context.ts';
import { freeze } from '../nn/freeze.ts';
import { classifier } from '../nn/heads.ts';
import { METHODS, openEncoder, readTask } from './task.ts';

const HELP = `npm run classify -- "a sentence" ["another" …] [options]

Loads an adapter that npm start wrote, onto the encoder it was made for, and says what it makes of each sentence.

  --adapter DIR   folder of the adapter (default out/start/adapter)
  --model DIR     folder of the encoder, where it is not the one the adapter names
  --engine NAME   gpujs, simd or float64 (default: the fastest here)
  --mode NAME     webgpu, webasm or cpu, inside gpujs
  --json          one object per line: text, label, probabilities
  --help          this text`;

async function main(): Promise<void> {
  const { values: flags, positionals: texts } = parseArgs({
    allowPositionals: true,
    options: {
      adapter: { type: 'string', default: 'out/start/adapter' },
      model: { type: 'string' },
      engine: { type: 'string' },
      mode: { type: 'string' },
      json: { type: 'boolean', default: false },
      help: { type: 'boolean', short: 'h', default: false },
    },
  });
  if (flags.help) return console.log(HELP);
  if (texts.length === 0) throw new RangeError('classify: no sentence given; write npm run classify -- "I love this phone"');
  const task = await readTask(flags.adapter);
  const encoder = await openEncoder(flags.model ?? task.model);
  const bare = freeze(classifier(encoder.model, { classes: task.labels.length, pool: 'mean', pooler: false }, rng(0)));
  const model = await loadAdapter(bare, flags.adapter, METHODS);
  await using engine = await openEngine({ engine: flags.engine, mode: flags.mode } as EngineChoice);
  const rows: { text: string; label: string; probabilities: Record<string, number> }[] = [];
  for (const text of texts) {
    const { ids, keyMask } = batchOf([{ ids: encoder.tokenizer.encode(text), label: 0 }], 8);
    const batch = { ids: leaf(ids.data, ids.shape), keyMask: leaf(keyMask.data, keyMask.shape) };
    const p = await engine.read(softmax(model(batch, context(ids.shape[1]!)))); // [1, C]
    const best = p.indexOf(Math.max(...p));
    rows.push({ text, label: task.labels[best]!, probabilities: Object.fromEntries(task.labels.map((l, k) => [l, p[k]!])) });
  }
  if (flags.json) for (const r of rows) console.log(JSON.stringify(r));
  else
    console.log(
      columns(
        ['label', 'probability', 'sentence'],
        rows.map((r) => [r.label, r.probabilities[r.label]!.toFixed(3), r.text]),
      ),
    );
}

await main();
