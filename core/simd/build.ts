// Compiles the AssemblyScript kernels, with and without relaxed SIMD, into binary.ts: `npm run build:simd`.
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import asc from 'assemblyscript/asc';

const here = fileURLToPath(new URL('.', import.meta.url));

/** The module's bytes. */
export async function compileKernels(relaxed: boolean): Promise<Uint8Array> {
  const folder = await mkdtemp(join(tmpdir(), 'tinypeft-'));
  try {
    const out = join(folder, 'kernels.wasm');
    const { error, stderr } = await asc.main([
      join(here, 'assembly/index.ts'),
      '-o',
      out,
      '-O3',
      '--noAssert',
      '--runtime',
      'stub',
      '--importMemory',
      '--sharedMemory',
      '--initialMemory',
      '16',
      '--maximumMemory',
      '65536',
      '--enable',
      'simd',
      '--enable',
      'threads',
      ...(relaxed ? ['--enable', 'relaxed-simd'] : []),
    ]);
    if (error !== null) throw new Error(`asc: ${error.message}\n${stderr.toString()}`);
    return await readFile(out);
  } finally {
    await rm(folder, { recursive: true });
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const [plain, relaxed] = [await compileKernels(false), await compileKernels(true)];
  const text = (name: string, bytes: Uint8Array): string => `export const ${name} =\n  '${Buffer.from(bytes).toString('base64')}';\n`;
  await writeFile(
    join(here, 'binary.ts'),
    `// Generated from assembly/ by \`npm run build:simd\`; a test rebuilds and compares.\n\n${text('plain', plain)}\n${text('relaxed', relaxed)}`,
  );
  console.log(`binary.ts: ${plain.length} bytes plain, ${relaxed.length} with relaxed SIMD`);
}
