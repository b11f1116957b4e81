// X-LoRA and Arrow that this library wrote, with their experts, read by Hugging Face PEFT (skipped without TINYPEFT_PYTHON).
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { off } from './fixtures.ts';
import { expertsWritten, oursOverExperts } from './hfExperts.ts';
import type { There } from './hfFiles.ts';
import { pythonWith, run } from './python.ts';

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
