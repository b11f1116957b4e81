// Records as ids to learn from: which ids are read, and which are answers; and batches of them for a language model.
import type { Fed } from '../optim/trainer.ts';
import { widthOf } from './batches.ts';
import type { Chat } from './chat.ts';
import type { Message, TextRecord } from './records.ts';
import type { TextTokenizer } from './tokenizer.ts';

/** Ids, and for each the id after it where that is to be learnt, else −100. */
export interface Sequence {
  readonly ids: Int32Array;
  readonly targets: Int32Array;
}
export interface LanguageBatch {
  readonly ids: Fed; // [B, T], 0 where a text has ended; nothing is learnt there, and no token sees what comes after it
  readonly targets: Fed; // [B, T]
}
export interface Sequences {
  readonly sequences: readonly Sequence[];
  /** How many records were longer than `longest` and lost their end. */
  readonly cut: number;
}

/** A stretch of ids, learnt or only read. */
interface Piece {
  readonly ids: Int32Array;
  readonly learnt: boolean;
}
const SKIP = -100;

/**
 * Prose is joined, each record ended by the end token, and cut into windows of `longest` ids, all of them learnt. Of a prompt and its completion
 * the completion and the end token are learnt, of a conversation what the assistant says. A longer record loses its end; one whose prompt
 * alone is as long is left out, and counts as cut; what is left may be nothing. Throws for conversations without a template.
 */
export function sequencesOf(records: readonly TextRecord[], tokenizer: TextTokenizer, chat: Chat | null, longest: number): Sequences {
  if (!Number.isInteger(longest) || longest < 2) throw new RangeError(`sequences: longest must be a whole number from 2, got ${longest}`);
  const prose = records.flatMap((r) => (r.kind === 'text' ? [r.text] : []));
  const pieces = records.flatMap((r) =>
    r.kind === 'pair' ? [pair(r, tokenizer)] : r.kind === 'chat' ? [turns(r.messages, tokenizer, chat)] : [],
  );
  const whole = pieces.map(joined);
  const fitting = whole
    .map((s) => ({ ids: s.ids.slice(0, longest), targets: s.targets.slice(0, longest) }))
    .filter(({ targets }) => targets.some((t) => t !== SKIP));
  const sequences = [...fitting, ...windows(prose, tokenizer, longest)];
  return { sequences, cut: whole.filter((s) => s.ids.length > longest).length };
}

/** The special tokens before and after an encoded text. */
export function around(tokenizer: TextTokenizer): { readonly before: readonly number[]; readonly after: readonly number[] } {
  const [whole, inner] = [[...tokenizer.encode('a')], [...tokenizer.plain('a')]];
  const at = whole.findIndex((_, k) => inner.every((id, n) => whole[k + n] === id));
  return at === -1 ? { before: [], after: [] } : { before: whole.slice(0, at), after: whole.slice(at + inner.length) };
}
const beginning = (tokenizer: TextTokenizer): readonly number[] => around(tokenizer).before;
const ended = (tokenizer: TextTokenizer): number[] => (tokenizer.end === null ? [] : [tokenizer.end]);

function pair({ prompt, completion }: { readonly prompt: string; readonly completion: string }, tokenizer: TextTokenizer): Piece[] {
  return [
    { ids: Int32Array.from([...beginning(tokenizer), ...tokenizer.plain(prompt)]), learnt: false },
    { ids: Int32Array.from([...tokenizer.plain(completion), ...ended(tokenizer)]), learnt: true },
  ];
}

/** What the template makes of the first messages is the beginning of what it makes of more: each assistant's turn is the part that it adds. */
function turns(messages: readonly Message[], tokenizer: TextTokenizer, chat: Chat | null): Piece[] {
  if (chat === null)
    throw new Error(
      'sequences: this model has no chat template, so conversations cannot be written for it; give {"prompt": …, "completion": …} instead',
    );
  const pieces: Piece[] = [];
  let done = '';
  const upTo = (text: string, learnt: boolean): void => {
    if (!text.startsWith(done))
      throw new Error(
        'sequences: the chat template changes earlier turns as later ones come, so it is not known which text is the assistant’s',
      );
    if (text.length > done.length) pieces.push({ ids: tokenizer.plain(text.slice(done.length)), learnt });
    done = text;
  };
  for (const [k, m] of messages.entries()) {
    if (m.role !== 'assistant') continue;
    upTo(chat(messages.slice(0, k), true), false);
    upTo(chat(messages.slice(0, k + 1)), true);
  }
  return pieces;
}

function joined(pieces: readonly Piece[]): Sequence {
  const ids = Int32Array.from(pieces.flatMap((p) => [...p.ids]));
  const learnt = pieces.flatMap((p) => Array.from(p.ids, () => p.learnt));
  return { ids: ids.slice(0, -1), targets: ids.slice(1).map((id, k) => (learnt[k + 1] ? id : SKIP)) };
}

function windows(texts: readonly string[], tokenizer: TextTokenizer, longest: number): Sequence[] {
  const all = texts.flatMap((text) => [...beginning(tokenizer), ...tokenizer.plain(text), ...ended(tokenizer)]);
  const found: Sequence[] = [];
  for (let from = 0; from + 1 < all.length; from += longest) {
    const ids = Int32Array.from(all.slice(from, Math.min(from + longest, all.length - 1)));
    found.push({ ids, targets: Int32Array.from(all.slice(from + 1, from + 1 + ids.length)) });
  }
  return found;
}

/** Sequences as one batch, as wide as the longest of them, rounded up to a multiple but not beyond `most`. */
export function languageBatch(group: readonly Sequence[], multiple: number, most = Number.POSITIVE_INFINITY): LanguageBatch {
  const width = widthOf(group, multiple, most);
  const ids = new Int32Array(group.length * width);
  const targets = new Int32Array(group.length * width).fill(SKIP);
  for (const [k, s] of group.entries()) {
    ids.set(s.ids, k * width);
    targets.set(s.targets, k * width);
  }
  const shape = [group.length, width];
  return { ids: { data: ids, shape }, targets: { data: targets, shape } };
}
