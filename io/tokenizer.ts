// Texts as ids by a checkpoint's own tokenizer.json, and ids as text.
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { isJsonObject } from './adapterJson.ts';
import { boundedTokenizer } from './boundedTokenizer.ts';
import { fileOf } from './checkpoints/folder.ts';

export interface TextTokenizer {
  /** Ids of a text with the special tokens around it; a longer text loses words at its end, never the special tokens after them. */
  encode(text: string): Int32Array;
  /** Ids of a text as it is: no special tokens around it, nothing cut. */
  plain(text: string): Int32Array;
  /** The text of ids; special tokens are left out unless `special`. */
  decode(ids: readonly number[], special?: boolean): string;
  /** The most ids `encode` answers. */
  readonly longest: number;
  /** The token that ends an answer (eos_token), or null. */
  readonly end: number | null;
}

/**
 * The tokenizer in a model folder. Padding and truncation that tokenizer.json asks for are ignored (some ask for 128 ids for every
 * text): batches are padded where they are made, and a text is cut at `longest` ids.
 */
export async function readTokenizer(folder: string, longest: number): Promise<TextTokenizer> {
  const json = (name: string, text: string): { readonly [key: string]: unknown } => {
    try {
      const parsed: unknown = JSON.parse(text); // words of a vocabulary may be `constructor`: nothing here uses them as keys of ours
      if (isJsonObject(parsed)) return parsed;
    } catch {
      // said below
    }
    throw new Error(`${join(folder, name)}: is not a JSON object`);
  };
  const own = json('tokenizer.json', await fileOf(folder, 'tokenizer.json'));
  const settings = json('tokenizer_config.json', await readFile(join(folder, 'tokenizer_config.json'), 'utf8').catch(() => '{}')); // many folders have none
  const bounded = boundedTokenizer(own, settings, join(folder, 'tokenizer.json'));
  const eos = isJsonObject(settings.eos_token) ? settings.eos_token.content : settings.eos_token;
  return {
    longest,
    end: typeof eos === 'string' ? bounded.idOf(eos) : null,
    plain: (text) => Int32Array.from(bounded.ids(text, false)),
    decode: (ids, special = false) => bounded.text(ids, special),
    encode: (text) => {
      const ids = bounded.ids(text, true);
      if (ids.length <= longest) return Int32Array.from(ids);
      const tail = ids.length - endOf(ids, bounded.ids(text, false));
      return Int32Array.from(tail === 0 ? ids.slice(0, longest) : [...ids.slice(0, Math.max(0, longest - tail)), ...ids.slice(-tail)]);
    },
  };
}

/** Where `inner` ends within `all`. */
function endOf(all: readonly number[], inner: readonly number[]): number {
  for (let from = 0; from + inner.length <= all.length; from++)
    if (inner.every((id, k) => id === all[from + k])) return from + inner.length;
  return all.length;
}
