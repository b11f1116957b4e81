// Merged models saved here give the same logits in transformers.
import { expect, test } from 'vitest';
import { found, run } from './merged.ts';

const python = found();
test.skipIf(python === null)('tuned, merged, saved, opened by transformers (skipped without TINYPEFT_PYTHON)', async () => {
  const { rows } = await run(python!);
  expect(rows.length).toBeGreaterThan(8);
  for (const r of rows) {
    expect(r.strays, r.model).toEqual({});
    expect(r.difference, r.model).toBeLessThan(1e-4);
    expect(r.changed, r.model).toBeGreaterThan(0.1);
    expect(r.counts[0], r.model).toBe(r.counts[1]);
  }
});
