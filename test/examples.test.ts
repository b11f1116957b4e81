// Every example runs as a reader would run it, ends by itself, and says what it is there to say. (12–22: examples.long.test.ts.)
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'vitest';
import { examples, folder, long, options, run, says } from './exampleRuns.ts';

describe('examples', { concurrent: true, timeout: 120_000 }, () => {
  it('are all listed here and in the README of their folder', ({ expect }) => {
    const readme = readFileSync(join(folder, 'README.md'), 'utf8');
    expect(Object.keys(says)).toEqual(examples);
    for (const name of examples) expect(readme).toContain(name);
  });
  for (const name of examples.filter((n) => !long.has(n)))
    it(name, async ({ expect }) => {
      const { code, out, err } = await run(name, ...(options[name] ?? []));
      expect(code, err).toBe(0);
      for (const line of says[name] ?? []) expect(out).toMatch(line);
    });
  it('explain themselves in one line', async ({ expect }) => {
    const { code, out } = await run('01-tensor.ts', '--help');
    expect(code).toBe(0);
    expect(out).toBe('01: a tensor and its gradient  [--engine gpujs|simd|float64] [--mode webgpu|webasm|cpu]\n');
  });
  it('refuse an engine they do not know, and say what there is', async ({ expect }) => {
    const { code, err } = await run('01-tensor.ts', '--engine', 'abacus');
    expect(code).not.toBe(0);
    expect(err).toContain("'abacus' is none of gpujs, simd, float64");
  });
});
