// Files from strangers, changed at random: our adapters, training states, safetensors, configurations of a training, chat templates, texts.
// Each is read or refused with a reason: no crash, no hang, no polluted prototype, no memory for what is only claimed, nothing written elsewhere.
import { mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { checked } from '../../cli/commands/config.ts';
import { UsageError } from '../../cli/usage.ts';
import { rng } from '../../core/rng.ts';
import { ADAPTER_FILE, loadAdapter, saveAdapter } from '../../io/adapters.ts';
import { chatOf } from '../../io/chat.ts';
import { openSafetensors, readSafetensors, writeSafetensors } from '../../io/files.ts';
import { parseRecords } from '../../io/records.ts';
import { encode, SafetensorsError, type Writable } from '../../io/safetensors.ts';
import { readState, saveState } from '../../io/state.ts';
import { decoder, llama } from '../../nn/decoder.ts';
import { freeze } from '../../nn/freeze.ts';
import { methods } from '../../peft/all.ts';
import { damaged, said } from './damaged.ts';

const RUNS = 10_000;
let root = '';
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), 'tinypeft-hostile-'));
});
afterAll(async () => {
  expect(Object.keys(Object.prototype)).toEqual([]);
  await rm(root, { recursive: true });
});

/** Bytes or characters changed, put in or left out, mostly among the first `head`. */
const mutations = (head: number): fc.Arbitrary<readonly (readonly [at: number, value: number, how: number])[]> =>
  fc.array(fc.tuple(fc.nat(head - 1), fc.nat(255), fc.nat(2)), { minLength: 1, maxLength: 5 });
const mutated = <T>(list: readonly T[], changes: readonly (readonly [number, number, number])[], made: (n: number) => T): T[] => {
  const all = [...list];
  for (const [at, value, how] of changes) all.splice(Math.min(at, all.length), how === 2 ? 0 : 1, ...(how === 1 ? [] : [made(value)]));
  return all;
};

const base = freeze(decoder(llama({ vocabulary: 20, width: 8, layers: 2, heads: 2, positions: 16 }), rng(0)));
const NAMES = ['lora', 'houlsby', 'promptTuning', 'prefixTuning', 'ia3', 'vera', 'lokr', 'boft', 'adalora', 'mov', 'loreft', 'fourierft'];

test(`${RUNS} damaged descriptions of our adapters: attached, or refused`, async () => {
  const outcomes = { read: 0, refused: 0 };
  const files = await Promise.all(
    NAMES.map(async (name) => {
      const folder = join(root, name);
      await saveAdapter(methods.find((m) => m.name === name)!.tiny()(base), folder);
      return { name, ...(await readSafetensors(join(folder, ADAPTER_FILE))) };
    }),
  );
  const all = methods.flatMap((m) => m.configurable ?? []);
  const at = await mkdtemp(join(root, 'adapter-'));
  const before = process.memoryUsage().arrayBuffers;
  await fc.assert(
    fc.asyncProperty(
      fc.constantFrom(...files).chain((f) => fc.tuple(fc.constant(f), damaged(f.metadata.get('tinypeft')!))),
      async ([{ tensors }, text]) => {
        await writeSafetensors(join(at, ADAPTER_FILE), tensors, new Map([['tinypeft', text]]));
        try {
          await loadAdapter(base, at, all);
          outcomes.read++;
        } catch (e) {
          expect((e as Error).message).toMatch(/^loadAdapter: .|adapter\.safetensors(, byte \d+)?: ./);
          expect((e as Error).message.length).toBeLessThan(5000);
          expect((e as Error).name, (e as Error).stack).toBe('Error');
          outcomes.refused++;
        }
      },
    ),
    { numRuns: RUNS },
  );
  expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(500e6);
  expect(await readdir(at)).toEqual([ADAPTER_FILE]);
  console.log(`adapters: ${outcomes.read} read, ${outcomes.refused} refused`);
  expect(outcomes.read).toBeGreaterThan(RUNS / 100);
});

