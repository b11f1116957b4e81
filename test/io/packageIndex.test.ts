// Which package index the SmolLM2 download asks: pip's rules.
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { packageIndex } from '../../examples/smollmFile.ts';

let home = '';
beforeAll(async () => {
  home = await mkdtemp(join(tmpdir(), 'tinypeft-pip-'));
  await mkdir(join(home, '.config', 'pip'), { recursive: true });
  await writeFile(
    join(home, '.config', 'pip', 'pip.conf'),
    '[global]\ntimeout = 60\nindex-url = https://mirror.example/simple/\n[install]\nuser = yes\n',
  );
  await writeFile(
    join(home, 'other.conf'),
    '[install]\nindex-url = https://wrong.example\n[global]\nindex-url: https://other.example/simple\n',
  );
});
afterAll(() => rm(home, { recursive: true }));

test("the environment, then pip's files, then pypi.org", async () => {
  expect(await packageIndex({ PIP_INDEX_URL: 'https://env.example/simple' }, home)).toBe('https://env.example/simple');
  expect(await packageIndex({}, home)).toBe('https://mirror.example/simple/');
  expect(await packageIndex({ PIP_CONFIG_FILE: join(home, 'other.conf') }, home)).toBe('https://other.example/simple');
});
