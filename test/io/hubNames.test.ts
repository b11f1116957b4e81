// Names of repositories, revisions and files, and links in the cache: nothing is read or written outside it.
import { mkdir, mkdtemp, readdir, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { repositoryCache } from '../../io/hub/cache.ts';
import { checkFile, checkRevision, isRepository } from '../../io/hub/names.ts';
import { openRepository } from '../../io/hub/repository.ts';
import { sha256 } from './hubServer.ts';
import { ID, LARGE, options, started } from './tinyHub.ts';

let root = '';
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), 'tinypeft-hub-'));
});
afterAll(() => rm(root, { recursive: true }));
const folder = (): Promise<string> => mkdtemp(join(root, 'c-'));

describe('nothing leaves the cache', () => {
  const ESCAPES = [
    '..',
    '../x',
    'a/../../x',
    '/etc/passwd',
    'C:\\x',
    '..\\x',
    'a\\b',
    'a//b',
    './a',
    'a/',
    '',
    'a\0b',
    'a/..',
    'a/...',
    'a:b',
    'a ',
    '~/../x/..',
  ];
  test.each(ESCAPES)('a file called %j', (name) => {
    expect(() => checkFile(name)).toThrow(/is not the name of a file in a repository: it would leave the cache's folder/);
  });
  test.each([
    '..',
    '../x',
    'a/../b',
    '/a',
    'a/b/c',
    'a--b/c',
    '-a/b',
    'a/.b',
    'a/b.',
    'a\\b',
    'a/b.git',
    '',
    'a b',
    'a/',
    'ä/b',
    'a%2f..%2fb',
  ])('a repository called %j', async (id) => {
    expect(isRepository(id)).toBe(false);
    await expect(openRepository(id)).rejects.toThrow(/is not the name of a repository/);
  });
  test.each(['../x', 'refs/../../x', '/x', 'a//b', 'a\\b', '-x', '', 'x.lock', '~1'])('a revision called %j', (revision) => {
    expect(() => checkRevision(revision)).toThrow(/is not a revision/);
  });
  test('names that are fine', () => {
    for (const id of ['gpt2', 'HuggingFaceTB/SmolLM2-135M', 'a_b/c.d-e', 'sentence-transformers/all-MiniLM-L6-v2'])
      expect(isRepository(id)).toBe(true);
    for (const f of ['config.json', 'onnx/model.onnx', 'model-00001-of-00002.safetensors', '1_Pooling/config.json', '.gitattributes'])
      expect(checkFile(f)).toBe(f);
    for (const r of ['main', 'refs/pr/12', 'v1.0', 'c0ffee']) expect(checkRevision(r)).toBe(r);
  });
  test('any text at all: accepted names stay inside', () => {
    const messy = fc
      .array(fc.constantFrom('.', '..', '/', '\\', 'a', 'B-', '_', ':', ' ', '\0', '~', '%2e', 'é', '-'), { maxLength: 8 })
      .map((p) => p.join(''));
    fc.assert(
      fc.property(fc.oneof(messy, fc.string()), (name) => {
        const inside = (base: string, made: () => string): boolean => {
          try {
            return made().startsWith(`${base}/`);
          } catch (e) {
            return e instanceof RangeError;
          }
        };
        expect(inside('/c', () => repositoryCache('/c', name).folder)).toBe(true);
        expect(inside('/c/r', () => join('/c/r', checkFile(name)))).toBe(true);
        expect(inside('/c/r', () => join('/c/r', checkRevision(name)))).toBe(true);
      }),
      { numRuns: 500 },
    );
  });
  test('links that lead out are not written through, and not read', async () => {
    await using h = await started();
    const outside = await folder();
    for (const name of ['', 'blobs', 'snapshots', 'refs']) {
      const cache = await folder();
      const at = join(cache, 'models--org--tiny-model');
      if (name !== '') await mkdir(at);
      await symlink(outside, join(at, name));
      const got = openRepository(ID, options(h, cache)).then((r) => r.get('config.json'));
      await expect(got, name).rejects.toThrow(/is a link to .*, outside the cache/);
      expect(await readdir(outside), name).toEqual([]);
    }
    // the part of a download that is a link to somebody's file
    const cache = await folder();
    const victim = join(outside, 'victim');
    await writeFile(victim, 'precious');
    const r = await openRepository(ID, options(h, cache));
    const blobs = join(cache, 'models--org--tiny-model', 'blobs');
    await mkdir(blobs);
    await symlink(victim, join(blobs, `${sha256(LARGE.bytes)}.incomplete`));
    await r.need('model.safetensors');
    expect(await readFile(victim, 'utf8')).toBe('precious');
    // a snapshot's file that is a link to somebody's file
    await mkdir(r.folder, { recursive: true });
    await symlink(victim, join(r.folder, 'tokenizer.json'));
    await expect(r.get('tokenizer.json')).rejects.toThrow(/tokenizer\.json: is a link to .*victim, outside the cache/);
  });
});
