// One process of `npm run bench -- packed`: trains LoRA for a few steps on a base packed one way, and prints what it held, as JSON.
//   npx tsx bench/packedChild.ts SCHEME WIDTH LAYERS THREADS
import { readFileSync, writeFileSync } from 'node:fs';
import { type Account, account } from '../core/account.ts';
import { blank } from '../core/blank.ts';
import { simd } from '../core/engines/simd.ts';
import { type Rng, rng } from '../core/rng.ts';
import { size } from '../core/shape.ts';
import { asSimd } from '../core/simd/assemble.ts';
import type { Tensor } from '../core/tensor.ts';
import { stochastic } from '../nn/context.ts';
import { decoder, llama } from '../nn/decoder.ts';
import { freeze, moveTo } from '../nn/freeze.ts';
import { type AnyLayer, type Batch, type Model, ofKind } from '../nn/layer.ts';
import { nextToken } from '../nn/losses.ts';
import { trainable } from '../nn/tree.ts';
import { adamw } from '../optim/adamw.ts';
import { inspect, stepProgram } from '../optim/program.ts';
import { inputs, trainer } from '../optim/trainer.ts';
import { lora } from '../peft/reparameterized/lora.ts';
import { quantize, residentBytes, type Scheme } from '../quant/quantize.ts';
import type { Held } from './packed.ts';
import { schemes } from './packedSchemes.ts';
import { collect, resident, settle } from './resident.ts';

type Read = Batch & { readonly targets: Tensor };
const VOCABULARY = 2048;
const TOKENS = 64;
const STEPS = 4;

const [name = '', width = 0, layers = 0, threads = 1] = process.argv.slice(2).map((v, k) => (k === 0 ? v : Number(v))) as [
  string,
  number,
  number,
  number,
];
const scheme = schemes[name];
if (scheme === undefined) throw new RangeError(`packedChild: no scheme '${name}'; choose one of ${Object.keys(schemes).join(', ')}`);
const how = scheme; // as narrowed
const engine = await simd({ threads });
const base = await build();
const model = lora({ rank: 8, where: ['q', 'k', 'v', 'o'] })(base);
const batch = {
  ids: { data: Int32Array.from({ length: TOKENS }, (_, k) => (k * 37) % VOCABULARY), shape: [1, TOKENS] },
  targets: { data: Int32Array.from({ length: TOKENS }, (_, k) => ((k + 1) * 37) % VOCABULARY), shape: [1, TOKENS] },
};
const optimizer = adamw();
await using t = await trainer<Model, Read>(model, { engine, loss: nextToken, optimizer });
const loaded = await resident();
const counting = forgetPeak();
const losses: number[] = [];
for (let k = 0; k < STEPS; k++) losses.push((await t.step(batch)).loss);
const peak = counting ? peakResident() : null;
const rest = await resident();
const { a, scripts } = await predicted(); // last: what it holds on the way is no part of what was measured
const held: Held = {
  scheme: name,
  packed: residentBytes(base),
  account: a.leaves.device,
  activations: a.peak + a.results + a.inputs,
  trained: 2 * (a.trained + a.optimizer),
  loaded,
  resident: rest,
  peak,
  scripts,
  losses,
};
console.log(JSON.stringify(held));

/** Matrices are drawn when they are packed, and their floats go before the next is drawn: they are never held together. */
function drawn(scheme: Scheme, draws: Rng): Scheme {
  let n = 0;
  const pack: Scheme['pack'] = (_, shape) => {
    collect();
    return scheme.pack(draws.split(n++).normal(size(shape), 1 / Math.sqrt(shape[1]!)), shape);
  };
  return { ...scheme, pack };
}
/** A decoder whose blocks are made, packed and moved into the engine one by one. */
async function build(): Promise<Model> {
  const sizes = { width, layers: 1, heads: width / 64, inner: (11 * width) / 4, positions: TOKENS };
  const packed = (k: number, vocabulary: number): Model => {
    const [shape, draws] = [llama({ ...sizes, vocabulary }), rng(k + 1)];
    return how === null ? freeze(decoder(shape, draws)) : quantize(freeze(decoder(shape, blank())), () => true, drawn(how, draws));
  };
  const blockOf = (m: Model): AnyLayer => (ofKind(m.fields.trunk, 'trunk').fields.blocks as readonly AnyLayer[])[0]!;
  const first = moveTo(packed(0, VOCABULARY), engine);
  const blocks = [blockOf(first)];
  await settle();
  for (let k = 1; k < layers; k++) {
    blocks.push(moveTo(blockOf(packed(k, 1)), engine));
    await settle();
  }
  const trunk = ofKind(first.fields.trunk, 'trunk');
  return ofKind(first.with({ ...first.fields, trunk: trunk.with({ ...trunk.fields, blocks }) }), 'model');
}
/** What account says of a step, and what of it runs as JavaScript because it has no kernel. Keeps nothing. */
async function predicted(): Promise<{ readonly a: Account; readonly scripts: string | null }> {
  const about = inspect(model, optimizer);
  const { program } = stepProgram(nextToken, model, inputs<Read>(batch), stochastic(), about, optimizer, null);
  const store = engine.store();
  const plan = await engine.compile(store, { outputs: program.outputs });
  store.close();
  return { a: account(program, { params: trainable(model).keys(), ...asSimd }), scripts: plan.report.fallback };
}
/** Linux counts a new peak from now on; elsewhere there is none. */
function forgetPeak(): boolean {
  try {
    writeFileSync('/proc/self/clear_refs', '5');
    return true;
  } catch {
    return false;
  }
}
function peakResident(): number | null {
  const [, kib] = /VmHWM:\s+(\d+) kB/.exec(readFileSync('/proc/self/status', 'utf8')) ?? [];
  return kib === undefined ? null : 1024 * Number(kib);
}
