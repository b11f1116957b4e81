// A network in a folder of Hugging Face's layout: config.json and safetensors become a frozen model.
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Model } from '../../nn/layer.ts';
import { mustBeFile } from '../files.ts';
import { parseConfig } from './architectures.ts';
import { type CheckpointConfig, isDecoder, type JsonObject } from './config.ts';
import { skeleton } from './skeleton.ts';
import { filled, type Kept, openWeights } from './weights.ts';

/** The text of a file of a model folder; says what a model folder holds where there is none. */
export async function fileOf(folder: string, name: string): Promise<string> {
  const path = join(folder, name);
  await mustBeFile(path);
  try {
    return await readFile(path, 'utf8');
  } catch (e) {
    if ((e as NodeJS.ErrnoException).code !== 'ENOENT') throw e;
    throw new Error(`${path}: no such file; a model folder holds config.json, tokenizer.json and .safetensors files`);
  }
}

export interface ConfigFile {
  readonly config: CheckpointConfig;
  /** config.json as it was. */
  readonly json: JsonObject;
}
/** What a folder's config.json says; `withoutHead` takes a classifier's head off an encoder. */
export async function readCheckpointConfig(folder: string, withoutHead = false): Promise<ConfigFile> {
  const file = join(folder, 'config.json');
  const { config, json } = parseConfig(await fileOf(folder, 'config.json'), file);
  if (!withoutHead) return { config, json };
  if (isDecoder(config)) throw new Error(`${file}: withoutHead is for encoders; backboneOf(model) is what a decoder has under its head`);
  return { json, config: { ...config, head: 'none' } };
}

/** The network that `config` describes, with the numbers of the folder's safetensors files. Frozen. */
export async function readNetwork(folder: string, config: CheckpointConfig, dtype: Kept = 'float32'): Promise<Model> {
  await using weights = await openWeights(folder);
  const { layers } = config.sizes;
  const refuse = (what: string): never => {
    throw new Error(`${join(folder, 'config.json')}: ${what}`);
  };
  // a network of as many layers as a file only claims would be built before anything is compared with the tensors
  if (layers > weights.entries.size) refuse(`describes ${layers} layers, but ${weights.at} holds only ${weights.entries.size} tensors`);
  const network = (): Model => {
    try {
      return skeleton(config);
    } catch (e) {
      if (e instanceof RangeError) return refuse(e.message);
      throw e;
    }
  };
  return await filled(network(), config, weights, dtype); // awaited: the files close when this function ends
}