test(`${RUNS} damaged training states: read, or refused`, async () => {
  const path = join(root, 'state.safetensors');
  const n = (v: number): Writable & { data: Float32Array } => ({ data: new Float32Array(4).fill(v), shape: [2, 2] });
  const values = { 'trunk.a': n(1), 'trunk.b': n(2) };
  const moments = { 'trunk.a': { m: n(3), v: n(4) }, 'trunk.b': { m: n(5) } };
  await saveState({ format: 1, step: 3, seed: 0, optimizer: 'adamw', values, moments }, path, { losses: [[1, 2.5]] });
  const { metadata, tensors } = await readSafetensors(path);
  const [[key, text]] = [...metadata] as [[string, string]];
  const outcomes = { read: 0, refused: 0 };
  await fc.assert(
    fc.asyncProperty(
      damaged(text),
      fc.constantFrom(...tensors.keys()),
      fc.constantFrom('', 'moment/x', 'value/', 'moment//'),
      async (t, name, other) => {
        const renamed = new Map([...tensors].map(([k, v]) => [k === name && other !== '' ? other : k, v]));
        await writeSafetensors(path, renamed, new Map([[key, t]]));
        try {
          await readState(path);
          outcomes.read++;
        } catch (e) {
          said(e, 'state.safetensors');
          expect((e as Error).name, (e as Error).stack).toBe('Error');
          outcomes.refused++;
        }
      },
    ),
    { numRuns: RUNS },
  );
  console.log(`states: ${outcomes.read} read, ${outcomes.refused} refused`);
  expect(outcomes.read).toBeGreaterThan(RUNS / 100);
});

test(`${RUNS} changed safetensors files: read, or refused with the byte and the reason`, async () => {
  const tensors = new Map<string, Writable>([
    ['a', { data: new Float32Array([1, 2, 3, 4]), shape: [2, 2] }],
    ['b.weight', { data: new Int32Array([5, 6]), shape: [2], dtype: 'I32' }],
    ['c', { data: new Float32Array([7, 8]), shape: [1, 2], dtype: 'BF16' }],
  ]);
  const whole = [...encode(tensors, new Map([['format', 'pt']]))].flatMap((piece) => [...piece]);
  const path = join(root, 'x.safetensors');
  await fc.assert(
    fc.asyncProperty(mutations(whole.length), fc.option(fc.nat(whole.length)), async (changes, cut) => {
      const bytes = Uint8Array.from(mutated(whole, changes, (v) => v)).slice(0, cut ?? undefined);
      await writeFile(path, bytes);
      try {
        await using file = await openSafetensors(path);
        for (const e of file.entries.values()) expect((await file.read(e.name)).byteLength).toBeLessThanOrEqual(2 * bytes.length);
      } catch (e) {
        if (!(e instanceof SafetensorsError)) throw e;
        expect(e.offset).toBeGreaterThanOrEqual(0);
        expect(e.offset).toBeLessThanOrEqual(Math.max(bytes.length, 8));
        expect(e.message).toMatch(/x\.safetensors, byte \d+: ./);
      }
    }),
    { numRuns: RUNS },
  );
});

test(`${RUNS} damaged configurations of a training: taken, or refused by name`, () => {
  const whole = checked({ model: 'm', data: 'd.jsonl', options: { rank: 4, where: ['q', 'v'] } }, 'train.json');
  const outcomes = { read: 0, refused: 0 };
  fc.assert(
    fc.property(damaged(JSON.stringify(whole)), (text) => {
      const value = ((): unknown => {
        try {
          return JSON.parse(text);
        } catch {
          return undefined;
        }
      })();
      if (value === undefined) return;
      try {
        const c = checked(value, 'train.json');
        expect([typeof c.model, typeof c.data, typeof c.method]).toEqual(['string', 'string', 'string']);
        expect(c.lr > 0 && Number.isInteger(c.rows) && c.rows >= 1).toBe(true);
        outcomes.read++;
        const made = methods.find((m) => m.name === c.method);
        try {
          made?.configured({ ...c.options });
        } catch (e) {
          said(e, made!.name);
          expect((e as Error).message.startsWith(made!.name), (e as Error).stack).toBe(true);
        }
      } catch (e) {
        if (!(e instanceof UsageError)) throw e;
        said(e, 'train.json');
        outcomes.refused++;
      }
    }),
    { numRuns: RUNS },
  );
  console.log(`configurations: ${outcomes.read} taken, ${outcomes.refused} refused`);
  expect(outcomes.read).toBeGreaterThan(RUNS / 100);
});

