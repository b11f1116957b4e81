// One process of `npm run bench -- qlora`: pretrains the base and saves it, or tunes one variant of it and prints a line of JSON.
//   npx tsx bench/qloraChild.ts pretrain|VARIANT FILE full|quick
import { simd } from '../core/engines/simd.ts';
import { size } from '../core/shape.ts';
import { paramOf } from '../core/tensor.ts';
import { readState, saveState } from '../io/state.ts';
import { inOrder, randomWindows } from '../io/text.ts';
import { freeze, moveTo, withValues } from '../nn/freeze.ts';
import type { Model } from '../nn/layer.ts';
import { nextToken } from '../nn/losses.ts';
import { params, tensors, trainable } from '../nn/tree.ts';
import { adamw } from '../optim/adamw.ts';
import { clipByNorm } from '../optim/clip.ts';
import { cosine, warmup } from '../optim/schedule.ts';
import { trainer } from '../optim/trainer.ts';
import { inBlocks, residentBytes } from '../quant/quantize.ts';
import { median } from './measurement.ts';
import { newborn, plainOptimizer, type QloraRow, sizes, texts, type Variant, type VariantName, variants } from './qloraWork.ts';
import { resident } from './resident.ts';

const [what = '', file = '', how = ''] = process.argv.slice(2);
const sizeName = how === 'quick' ? 'quick' : 'full';
const s = sizes[sizeName];
const LR = 1e-3;
const text = texts();
await using engine = await simd();

async function pretrain(): Promise<void> {
  await using t = await trainer(newborn(s, text.letters.size), {
    engine,
    loss: nextToken,
    optimizer: adamw({ lr: 2e-3 }),
    schedule: warmup(20, cosine()),
    clip: clipByNorm(1),
    total: s.pretraining,
  });
  const batch = randomWindows(text.first, { rows: s.rows, tokens: s.tokens, seed: 1 });
  for (let k = 1; k <= s.pretraining; k++) {
    const { loss } = await t.step(batch(k));
    if (k % 50 === 0) console.error(`pretraining: step ${k} of ${s.pretraining}, loss ${loss.toFixed(3)}`);
  }
  await saveState({ ...(await t.state()), moments: {} }, file);
}

/** The frozen base, read from the file; nothing else of it is kept. */
async function read(): Promise<Model> {
  const { state } = await readState(file);
  const born = newborn(s, text.letters.size);
  return freeze(withValues(born, new Map([...params(born)].map(([p, path]) => [p, state.values[path]!.data]))));
}
/** Bytes of the frozen numbers below paths that `where` picks, each array once. */
function bytes(m: Model, where: (path: string) => boolean): number {
  const chosen = [...tensors(m)].filter(({ path, tensor }) => paramOf(tensor) === null && where(path)).map(({ tensor }) => tensor);
  return residentBytes(chosen);
}

async function tune(name: VariantName): Promise<QloraRow> {
  const variant: Variant = variants[name];
  const weights = (m: Model): number =>
    [...tensors(m)].reduce((n, { path, tensor: { shape } }) => n + (inBlocks(path) && shape.length === 2 ? size(shape) : 0), 0);
  const counted = { weights: 0 };
  const built = async (): Promise<Model> => {
    const base = await read();
    counted.weights = weights(base);
    // What is frozen goes to the engine before adapters see it: their places remember the model they were attached to.
    return moveTo(variant.adapt(variant.pack === null ? base : moveTo(variant.pack(base), engine), s.rank), engine);
  };
  const model = await built();
  const isBlock = (path: string): boolean => inBlocks(path) && !/\.norm\d?\./.test(path);
  await using t = await trainer(model, {
    engine,
    loss: nextToken,
    optimizer: (variant.optimizer ?? plainOptimizer)(LR),
    clip: clipByNorm(0.3),
  });
  const held = [...inOrder(text.held, { rows: s.rows, tokens: s.tokens, batches: 16 })];
  const before = await t.evaluate(held);
  const rest = await resident();
  const batch = randomWindows(text.second, { rows: s.rows, tokens: s.tokens, seed: 2 });
  const ms: number[] = [];
  let peak = rest;
  for (let k = 1; k <= s.tuning; k++) {
    const began = performance.now();
    await t.step(batch(k));
    if (k > 3) ms.push(performance.now() - began);
    peak = Math.max(peak, process.memoryUsage.rss());
  }
  const after = await t.evaluate(held);
  return {
    variant: name,
    base: bytes(model, () => true),
    blocks: bytes(model, isBlock),
    weights: counted.weights,
    trained: [...trainable(model).keys()].reduce((n, p) => n + size(p.shape), 0),
    states: t.shelf === null ? null : { stored: t.shelf.stored, resident: t.shelf.resident },
    peak,
    rest,
    ms: median(ms),
    before,
    after,
  };
}

if (what === 'pretrain') await pretrain();
else if (what in variants) console.log(JSON.stringify(await tune(what as VariantName)));
else throw new RangeError(`qloraChild: there is no variant '${what}'; choose pretrain or one of ${Object.keys(variants).join(', ')}`);
