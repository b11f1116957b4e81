// Adapters that Hugging Face PEFT wrote, read here and written again; and those that we write, read there (skipped without TINYPEFT_PYTHON).
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { off, type Table } from './fixtures.ts';
import { answered } from './hfFiles.ts';
import { ours, written } from './hfFilesOurs.ts';
import { expectSame } from './hfFilesRead.ts';
import { pythonWithPeft, run } from './python.ts';

test.each(Object.keys(answered))('%s', expectSame);

const python = pythonWithPeft();
describe.skipIf(python === null)('read by Hugging Face PEFT (skipped without TINYPEFT_PYTHON)', () => {
  const folder = mkdtempSync(join(tmpdir(), 'hf-ours-'));
  const here = new Map<string, number[]>();
  let there: Readonly<Record<string, Table | { readonly error: string }>> = {};
  beforeAll(async () => {
    for (const title of Object.keys(ours)) here.set(title, await written(title, folder));
    run(python!, 'hf_files.py', 'read', folder);
    there = (JSON.parse(readFileSync(join(folder, 'logits.json'), 'utf8')) as { logits: typeof there }).logits;
  }, 300_000);
  afterAll(() => rmSync(folder, { recursive: true }));
  test.each(Object.keys(ours))('%s', (title) => {
    const t = there[title]!;
    if ('error' in t) throw new Error(t.error);
    expect(off(here.get(title)!, t)).toBeLessThan(1e-6);
  });
});
