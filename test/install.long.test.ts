// The packed package in an empty project: it installs in seconds with the README's two overrides, and one method can be
// imported without the rest.
import { execFile } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { expect, it } from 'vitest';

const run = promisify(execFile);
const root = fileURLToPath(new URL('..', import.meta.url));

const imported = (names: string, path: string): string => ['import', '{', names, '}', 'from', `'tinypeft/${path}'`].join(' ');

it('installs and trains', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'tinypeft-install-'));
  try {
    const { stdout } = await run('npm', ['pack', '--json', '--pack-destination', folder], { cwd: root });
    const { filename } = (JSON.parse(stdout) as [{ filename: string }])[0];
    writeFileSync(
      join(folder, 'package.json'),
      JSON.stringify({
        name: 'empty',
        type: 'module',
        dependencies: { tinypeft: `file:./${filename}` },
        overrides: { gl: 'npm:empty-npm-package@1.0.0', webgpu: '^0.6.2' },
      }),
    );
    await run('npm', ['install', '--no-audit', '--no-fund'], { cwd: folder });
    writeFileSync(
      join(folder, 'main.ts'),
      `
${imported('openEngine', 'core/open.ts')}
${imported('rng', 'core/rng.ts')}
${imported('decoder, gpt2', 'nn/decoder.ts')}
${imported('freeze', 'nn/freeze.ts')}
${imported('nextToken', 'nn/losses.ts')}
${imported('adamw', 'optim/adamw.ts')}
${imported('trainer', 'optim/trainer.ts')}
${imported('lora', 'peft/reparameterized/lora.ts')}
const engine = await openEngine();
const model = lora({ rank: 2 })(freeze(decoder(gpt2({ vocabulary: 11, width: 8, layers: 1, heads: 2, positions: 8 }), rng(1))));
const t = await trainer(model, { engine, loss: nextToken, optimizer: adamw() });
const { loss } = await t.step({ ids: { data: [1, 2, 3], shape: [1, 3] }, targets: { data: [2, 3, 4], shape: [1, 3] } });
console.log(engine.report.engine, loss > 2 && loss < 3);
await engine.close();
`,
    );
    const result = await run(process.execPath, [join(root, 'node_modules/tsx/dist/cli.mjs'), 'main.ts'], { cwd: folder });
    expect(result.stdout).toMatch(/^(simd|gpujs) true/);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});
