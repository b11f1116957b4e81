// Compiles the AssemblyScript kernels into binary.ts, in four variants: `npm run build:simd`.
import { createHash } from 'node:crypto';
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import asc from 'assemblyscript/asc';

const here = fileURLToPath(new URL('.', import.meta.url));

export interface Variant {
  readonly relaxed: boolean; // fused multiply-add, where the runtime has relaxed SIMD
  readonly threads: boolean; // shared memory and a barrier; without, for pages that are not cross-origin isolated
}
/** By the names they have in binary.ts. */
export const variants: Readonly<Record<string, Variant>> = {
  plain: { relaxed: false, threads: true },
  relaxed: { relaxed: true, threads: true },
  plainAlone: { relaxed: false, threads: false },
  relaxedAlone: { relaxed: true, threads: false },
};

/** The module's bytes. */
export async function compileKernels({ relaxed, threads }: Variant): Promise<Uint8Array> {
  const folder = await mkdtemp(join(tmpdir(), 'tinypeft-'));
  try {
    const out = join(folder, 'kernels.wasm');
    const memory = [
      '--importMemory',
      '--initialMemory',
      '16',
      '--maximumMemory',
      '65536',
      ...(threads ? ['--sharedMemory', '--enable', 'threads'] : ['--disable', 'threads']),
    ];
    const features = ['--enable', 'simd', ...(relaxed ? ['--enable', 'relaxed-simd'] : [])];
    const { error, stderr } = await asc.main([
      join(here, 'assembly/index.ts'),
      '-o',
      out,
      '-O3',
      '--noAssert',
      '--runtime',
      'stub',
      ...memory,
      ...features,
    ]);
    if (error !== null) throw new Error(`asc: ${error.message}\n${stderr.toString()}`);
    return await readFile(out);
  } finally {
    await rm(folder, { recursive: true });
  }
}

/** Changes with any of the sources. */
export async function sourceHash(): Promise<string> {
  const names = (await readdir(join(here, 'assembly'))).sort().map((n) => `assembly/${n}`);
  const hash = createHash('sha256');
  for (const name of [...names, 'opcodes.ts']) hash.update(await readFile(join(here, name), 'utf8'));
  return hash.digest('hex');
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const parts = [
    `// Generated from assembly/ by \`npm run build:simd\`; a test compares the hash, a long one the bytes.\n\nexport const sources = '${await sourceHash()}';\n`,
  ];
  for (const [name, v] of Object.entries(variants)) {
    const bytes = await compileKernels(v);
    console.log(`${name}: ${bytes.length} bytes`);
    parts.push(`export const ${name} =\n  '${Buffer.from(bytes).toString('base64')}';\n`);
  }
  await writeFile(join(here, 'binary.ts'), parts.join('\n'));
}
