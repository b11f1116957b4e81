// Checkpoints under fire: saves killed at random moments, and model folders whose JSON was changed at random.
import { fork } from 'node:child_process';
import { once } from 'node:events';
import { copyFile, mkdtemp, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import fc from 'fast-check';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { float64 } from '../../core/engines/float64.ts';
import { rng } from '../../core/rng.ts';
import { leaf } from '../../core/tensor.ts';
import { parseConfig } from '../../io/checkpoints/architectures.ts';
import { openCheckpoint } from '../../io/checkpoints/open.ts';
import { parseIndex } from '../../io/checkpoints/weights.ts';
import { readTokenizer } from '../../io/tokenizer.ts';
import { context } from '../../nn/context.ts';
import { damaged, said } from './damaged.ts';

const FIXTURES = fileURLToPath(new URL('../oracle/fixtures/checkpoints', import.meta.url));
let root = '';
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), 'tinypeft-fire-'));
});
afterAll(() => rm(root, { recursive: true }));

test('a save killed at any moment leaves a whole checkpoint: the old one or the new one', async () => {
  const at = join(root, 'killed');
  const target = join(at, 'model');
  const r = rng(1);
  const script = fileURLToPath(new URL('saveForever.ts', import.meta.url));
  const seen = { old: 0, aside: 0, kills: 0 };
  const engine = float64();
  let last = -1;
  for (let k = 0; k < 60; k++) {
    const child = fork(script, [target, String(last + 1)], { execArgv: ['--import', 'tsx'], stdio: 'inherit' });
    await once(child, 'message'); // it has saved once, and goes on saving
    const [wait] = r.split(String(k)).uniform(1);
    await new Promise((done) => setTimeout(done, wait! * 40));
    child.kill('SIGKILL');
    await once(child, 'exit');
    seen.kills++;
    const names = await readdir(at);
    const aside = names.filter((f) => f.endsWith('.old'));
    if (!names.includes('model')) {
      // between the two renames: the error says where the old one is
      await expect(openCheckpoint(target)).rejects.toThrow(
        /a save was interrupted between two renames; what was there before is whole in .*\.old, rename it/,
      );
      expect(aside.length).toBe(1);
      await rename(join(at, aside[0]!), target);
      seen.aside++;
    } else seen.old++;
    // whole, and all of one save: every number of save n is n
    const { model } = await openCheckpoint(target);
    const [embed] = [...(await engine.read(model({ ids: leaf([0, 1], [1, 2]) }, context(2))))];
    expect(Number.isFinite(embed)).toBe(true);
    const config = JSON.parse(await readFile(join(target, 'config.json'), 'utf8')) as { save: number };
    expect(config.save).toBeGreaterThan(last);
    const { readSafetensors } = await import('../../io/files.ts');
    for (const f of (await readdir(target)).filter((n) => n.endsWith('.safetensors')))
      for (const { data } of (await readSafetensors(join(target, f))).tensors.values())
        expect(new Set(data)).toEqual(new Set([config.save]));
    last = config.save;
    for (const f of await readdir(at)) if (f !== 'model') await rm(join(at, f), { recursive: true });
  }
  console.log(`killed ${seen.kills} times: ${seen.old} with the folder in place, ${seen.aside} between the renames; ${last + 1} saves`);
});

test('10,000 damaged config.json: read, or refused by name', async () => {
  const texts = await Promise.all(
    ['gpt2', 'llama', 'qwen2', 'bert', 'roberta', 'smollm'].map((n) => readFile(join(FIXTURES, n, 'config.json'), 'utf8')),
  );
  const outcomes = { read: 0, refused: 0 };
  fc.assert(
    fc.property(fc.oneof(...texts.map(damaged)), (text) => {
      try {
        const { config } = parseConfig(text, 'config.json');
        expect(config.sizes.width % config.sizes.heads).toBe(0);
        outcomes.read++;
      } catch (e) {
        said(e, 'config.json');
        outcomes.refused++;
      }
      expect(({} as Record<string, unknown>).hidden_size).toBeUndefined();
    }),
    { numRuns: 10_000 },
  );
  console.log(`config.json: ${outcomes.read} read, ${outcomes.refused} refused`);
  expect(Math.min(outcomes.read, outcomes.refused)).toBeGreaterThan(1000);
});

test('10,000 damaged indexes: names of files in the folder, or refused', async () => {
  const text = await readFile(join(FIXTURES, 'llama', 'model.safetensors.index.json'), 'utf8');
  fc.assert(
    fc.property(damaged(text), (t) => {
      try {
        for (const f of parseIndex(t, 'index.json').values()) expect(f).toMatch(/^[A-Za-z0-9_][A-Za-z0-9._-]*\.safetensors$/);
      } catch (e) {
        said(e, 'index.json');
      }
    }),
    { numRuns: 10_000 },
  );
});

test('1,000 folders with damaged JSON: opened, or refused; nothing hangs, nothing is allocated for a size that is only claimed', async () => {
  const at = await mkdtemp(join(root, 'm-'));
  for (const f of await readdir(join(FIXTURES, 'smollm'))) await copyFile(join(FIXTURES, 'smollm', f), join(at, f));
  const text = await readFile(join(at, 'config.json'), 'utf8');
  const before = process.memoryUsage().arrayBuffers;
  await fc.assert(
    fc.asyncProperty(damaged(text), async (t) => {
      await writeFile(join(at, 'config.json'), t);
      await openCheckpoint(at).catch((e) => said(e, at));
    }),
    { numRuns: 1000 },
  );
  expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(200e6);
});

test('10,000 damaged tokenizers: used, or refused', async () => {
  const at = await mkdtemp(join(root, 't-'));
  const text = await readFile(join(FIXTURES, 'smollm', 'tokenizer.json'), 'utf8');
  await copyFile(join(FIXTURES, 'smollm', 'tokenizer_config.json'), join(at, 'tokenizer_config.json'));
  const outcomes = { read: 0, refused: 0 };
  await fc.assert(
    fc.asyncProperty(damaged(text), async (t) => {
      await writeFile(join(at, 'tokenizer.json'), t);
      try {
        const tokenizer = await readTokenizer(at, 16);
        outcomes.read++;
        const ids = tokenizer.encode('the weights of the model');
        expect(ids.length).toBeLessThanOrEqual(16);
        tokenizer.decode([...ids]);
      } catch (e) {
        said(e, 'tokenizer.json');
        outcomes.refused++;
      }
    }),
    { numRuns: 10_000 },
  );
  console.log(`tokenizer.json: ${outcomes.read} read, ${outcomes.refused} refused`);
});
