// Adapters that Hugging Face PEFT wrote, read here and written again; and those that we write, read there (skipped without TINYPEFT_PYTHON).
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { float64 } from '../../core/engines/float64.ts';
import { CONFIG_FILE, WEIGHTS_FILE } from '../../io/peft/adapter.ts';
import { loadPeft } from '../../io/peft/load.ts';
import { off } from './fixtures.ts';
import { answered, FILES, feedOf, logitsOf, type There, tolerance } from './hfFiles.ts';
import { ours, splitGpt2, written } from './hfFilesOurs.ts';
import { expectSame } from './hfFilesRead.ts';
import { networks } from './networks.ts';
import { pythonWith, run } from './python.ts';

test.each(Object.keys(answered))('%s', expectSame);

test.each(['lora-gpt2', 'dora-gpt2', 'ia3-gpt2', 'adalora-gpt2', 'hira-gpt2'])(
  '%s on a GPT-2 with separate query, key and value',
  async (title) => {
    const loaded = await loadPeft(splitGpt2(), join(FILES, title));
    expect(off(await logitsOf(float64(), loaded.model, networks.gpt2, feedOf(title)), answered[title]!)).toBeLessThan(tolerance(title));
  },
);

/** Bytes of a file changed, cut or put in; an adapter is what it was, or refused. */
test('hostile files: 10,000 changed configurations and weights are refused or read, never a crash', async () => {
  const titles = ['lora-patterns-llama', 'ia3-llama', 'vblora-topk-llama', 'prefix-llama', 'lora-saved-llama'];
  const folder = mkdtempSync(join(tmpdir(), 'hf-hostile-'));
  const files = titles.map((t) => ({
    config: readFileSync(join(FILES, t, CONFIG_FILE)),
    weights: readFileSync(join(FILES, t, WEIGHTS_FILE)),
  }));
  let read = 0;
  try {
    await fc.assert(
      fc.asyncProperty(
        fc.nat(titles.length - 1),
        fc.boolean(),
        fc.array(fc.tuple(fc.nat(), fc.nat(255), fc.nat(2)), { minLength: 1, maxLength: 4 }),
        async (k, first, changes) => {
          const both = { config: Buffer.from(files[k]!.config), weights: Buffer.from(files[k]!.weights) };
          const which = first ? 'config' : 'weights';
          for (const [at, byte, how] of changes) {
            const b = both[which];
            const i = at % Math.min(b.length, which === 'config' ? b.length : 1200); // the header, mostly
            both[which] =
              how === 0
                ? Buffer.concat([b.subarray(0, i), Buffer.from([byte]), b.subarray(i + 1)])
                : how === 1
                  ? Buffer.concat([b.subarray(0, i), b.subarray(i + 1)])
                  : Buffer.concat([b.subarray(0, i), Buffer.from([byte]), b.subarray(i)]);
          }
          writeFileSync(join(folder, CONFIG_FILE), both.config);
          writeFileSync(join(folder, WEIGHTS_FILE), both.weights);
          try {
            await loadPeft(networks.llama.base, folder, { warn: () => {} });
            read++;
          } catch (e) {
            expect(e).toBeInstanceOf(Error);
            expect(['TypeError', 'ReferenceError'], (e as Error).stack ?? '').not.toContain((e as Error).name);
            expect((e as Error).message.length).toBeGreaterThan(20);
          }
        },
      ),
      { numRuns: 10_000 },
    );
  } finally {
    rmSync(folder, { recursive: true });
  }
  expect(read).toBeGreaterThan(500); // a changed number of a tensor is another adapter
  expect(Object.keys(Object.prototype)).toEqual([]);
});

const python = pythonWith('peft', 'torch', 'transformers', 'sklearn');
describe.skipIf(python === null)('read by Hugging Face PEFT (skipped without TINYPEFT_PYTHON, and scikit-learn there)', () => {
  const folder = mkdtempSync(join(tmpdir(), 'hf-ours-'));
  const here = new Map<string, number[]>();
  let there: Readonly<Record<string, There>> = {};
  beforeAll(async () => {
    for (const title of Object.keys(ours)) here.set(title, await written(title, folder));
    run(python!, 'hf_files.py', 'read', folder);
    there = (JSON.parse(readFileSync(join(folder, 'logits.json'), 'utf8')) as { logits: typeof there }).logits;
  }, 300_000);
  afterAll(() => rmSync(folder, { recursive: true }));
  test.each(Object.keys(ours))('%s', (title) => {
    const t = there[title]!;
    if ('error' in t) throw new Error(t.error);
    expect(off(here.get(title)!, t)).toBeLessThan(Math.max(1e-6, tolerance(title)));
    expect(t.again, 'keys, shapes, types and numbers as the library saves them').toBe(true);
  });
});
