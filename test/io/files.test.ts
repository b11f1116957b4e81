// Atomic writing: whatever fails, the old file is whole and nothing else is left behind.
import { mkdtemp, open, readdir, readFile, rename, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { writeAtomic } from '../../io/files.ts';

let folder = '';
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'tinypeft-files-'));
});
afterAll(() => rm(folder, { recursive: true }));

describe('writing', () => {
  const failing = (at: 'open' | 'write' | 'sync' | 'rename', code: string, after: number) => {
    const fail = (): never => {
      throw Object.assign(new Error(code), { code });
    };
    let left = after;
    return {
      open: async (path: string, flags: string) => {
        if (at === 'open') fail();
        const h = await open(path, flags);
        const write = ((b: Uint8Array, o: number, n: number) => {
          if (at === 'write' && left <= 0) fail();
          const now = Math.min(n, Math.max(1, left)); // a disk may take fewer bytes than it is given
          left -= now;
          return h.write(b, o, now);
        }) as typeof h.write;
        return { write, sync: () => (at === 'sync' ? fail() : h.sync()), close: () => h.close() };
      },
      rename: async (a: string, b: string) => {
        if (at === 'rename') fail();
        await rename(a, b);
      },
      remove: async (path: string) => {
        await rm(path, { force: true });
      },
    };
  };

  test.each([
    ['open', 'EACCES', 'not writable for you'],
    ['write', 'ENOSPC', 'the disk is full'],
    ['sync', 'ENOSPC', 'the disk is full'],
    ['rename', 'EISDIR', 'a folder of this name exists'],
  ] as const)('a failure in %s (%s) leaves the old file whole and no other', async (at, code, says) => {
    const path = join(folder, `atomic-${at}.bin`);
    await writeAtomic(path, [Uint8Array.of(1, 2, 3)]);
    const before = (await readdir(folder)).sort();
    await fc.assert(
      fc.asyncProperty(fc.nat({ max: 20 }), async (after) => {
        const e = await writeAtomic(path, [new Uint8Array(16), new Uint8Array(16)], failing(at, code, after)).then(
          () => null,
          (x: unknown) => x as Error,
        );
        expect(e?.message).toContain(`cannot write ${path} (${code}`);
        expect(e?.message).toContain(says);
        expect(e?.message).toContain('What was there before is unchanged');
        expect([...(await readFile(path))]).toEqual([1, 2, 3]);
        expect((await readdir(folder)).sort()).toEqual(before);
      }),
      { numRuns: 6 },
    );
  });

  test('short writes are continued', async () => {
    const path = join(folder, 'short.bin');
    await writeAtomic(path, [Uint8Array.from({ length: 50 }, (_, k) => k)], failing('write', 'none', 50));
    expect([...(await readFile(path))]).toEqual(Array.from({ length: 50 }, (_, k) => k));
  });

  test('a folder that is not there', async () => {
    await expect(writeAtomic(join(folder, 'none', 'x'), [])).rejects.toThrow('the folder does not exist: create it first');
  });

  test('an exception while the data is made leaves the old file', async () => {
    const path = join(folder, 'thrown.bin');
    await writeAtomic(path, [Uint8Array.of(9)]);
    function* bad(): Generator<Uint8Array> {
      yield new Uint8Array(8);
      throw new RangeError('no');
    }
    await expect(writeAtomic(path, bad())).rejects.toThrow('no');
    expect((await stat(path)).size).toBe(1);
  });
});
