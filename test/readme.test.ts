// The README's code runs as it stands there, and its links lead somewhere.
import { execFile } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { expect, it } from 'vitest';
import { methods } from '../peft/all.ts';

const root = fileURLToPath(new URL('..', import.meta.url));
const readme = readFileSync(join(root, 'README.md'), 'utf8');

it('its program runs', async () => {
  const code = /```ts\n([\s\S]*?)```/.exec(readme)?.[1] ?? '';
  const folder = mkdtempSync(join(tmpdir(), 'tinypeft-readme-'));
  try {
    const file = join(folder, 'readme.mts');
    writeFileSync(file, `${code.replaceAll("from './", `from '${root}`)}\nconsole.log(merged.kind);\n`);
    const { stdout } = await promisify(execFile)(process.execPath, [join(root, 'node_modules/tsx/dist/cli.mjs'), file], { cwd: root });
    expect(stdout.trim()).toBe('model');
  } finally {
    rmSync(folder, { recursive: true });
  }
});

it('its table names every method', () => {
  for (const m of methods) expect(readme).toContain(`\`${m.name}\``);
  expect(readme).toContain(`${methods.length} methods, one page each`);
});

it('its links lead to files', () => {
  const targets = [...readme.matchAll(/\]\(([^)]+)\)/g)].map((m) => m[1]!).filter((t) => !t.startsWith('http'));
  expect(targets.length).toBeGreaterThan(5);
  for (const t of targets) expect(existsSync(join(root, t)), t).toBe(true);
});

it('its commands are scripts of package.json', () => {
  const { scripts } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as { scripts: Record<string, string> };
  for (const [, name] of readme.matchAll(/npm run ([\w:]+)/g)) expect(Object.keys(scripts)).toContain(name);
});
