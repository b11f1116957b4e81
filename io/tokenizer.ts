// Texts as ids by a checkpoint's own tokenizer.json.
import { join } from 'node:path';
import { Tokenizer } from '@huggingface/tokenizers';
import { isJsonObject } from './adapterJson.ts';
import { fileOf } from './bert.ts';

export interface TextTokenizer {
  /** Ids of a text with the special tokens around it; a longer text loses words at its end, never its last special token. */
  encode(text: string): Int32Array;
  /** The most ids `encode` answers. */
  readonly longest: number;
}

/**
 * The tokenizer in a model folder. Padding and truncation that tokenizer.json asks for are ignored (some ask for 128 ids for every
 * text): batches are padded where they are made, and a text is cut at `longest` ids.
 */
export async function readTokenizer(folder: string, longest: number): Promise<TextTokenizer> {
  const json = (name: string, text: string): object => {
    try {
      const parsed: unknown = JSON.parse(text); // words of a vocabulary may be `constructor`: nothing here uses them as keys of ours
      if (isJsonObject(parsed)) return parsed;
    } catch {
      // said below
    }
    throw new Error(`${join(folder, name)}: is not a JSON object`);
  };
  const settings = await fileOf(folder, 'tokenizer_config.json').catch(() => '{}'); // many folders have none
  const own = json('tokenizer.json', await fileOf(folder, 'tokenizer.json'));
  const tokenizer = new Tokenizer({ ...own, padding: null, truncation: null }, json('tokenizer_config.json', settings));
  return {
    longest,
    encode: (text) => {
      const { ids } = tokenizer.encode(text);
      return Int32Array.from(ids.length <= longest ? ids : [...ids.slice(0, longest - 1), ids.at(-1)!]);
    },
  };
}
