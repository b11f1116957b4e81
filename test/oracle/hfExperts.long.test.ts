// X-LoRA and Arrow in folders: many, hostile ones, and those that this library wrote, read by Hugging Face PEFT (skipped without TINYPEFT_PYTHON).
import { cpSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { CONFIG_FILE } from '../../io/peft/adapter.ts';
import { loadPeft } from '../../io/peft/load.ts';
import { arrowsAreRead, xlorasAreRead } from '../io/expertFolders.ts';
import { off } from './fixtures.ts';
import { EXPERTS, expertsWritten, oursOverExperts } from './hfExperts.ts';
import type { There } from './hfFiles.ts';
import { networks } from './networks.ts';
import { pythonWith, run } from './python.ts';

const root = mkdtempSync(join(tmpdir(), 'expert-laws-'));
afterAll(() => rmSync(root, { recursive: true }));
test('sixty X-LoRAs of any options are read as what was written', () => xlorasAreRead(60, root));
test('sixty Arrows of any options', () => arrowsAreRead(60, root));

/** Bytes of a configuration changed, cut or put in; a mixture is what it was, another one, or refused: and nothing outside its folder is opened. */
test.each(['xlora-ranks-llama', 'arrow-general-llama'])('hostile files: 3,000 changed configurations of %s', async (title) => {
  const folder = join(root, title);
  cpSync(join(EXPERTS, title), folder, { recursive: true });
  const file = [join(folder, CONFIG_FILE), join(folder, 'arrow_router', CONFIG_FILE)].find((f) => existsSync(f))!;
  const text = readFileSync(file, 'utf8');
  let read = 0;
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.tuple(fc.nat(text.length - 1), fc.nat(255), fc.nat(2)), { minLength: 1, maxLength: 3 }),
      async (changes) => {
        let b = Buffer.from(text);
        for (const [at, byte, how] of changes) {
          const rest = b.subarray(how === 2 ? at : at + 1);
          b = Buffer.concat(how === 1 ? [b.subarray(0, at), rest] : [b.subarray(0, at), Buffer.from([byte]), rest]);
        }
        writeFileSync(file, b);
        try {
          const { files } = await loadPeft(networks.llama.base, folder, { warn: () => {} });
          for (const e of files.experts ?? []) expect(e.files.folder.startsWith(`${folder}/`)).toBe(true);
          read++;
        } catch (e) {
          expect(e).toBeInstanceOf(Error);
          expect(['TypeError', 'ReferenceError'], (e as Error).stack ?? '').not.toContain((e as Error).name);
          expect((e as Error).message.length).toBeGreaterThan(20);
        }
      },
    ),
    { numRuns: 3000 },
  );
  expect(read).toBeGreaterThan(10);
});

const python = pythonWith('peft', 'torch', 'transformers', 'sklearn');
describe.skipIf(python === null)('read by Hugging Face PEFT (skipped without TINYPEFT_PYTHON, and scikit-learn there)', () => {
  const folder = mkdtempSync(join(tmpdir(), 'hf-experts-'));
  const here = new Map<string, number[]>();
  let there: Readonly<Record<string, There>> = {};
  beforeAll(async () => {
    for (const title of Object.keys(oursOverExperts)) here.set(title, await expertsWritten(title, folder));
    run(python!, 'hf_experts.py', 'read', folder);
    there = (JSON.parse(readFileSync(join(folder, 'logits.json'), 'utf8')) as { logits: typeof there }).logits;
  }, 300_000);
  afterAll(() => rmSync(folder, { recursive: true }));
  test.each(Object.keys(oursOverExperts))('%s', (title) => {
    const t = there[title]!;
    if ('error' in t) throw new Error(t.error);
    expect(off(here.get(title)!, t)).toBeLessThan(1e-6);
    expect(t.again, 'keys, shapes, types and numbers as the library saves them').toBe(true);
  });
});
