// Adapters that Hugging Face PEFT wrote: what is expected of each when it is read here, and written again.
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect } from 'vitest';
import { float64 } from '../../core/engines/float64.ts';
import { CONFIG_FILE, WEIGHTS_FILE } from '../../io/peft/adapter.ts';
import { loadPeft } from '../../io/peft/load.ts';
import { savePeft } from '../../io/peft/save.ts';
import { off } from './fixtures.ts';
import { answered, FILES, feedOf, logitsOf, networkOf, tolerance } from './hfFiles.ts';

/** How far our logits are from the library's. Throws unless what we write again is the same, byte for byte. */
export async function readAndWritten(title: string): Promise<number> {
  const n = networkOf(title);
  const folder = join(FILES, title);
  const loaded = await loadPeft(n.base, folder, { engine: float64() });
  expect(loaded.warnings).toEqual([]);
  const out = await mkdtemp(join(tmpdir(), 'hf-files-'));
  try {
    await savePeft(loaded.model, out, { like: loaded.files });
    for (const name of [CONFIG_FILE, WEIGHTS_FILE])
      expect(Buffer.compare(await readFile(join(out, name)), await readFile(join(folder, name))), name).toBe(0);
  } finally {
    await rm(out, { recursive: true });
  }
  return off(await logitsOf(float64(), loaded.model, n, feedOf(title)), answered[title]!);
}
export async function expectSame(title: string): Promise<void> {
  expect(await readAndWritten(title), 'logits').toBeLessThan(tolerance(title));
}
