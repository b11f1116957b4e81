// Pretrained encoders on disk: BERT, MiniLM and RoBERTa as frozen models that answer hidden states, whatever head they came with.
import type { EncoderConfig } from '../nn/encoder.ts';
import type { Model } from '../nn/layer.ts';
import { type EncoderCheckpoint, isDecoder } from './checkpoints/config.ts';
import { readCheckpointConfig, readNetwork } from './checkpoints/folder.ts';

async function encoderConfig(folder: string): Promise<EncoderCheckpoint> {
  const { config } = await readCheckpointConfig(folder);
  if (isDecoder(config))
    throw new Error(`${folder}: is a ${config.architecture}, a decoder; this needs an encoder (bert, roberta, xlm-roberta)`);
  return { ...config, head: 'none' };
}

/** The sizes a model folder says its encoder has. */
export const readBertConfig = async (folder: string): Promise<EncoderConfig> => (await encoderConfig(folder)).sizes;

/**
 * The pretrained encoder in a folder, frozen: ids [B, T] → hidden states [B, T, D]. Halves are widened to float32. The pooler and
 * any task's head are left aside. Throws when the weights and config.json disagree: every missing, unknown or misshapen tensor by name.
 */
export const readBert = async (folder: string): Promise<Model> => readNetwork(folder, await encoderConfig(folder));
