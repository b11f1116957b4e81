// Opens a pretrained network by the path of its folder: the model, what its config.json says, and its tokenizer.
import { access } from 'node:fs/promises';
import { join } from 'node:path';
import type { Model } from '../../nn/layer.ts';
import { readTokenizer, type TextTokenizer } from '../tokenizer.ts';
import { type ConfigFile, readCheckpointConfig, readNetwork } from './folder.ts';
import type { Kept } from './weights.ts';

export interface Checkpoint extends ConfigFile {
  /** Frozen. Decoders answer logits [B, T, V], encoders hidden states [B, T, D]; with a classifier's head, [B, C] or [B, T, C]. */
  readonly model: Model;
  /** Null where the folder has no tokenizer.json. */
  readonly tokenizer: TextTokenizer | null;
  /** Where its files are on this machine. */
  readonly folder: string;
}
export interface OpenOptions {
  /** Leave a classifier's head aside and answer hidden states (encoders only). Default false. */
  readonly withoutHead?: boolean;
  /** Matrices stored as float16 or bfloat16: widened to float32 at once, or kept in two bytes a number. Default float32. */
  readonly dtype?: Kept;
}

export async function openCheckpoint(folder: string, { withoutHead = false, dtype = 'float32' }: OpenOptions = {}): Promise<Checkpoint> {
  const { config, json } = await readCheckpointConfig(folder, withoutHead);
  const has = await access(join(folder, 'tokenizer.json')).then(
    () => true,
    () => false,
  );
  const tokenizer = has ? await readTokenizer(folder, config.sizes.positions) : null;
  return { model: await readNetwork(folder, config, dtype), config, json, tokenizer, folder };
}
