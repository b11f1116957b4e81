// What is learnt of a record: completions and what the assistant says, nothing else; prose is cut without losing or repeating a token.
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { chatOf } from '../../io/chat.ts';
import type { Message, TextRecord } from '../../io/records.ts';
import { around, languageBatch, sequencesOf } from '../../io/sequences.ts';
import type { TextTokenizer } from '../../io/tokenizer.ts';

/** A token a character, its code the id; 1 begins a text, 2 ends it. */
const characters = (begin: boolean, end: boolean): TextTokenizer => {
  const plain = (text: string): Int32Array => Int32Array.from([...text].map((c) => c.codePointAt(0)!));
  return {
    plain,
    encode: (text) => Int32Array.from([...(begin ? [1] : []), ...plain(text), ...(end ? [2] : [])]),
    decode: (ids) => String.fromCodePoint(...ids),
    longest: 1000,
    end: end ? 2 : null,
  };
};
const text = fc.string({ unit: fc.constantFrom(...'abc de'), minLength: 1, maxLength: 20 });
const tokenizers = fc.tuple(fc.boolean(), fc.boolean()).map(([b, e]) => characters(b, e));
const runs = { numRuns: 80 };
/** Ids that are targets, in order. */
const learnt = (targets: Int32Array): number[] => [...targets].filter((t) => t !== -100);
/** Every target is the id that follows, where the next id is in the sequence. */
const follows = ({ ids, targets }: { ids: Int32Array; targets: Int32Array }): boolean =>
  ids.length === targets.length && [...targets].every((t, k) => t === -100 || k + 1 >= ids.length || t === ids[k + 1]);

describe('pairs', () => {
  test('exactly the completion and the end token are learnt', () =>
    fc.assert(
      fc.property(text, text, tokenizers, (prompt, completion, tokenizer) => {
        const { sequences, cut } = sequencesOf([{ kind: 'pair', prompt, completion }], tokenizer, null, 100);
        const [s] = sequences;
        const end = tokenizer.end === null ? [] : [tokenizer.end];
        const { before } = around(tokenizer);
        const whole = [...before, ...tokenizer.plain(prompt + completion), ...end];
        const answer = [...tokenizer.plain(completion), ...end];
        expect(cut).toBe(0);
        if (before.length + prompt.length === 0 || whole.length < 2) return;
        expect([...s!.ids]).toEqual(whole.slice(0, -1));
        expect(learnt(s!.targets)).toEqual(answer);
        expect(follows(s!)).toBe(true);
      }),
      runs,
    ));

  test('a longer one loses its end; one without room for its answer is left out; both count', () => {
    const t = characters(true, true);
    const records: TextRecord[] = [
      { kind: 'pair', prompt: 'abc', completion: 'defgh' }, // 1 abc|defgh2
      { kind: 'pair', prompt: 'abcdefgh', completion: 'x' },
      { kind: 'pair', prompt: 'a', completion: 'b' },
    ];
    const { sequences, cut } = sequencesOf(records, t, null, 6);
    expect(cut).toBe(2);
    expect(sequences.map((s) => t.decode(learnt(s.targets)))).toEqual(['def', 'b\u0002']);
    expect(sequences.every((s) => s.ids.length <= 6)).toBe(true);
  });
});

describe('prose', () => {
  test('windows hold every token once, in order, and predict the next', () =>
    fc.assert(
      fc.property(
        fc.array(text, { minLength: 1, maxLength: 5 }),
        tokenizers,
        fc.integer({ min: 2, max: 9 }),
        (texts, tokenizer, longest) => {
          const { sequences } = sequencesOf(
            texts.map((t) => ({ kind: 'text', text: t })),
            tokenizer,
            null,
            longest,
          );
          const { before } = around(tokenizer);
          const all = texts.flatMap((t) => [...before, ...tokenizer.plain(t), ...(tokenizer.end === null ? [] : [tokenizer.end])]);
          expect(sequences.flatMap((s) => [...s.ids])).toEqual(all.slice(0, -1));
          expect(sequences.flatMap((s) => [...s.targets])).toEqual(all.slice(1));
          expect(sequences.every((s) => s.ids.length >= 1 && s.ids.length <= longest)).toBe(true);
          expect(sequences.slice(0, -1).every((s) => s.ids.length === longest)).toBe(true);
        },
      ),
      runs,
    ));

  test('a text of one token has nothing to learn', () =>
    expect(sequencesOf([{ kind: 'text', text: 'a' }], characters(false, false), null, 8)).toEqual({ sequences: [], cut: 0 }));
});

