// GGUF files with random bytes changed, by the ten thousand.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'vitest';
import { walkHeader } from '../../io/ggufHeader.ts';
import { checkMutations } from './hostileGguf.ts';

test('10,000 mutations of a GGUF file: read, or refused with the place and the reason', () => {
  const tiny = new Uint8Array(readFileSync(join(import.meta.dirname, '../oracle/fixtures/tiny-llama.gguf')));
  return checkMutations(tiny, walkHeader(tiny, tiny.length, 'tiny')!.end, 10_000);
});
