// Adapters that Hugging Face PEFT wrote (hf_files.py): here they give its logits, and written again they are the same bytes.
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { float64 } from '../../core/engines/float64.ts';
import { CONFIG_FILE, WEIGHTS_FILE } from '../../io/peft/adapter.ts';
import { loadPeft } from '../../io/peft/load.ts';
import { savePeft } from '../../io/peft/save.ts';
import { off } from './fixtures.ts';
import { answered, FILES, feedOf, logitsOf, networkOf, tolerance } from './hfFiles.ts';

const engine = float64();

test.each(Object.keys(answered))('%s', async (title) => {
  const n = networkOf(title);
  const folder = join(FILES, title);
  const loaded = await loadPeft(n.base, folder);
  expect(loaded.warnings).toEqual([]);
  expect(off(await logitsOf(engine, loaded.model, n, feedOf(title)), answered[title]!), 'logits').toBeLessThan(tolerance(title));
  const out = await mkdtemp(join(tmpdir(), 'hf-files-'));
  try {
    await savePeft(loaded.model, out, { like: loaded.files });
    for (const name of [CONFIG_FILE, WEIGHTS_FILE])
      expect(Buffer.compare(await readFile(join(out, name)), await readFile(join(folder, name))), name).toBe(0);
  } finally {
    await rm(out, { recursive: true });
  }
});
