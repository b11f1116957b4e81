// The examples that are studies: they train for half a minute and more.
import { describe, it } from 'vitest';
import { long, options, run, says } from './exampleRuns.ts';

describe('long examples', { concurrent: true, timeout: 600_000 }, () => {
  for (const name of long)
    it(name, async ({ expect }) => {
      const { code, out, err } = await run(name, ...(options[name] ?? []));
      expect(code, err).toBe(0);
      for (const line of says[name] ?? []) expect(out).toMatch(line);
    });
});
