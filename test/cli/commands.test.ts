// npm run methods (and tinypeft methods) and npm run laws as a user meets them: answers, refusals, exit codes.
import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { methods } from '../../peft/all.ts';

const root = fileURLToPath(new URL('../..', import.meta.url));
const run = (program: string, ...args: string[]): Promise<{ code: number; out: string; err: string }> =>
  new Promise((resolve) => {
    execFile(process.execPath, ['--import', 'tsx', `cli/${program}.ts`, ...args], { cwd: root }, (e, out, err) =>
      resolve({ code: typeof e?.code === 'number' ? e.code : 0, out, err }),
    );
  });

describe.concurrent('npm run methods, tinypeft methods', () => {
  it('lists every method with its family, place, paper and counts', async () => {
    const { code, out } = await run('methods');
    expect(code).toBe(0);
    const plain = (text: string): string => text.replace(/[.*+?^${}()|[\]\\]/g, '\\$&');
    const cell = (text: string): string => plain(text.length > 20 ? `${text.slice(0, 19).trimEnd()}…` : text);
    for (const m of methods)
      expect(out).toMatch(
        new RegExp(`^${[m.name, m.family, m.at.join(', '), m.paper.replace('https://', '')].map(cell).join(' +')} `, 'm'),
      );
    expect(out).toMatch(/^lora +reparameterized +linear +arXiv:2106\.09685 +.* +8,192 +8,192 +yes +yes +close$/m); // 2 layers × 2 × 8·(128 + 128)
    expect(out).toContain(`${methods.length} methods`);
  });
  it('answers JSON, one family, one method', async () => {
    const [json, one] = await Promise.all([run('methods', '--json', '--family', 'hybrid'), run('methods', 'show', 'lora')]);
    const rows = JSON.parse(json.out) as { name: string; family: string; file: string }[];
    expect(rows.map((r) => r.name).sort()).toEqual(
      methods
        .filter((m) => m.family === 'hybrid')
        .map((m) => m.name)
        .sort(),
    );
    for (const line of ['arxiv.org/abs/2106.09685', 'peft/reparameterized/lora.ts', 'rank: 8, alpha: 8']) expect(one.out).toContain(line);
  });
  it('refuses what it does not know', async () => {
    const [name, family, option] = await Promise.all([
      run('methods', 'show', 'lorra'),
      run('tinypeft', 'methods', '--family', 'addtive'),
      run('methods', '--jason'),
    ]);
    expect(name).toMatchObject({ code: 2, out: '', err: expect.stringMatching(/no method lorra\. Nearest: lora/) as string });
    expect(family).toMatchObject({ code: 2, err: expect.stringMatching(/there are additive, /) as string });
    expect(option).toMatchObject({ code: 2, err: expect.stringContaining('--jason') as string });
  });
});

describe.concurrent('npm run laws', () => {
  it('has help, and refuses unknown methods and seeds', async () => {
    const [help, name, seed] = await Promise.all([run('laws', '--help'), run('laws', 'ai3'), run('laws', 'lora', '--seed', 'x')]);
    expect(help).toMatchObject({ code: 0, out: expect.stringContaining(methods.map((m) => m.name).join(' ')) as string });
    expect(name).toMatchObject({ code: 2, err: expect.stringMatching(/no method ai3\. Nearest: .*ia3/) as string });
    expect(seed).toMatchObject({ code: 2, err: expect.stringContaining('expected a whole number') as string });
  });
});
