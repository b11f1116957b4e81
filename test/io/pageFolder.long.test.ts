// A process that is killed while it writes pages, at fifty random moments: every page that is there is whole.
import { spawn } from 'node:child_process';
import { mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { expect, test } from 'vitest';
import { rng } from '../../core/rng.ts';
import { pageFolder, pagesIn, readPage } from '../../io/pageFolder.ts';

const KILLS = 50;
const SIZE = 1 << 18;
const PAGES = 8;
const ROOT = resolve(import.meta.dirname, '../..');
/** Writes pages round by round for ever; every byte of a page is its round. Says when the first round is done. */
const program = `
import { pageFolder } from ${JSON.stringify(join(ROOT, 'io/pageFolder.ts'))};
const f = await pageFolder(process.argv[2])();
for (let round = 1; ; round++) {
  for (let n = 0; n < ${PAGES}; n++) await f.write(n, new Uint8Array(${SIZE}).fill(round % 251));
  if (round === 1) console.log(f.folder);
}`;

test(`${KILLS} kills`, async () => {
  const parent = await mkdtemp(join(tmpdir(), 'tinypeft-kill-'));
  const script = join(parent, 'write.mts');
  await writeFile(script, program);
  const r = rng(1);
  let halves = 0;
  try {
    for (let kill = 0; kill < KILLS; kill++) {
      const child = spawn(process.execPath, ['--import', 'tsx', script, join(parent, 'pages')], {
        cwd: ROOT,
        stdio: ['ignore', 'pipe', 'inherit'],
      });
      const folder = await new Promise<string>((done) => child.stdout.once('data', (d: Buffer) => done(d.toString().trim())));
      await new Promise((go) => setTimeout(go, 40 * r.next()));
      const ended = new Promise((go) => child.once('exit', go));
      child.kill('SIGKILL');
      await ended;
      const found = await pagesIn(folder);
      expect(found.sort()).toEqual(Array.from({ length: PAGES }, (_, n) => n));
      for (const n of found) {
        const bytes = await readPage(join(folder, `page-${n}`), n, SIZE);
        expect(bytes.every((b) => b === bytes[0])).toBe(true);
      }
      halves += (await readdir(folder)).filter((name) => name.endsWith('.tmp')).length;
      await (await pageFolder(join(parent, 'pages'))()).close();
      expect(await readdir(join(parent, 'pages'))).toEqual([]); // what the dead process left, half pages included
    }
    expect(halves).toBeGreaterThan(0); // some were killed inside a write
  } finally {
    await rm(parent, { recursive: true });
  }
}, 300_000);