const TEMPLATE = `{%- if messages[0]['role'] == 'system' -%}{%- set system = messages[0]['content'] -%}{%- set rest = messages[1:] -%}{%- else -%}{%- set rest = messages -%}{%- endif -%}
{%- set ns = namespace(n=0) -%}{%- for m in rest -%}{%- for i in range(2, 9, 3) -%}{%- set ns.n = ns.n + i * 9 -%}{%- endfor -%}
{%- if (m['role'] == 'user') != (loop.index0 % 2 == 0) -%}{{ raise_exception('roles must alternate') }}{%- endif -%}
{{ '<|' + m['role'] + '|>' + m['content'] | trim + eos_token }}{%- endfor -%}{{ messages | tojson(indent=2) }}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}{{ ns.n }}`;

test(`${RUNS} changed chat templates: a text, or a refusal, and soon`, () => {
  const messages = [
    { role: 'system', content: 'be short' },
    { role: 'user', content: 'hello' },
    { role: 'assistant', content: 'hi' },
  ];
  const pieces = [
    '999999999',
    '*',
    '+',
    '{%',
    '%}',
    '{{',
    '}}',
    'messages',
    'range(',
    ')',
    '[',
    '|',
    'for x in ',
    'set ',
    'macro f(x)',
    'endfor',
    "'",
    'ns',
    '__proto__',
    'constructor',
    '-',
  ];
  const outcomes = { said: 0, refused: 0, slowest: 0 };
  fc.assert(
    fc.property(mutations(TEMPLATE.length), fc.array(fc.nat(pieces.length - 1), { minLength: 1, maxLength: 5 }), (changes, which) => {
      const source = mutated([...TEMPLATE], changes, (v) =>
        v < 200 ? pieces[which[v % which.length]!]! : String.fromCharCode(v - 200 + 32),
      ).join('');
      const began = performance.now();
      try {
        expect(typeof chatOf(source, { eos_token: '</s>' }, 'model')(messages, true)).toBe('string');
        outcomes.said++;
      } catch (e) {
        said(e, 'model: the ');
        expect((e as Error).name).toBe('Error');
        outcomes.refused++;
      }
      outcomes.slowest = Math.max(outcomes.slowest, performance.now() - began);
    }),
    { numRuns: RUNS },
  );
  console.log(
    `templates: ${outcomes.said} said something, ${outcomes.refused} refused; the slowest took ${outcomes.slowest.toFixed(0)} ms`,
  );
  expect(outcomes.said).toBeGreaterThan(RUNS / 100);
  expect(outcomes.slowest).toBeLessThan(30_000);
});

test(`${RUNS} changed files of texts: records, or the lines that are none`, () => {
  const records = [
    { text: 'a, "b"\nc', label: 'x' },
    { text: 'd', label: 'y' },
  ];
  const files: readonly (readonly [path: string, text: string])[] = [
    ['f.jsonl', records.map((r) => JSON.stringify(r)).join('\n')],
    [
      'f.jsonl',
      JSON.stringify({
        messages: [
          { role: 'user', content: 'é' },
          { role: 'assistant', content: 'b' },
        ],
      }),
    ],
    ['f.jsonl', `${JSON.stringify({ prompt: 'a', completion: 'b' })}\r\n`],
    ['f.csv', 'text,label\n"a, ""b""\nc",x\nd,y\n'],
    ['f.tsv', 'prompt\tcompletion\na\tb\n"c"\td\n'],
  ];
  const outcomes = { read: 0, refused: 0 };
  fc.assert(
    fc.property(fc.constantFrom(...files), mutations(90), ([path, text], changes) => {
      try {
        const found = parseRecords(mutated([...text], changes, (v) => String.fromCharCode(v)).join(''), path);
        expect(found.length).toBeGreaterThan(0);
        expect(new Set(found.map((r) => r.kind)).size).toBe(1);
        outcomes.read++;
      } catch (e) {
        said(e, path);
        expect((e as Error).name, (e as Error).stack).toBe('Error');
        outcomes.refused++;
      }
    }),
    { numRuns: RUNS },
  );
  console.log(`texts: ${outcomes.read} read, ${outcomes.refused} refused`);
  expect(outcomes.read).toBeGreaterThan(RUNS / 100);
});