const TEMPLATE =
  "{% for m in messages %}<{{ m.role }}>{{ m.content }}{{ eos_token if m.role == 'assistant' }}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}";
const chat = chatOf(TEMPLATE, { eos_token: '\u0002' }, 'template');
const turn = fc.record({ role: fc.constantFrom('system', 'user', 'assistant'), content: text });

describe('conversations', () => {
  test('exactly what the assistant says is learnt, in every turn', () =>
    fc.assert(
      fc.property(fc.array(turn, { minLength: 1, maxLength: 6 }), text, tokenizers, (before, last, tokenizer) => {
        const messages: Message[] = [...before, { role: 'assistant', content: last }];
        const [s] = sequencesOf([{ kind: 'chat', messages }], tokenizer, chat, 500).sequences;
        const spoken = messages.filter((m) => m.role === 'assistant').map((m) => `${m.content}\u0002`);
        expect(tokenizer.decode(learnt(s!.targets))).toBe(spoken.join(''));
        expect(tokenizer.decode([...s!.ids])).toBe(chat(messages).slice(0, -1));
        expect(follows(s!)).toBe(true);
      }),
      runs,
    ));

  test('what comes after the last answer is not read', () => {
    const t = characters(false, false);
    const messages = [
      { role: 'user', content: 'a' },
      { role: 'assistant', content: 'b' },
      { role: 'user', content: 'zzz' },
    ];
    expect(t.decode([...sequencesOf([{ kind: 'chat', messages }], t, chat, 500).sequences[0]!.ids])).not.toContain('z');
  });

  test('no template, and one that changes what was said', () => {
    const messages = [
      { role: 'user', content: 'a' },
      { role: 'assistant', content: 'b' },
      { role: 'user', content: 'c' },
      { role: 'assistant', content: 'd' },
    ];
    const records: TextRecord[] = [{ kind: 'chat', messages }];
    expect(() => sequencesOf(records, characters(true, true), null, 50)).toThrow(/no chat template.*"prompt"/);
    const counting = chatOf('{{ messages | length }}{% for m in messages %}{{ m.content }}{% endfor %}', {}, 'template');
    expect(() => sequencesOf(records, characters(true, true), counting, 50)).toThrow(/changes earlier turns/);
  });
});

test('a batch: shorter texts are filled up with nothing to learn, and never beyond the positions a model has', () =>
  fc.assert(
    fc.property(
      fc.array(fc.array(fc.integer({ min: 1, max: 99 }), { minLength: 1, maxLength: 12 }), { minLength: 1, maxLength: 4 }),
      fc.constantFrom(1, 4, 16),
      (texts, multiple) => {
        const group = texts.map((ids) => ({ ids: Int32Array.from(ids), targets: Int32Array.from(ids, (i) => i + 1) }));
        const { ids, targets } = languageBatch(group, multiple, 12);
        const [b, t] = ids.shape as [number, number];
        const longest = Math.max(...texts.map((x) => x.length));
        expect(b).toBe(texts.length);
        expect(t).toBe(Math.max(longest, Math.min(12, Math.ceil(longest / multiple) * multiple)));
        for (const [k, own] of texts.entries()) {
          const row = (d: ArrayLike<number>): number[] => Array.from({ length: t }, (_, i) => d[k * t + i]!);
          expect(row(ids.data)).toEqual([...own, ...Array(t - own.length).fill(0)]);
          expect(row(targets.data)).toEqual([...own.map((i) => i + 1), ...Array(t - own.length).fill(-100)]);
        }
      },
    ),
    runs,
  ));

test('longest must be a whole number from 2', () =>
  expect(() => sequencesOf([], characters(true, true), null, 1)).toThrow(/whole number from 2, got 1/));
