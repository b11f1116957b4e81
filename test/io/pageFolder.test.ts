// Pages on disk: what is read is what was written or an error, folders of dead processes go, and a trainer leaves nothing behind.
import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, readdir, readFile, rm, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { float64 } from '../../core/engines/float64.ts';
import { rng } from '../../core/rng.ts';
import { pageFolder, pagesIn, readPage } from '../../io/pageFolder.ts';
import type { Model } from '../../nn/layer.ts';
import { nextToken } from '../../nn/losses.ts';
import { adamw } from '../../optim/adamw.ts';
import type { Optimizer } from '../../optim/optimizer.ts';
import { paged } from '../../optim/paged.ts';
import { trainer } from '../../optim/trainer.ts';
import { lora } from '../../peft/reparameterized/lora.ts';
import { bits, counting, frozen, type Text } from '../optim/tiny.ts';

const parent = await mkdtemp(join(tmpdir(), 'tinypeft-page-test-'));
afterAll(() => rm(parent, { recursive: true }));
const bytes = (seed: number): Uint8Array => {
  const r = rng(seed);
  return Uint8Array.from({ length: 100 }, () => r.below(256));
};

test('pages are read as they were last written, in any order', async () => {
  const f = await pageFolder(parent)();
  for (const n of [3, 0, 7, 3]) await f.write(n, bytes(n + 1));
  await f.write(7, bytes(50));
  for (const [n, seed] of [
    [7, 50],
    [3, 4],
    [0, 1],
  ] as const) {
    const into = new Uint8Array(100);
    await f.read(n, into);
    expect(into).toEqual(bytes(seed));
  }
  expect((await pagesIn(f.folder)).sort()).toEqual([0, 3, 7]);
  expect((await readdir(f.folder)).length).toBe(3); // nothing temporary
  await f.close();
  expect(existsSync(f.folder)).toBe(false);
});
test('half a page, a changed byte, another page’s file, a missing file: an error that says what to do', async () => {
  const f = await pageFolder(parent)();
  const path = join(f.folder, 'page-1');
  await f.write(1, bytes(1));
  const good = await readFile(path);
  const into = new Uint8Array(100);
  for (const spoil of [
    () => truncate(path, 60),
    () => truncate(path, 0),
    () =>
      writeFile(
        path,
        good.map((b, k) => (k === 70 ? b ^ 1 : b)),
      ),
    () =>
      writeFile(
        path,
        good.map((b, k) => (k === 0 ? 2 : b)),
      ),
  ]) {
    await spoil();
    await expect(f.read(1, into)).rejects.toThrow('is not page 1 of 100 bytes as it was written; load the last saved state');
    await writeFile(path, good);
  }
  expect(await readPage(path, 1, 100)).toEqual(Buffer.from(bytes(1)));
  await expect(f.read(2, into)).rejects.toThrow('page 2 is not at');
  await f.close();
  await expect(f.write(1, bytes(1))).rejects.toThrow('cannot write page 1 of 100 bytes');
});
test('folders of processes that ended are removed when the next one opens; others stay', async () => {
  const dead = join(parent, 'tinypeft-pages-999999999-ab12');
  const alive = join(parent, `tinypeft-pages-${process.pid}-cd34`);
  const other = join(parent, 'tinypeft-pages-mine');
  for (const folder of [dead, alive, other]) await mkdir(folder);
  await (await pageFolder(parent)()).close();
  expect([dead, alive, other].map(existsSync)).toEqual([false, true, true]);
});
test('a paged training on disk is the plain one, and closing the trainer removes its pages', async () => {
  const own = join(parent, 'own');
  const start = (optimizer: Optimizer) =>
    trainer<Model, Text>(lora({ rank: 2 })(frozen()), { engine: float64(), loss: nextToken, optimizer });
  await using plain = await start(adamw({ lr: 0.05 }));
  const t = await start(paged(adamw({ lr: 0.05 }), { page: 256, budget: 512, spill: pageFolder(own) }));
  for (let k = 0; k < 3; k++) expect(await t.step(counting(k))).toEqual(await plain.step(counting(k)));
  expect(bits(await t.state())).toEqual(bits(await plain.state()));
  expect(t.shelf!.outs).toBeGreaterThan(4);
  expect(await readdir(own)).toHaveLength(1);
  await t[Symbol.asyncDispose]();
  expect(await readdir(own)).toHaveLength(0);
});
