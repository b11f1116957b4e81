// Tokenizers with an end: what a stranger's tokenizer.json makes of a text is bounded in time and in memory by the length of that text.
import { Tokenizer } from '@huggingface/tokenizers';
import { isJsonObject } from './adapterJson.ts';
import { some } from './files.ts';
import { TimeOver, timeLimit } from './timeLimit.ts';

type JsonObject = { readonly [key: string]: unknown };

/** What a text may take: this, and 0.1 ms for each of its characters. No tokenizer known here needs a hundredth of it (about 1 µs a character). */
const PATIENCE_MS = 2000;
const MS_EACH = 0.1;
/** Reading a tokenizer.json may take as long as 15 short texts; 10 MB are read in about a second. */
const OPENING = 15;
/** Characters that all steps together may make of a text, for each of its own; the steps of common tokenizers make one to four each. */
const GROWTH = 256;
/** Texts count as this much longer: what is put around a short one is no growth. */
const SHORT = 1000;
/** What one character becomes at most in a step that inserts nothing of the file's own: 18 by NFKD, 12 by BERT's normalizer, 3 as bytes. */
const WIDEST = 20;

// The seam: a step of the library, as far as it is used here. A chain has its own steps in a field of another name in each part.
type Step = { [field: string]: unknown; readonly config?: JsonObject; readonly str_rep?: unknown };
const METHODS = {
  normalizer: 'normalize',
  pre_tokenizer: 'pre_tokenize',
  model: 'encode',
  post_processor: 'post_process',
  decoder: 'decode_chain',
} as const;
const CHAINS = ['normalizers', 'tokenizers', 'processors', 'decoders'];
/** Fields of a configuration whose text, or list, may be put beside every character of a text. */
const INSERTED = ['content', 'prepend', 'end_of_word_suffix', 'continuing_subword_prefix', 'continuing_subword_suffix', 'single'];

const charactersOf = (x: unknown): number => {
  if (typeof x === 'string') return x.length;
  if (Array.isArray(x)) return x.reduce<number>((n, t) => n + charactersOf(t) + 1, 0);
  return isJsonObject(x) ? charactersOf(x.tokens) : 0;
};
/** How many times longer a step can make a text. */
const widening = ({ config = {}, str_rep: space }: Step): number =>
  INSERTED.reduce((n, field) => n + charactersOf(config[field]), WIDEST + charactersOf(space));

export interface BoundedTokenizer {
  ids(text: string, special: boolean): readonly number[];
  text(ids: readonly number[], special: boolean): string;
  idOf(token: string): number | null;
}

/**
 * The library's tokenizer, under limits. `file` is what errors call it, `patience` what a short text may take, in ms. Throws where it is none; its functions throw
 * where a text breaks a limit.
 */
export function boundedTokenizer(json: JsonObject, settings: JsonObject, file: string, patience = PATIENCE_MS): BoundedTokenizer {
  const limited = timeLimit();
  let left = 0; // characters that steps may still make of the text at work
  const guard = (step: Step | null, method: string): void => {
    if (step === null) return;
    const { type, length } = step.config ?? {};
    if (type === 'FixedLength' && !(Number.isInteger(length) && Number(length) > 0))
      throw new Error(`FixedLength cuts pieces of ${JSON.stringify(length) ?? 'no'} characters; it must be a whole number from 1`);
    if (step.pattern === null)
      throw new Error(`${type} has the pattern ${JSON.stringify(step.config?.pattern)}; it must be a Regex or a String`); // the library would leave the step out
    const run = (step[method] as (...a: readonly unknown[]) => unknown).bind(step);
    const most = widening(step);
    step[method] = (x: unknown, ...rest: readonly unknown[]): unknown => {
      if (charactersOf(x) * most > left) throw new Error(`${type ?? method} and the steps before it make a text ${GROWTH} times longer`);
      const made = run(x, ...rest);
      left -= charactersOf(made);
      return made;
    };
    for (const chain of CHAINS) for (const s of (step[chain] as readonly (Step | null)[] | undefined) ?? []) guard(s, method);
  };
  const guarded = (own: JsonObject): Tokenizer => {
    const made = new Tokenizer({ ...own, padding: null, truncation: null }, settings);
    for (const [part, method] of Object.entries(METHODS)) guard(made[part as keyof typeof METHODS] as unknown as Step | null, method);
    return made;
  };
  const trying = <T>(characters: number, what: () => T, ms = patience + MS_EACH * characters): T => {
    left = GROWTH * (characters + SHORT);
    try {
      return limited(what, ms);
    } catch (cause) {
      if (cause instanceof TimeOver) throw tooSlow(json, cause, characters, file);
      throw new Error(`${file}: is no tokenizer that can be used (${(cause as Error).message}); fetch the file again`, { cause });
    }
  };
  const tokenizer = trying(
    0,
    () => {
      // the library normalises added tokens before a step of it can be guarded: they go through steps alone first
      const steps = guarded({ ...json, added_tokens: [], model: { type: 'WordPiece', vocab: {}, unk_token: '' } });
      for (const token of Array.isArray(json.added_tokens) ? (json.added_tokens as readonly unknown[]) : []) {
        const { content, special, normalized } = isJsonObject(token) ? token : {};
        left = GROWTH * (charactersOf(content) + SHORT);
        if (typeof content === 'string' && (normalized ?? special !== true)) steps.normalizer?.(content);
      }
      return guarded(json);
    },
    OPENING * patience,
  );
  const lengthOf = (ids: readonly number[]): number => ids.reduce((n, id) => n + (tokenizer.id_to_token(id)?.length ?? 0) + 1, 0);
  return {
    ids: (text, special) => trying(text.length, () => tokenizer.encode(text, { add_special_tokens: special }).ids),
    text: (ids, special) => {
      const characters = lengthOf(ids);
      const options = { skip_special_tokens: !special, clean_up_tokenization_spaces: false };
      return ids.length === 0 ? '' : trying(characters, () => tokenizer.decode([...ids], options));
    },
    idOf: (token) => tokenizer.token_to_id(token) ?? null,
  };
}

function tooSlow(json: JsonObject, cause: TimeOver, characters: number, file: string): Error {
  const patterns = patternsOf([json.normalizer, json.pre_tokenizer, json.decoder]).map((p) =>
    JSON.stringify(p.length > 80 ? `${p.slice(0, 80)}…` : p),
  );
  const why =
    patterns.length === 0
      ? 'fetch the file again'
      : `its regular expressions are ${some(patterns)}: repetition inside repetition, as in (a+)+, tries exponentially many ways. Write such a pattern without it, or fetch the file from where you trust it`;
  return new Error(`${file}: the tokenizer ${cause.message} on ${characters} characters; ${why}`, { cause });
}
/** Every `{"Regex": …}` in a part of a tokenizer. */
const patternsOf = (x: unknown): readonly string[] =>
  typeof x !== 'object' || x === null
    ? []
    : Object.entries(x).flatMap(([key, v]) => (key === 'Regex' && typeof v === 'string' ? [v] : patternsOf(v)));
