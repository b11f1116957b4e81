// What one core can do at most with WebAssembly SIMD: multiply-adds on registers alone, fused. The measure for `npm run compare`'s products.   npx tsx bench/ceiling.ts
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { cpus, tmpdir } from 'node:os';
import { join } from 'node:path';
import { setFlagsFromString } from 'node:v8';
import asc from 'assemblyscript/asc';
import { plain as plainKernels, relaxed as relaxedKernels } from '../core/simd/binary.ts';
import { SCRATCH } from '../core/simd/opcodes.ts';

const SUMS = 12; // independent ones hide the latency of an addition; as many as a tile of the matmul has
const each = (f: (k: number) => string): string => Array.from({ length: SUMS }, (_, k) => f(k)).join(' ');
const source = `export function run(n: i32): f32 {
  const a = f32x4.splat(1.0001), b = f32x4.splat(0.9999);
  ${each((k) => `let c${k} = f32x4.splat(${k});`)}
  for (let i = 0; i < n; i++) { ${each((k) => `c${k} = f32x4.relaxed_madd(a, b, c${k});`)} }
  return ${Array.from({ length: SUMS }, (_, k) => `f32x4.extract_lane(c${k}, 0)`).join(' + ')};
}`;

/** Best GFLOP/s of several runs. */
async function measure(): Promise<number> {
  const folder = await mkdtemp(join(tmpdir(), 'tinypeft-'));
  try {
    const [from, to] = [join(folder, 'peak.ts'), join(folder, 'peak.wasm')];
    await writeFile(from, source);
    const { error } = await asc.main([
      from,
      '-o',
      to,
      '-O3',
      '--noAssert',
      '--runtime',
      'stub',
      '--enable',
      'simd',
      '--enable',
      'relaxed-simd',
    ]);
    if (error !== null) throw error;
    const { instance } = await WebAssembly.instantiate(await readFile(to));
    const run = instance.exports.run as (n: number) => number;
    const n = 1e7;
    let best = Number.POSITIVE_INFINITY;
    for (let k = 0; k < 8; k++) {
      const began = performance.now();
      run(n);
      best = Math.min(best, performance.now() - began);
    }
    return (n * SUMS * 4 * 2) / best / 1e6;
  } finally {
    await rm(folder, { recursive: true });
  }
}

/** The engine's own product of 1024 × 1024 on one thread, straight through its module. */
async function product(binary: string): Promise<number> {
  const memory = new WebAssembly.Memory({ initial: 1024, maximum: 65536, shared: true });
  const { instance } = await WebAssembly.instantiate(Uint8Array.from(Buffer.from(binary, 'base64')), { env: { memory } });
  const run = instance.exports.run as (...words: number[]) => void;
  const N = 1024;
  const base = 1024 + SCRATCH;
  const [a, b, c, code] = [base, base + 4 * N * N, base + 8 * N * N, base + 12 * N * N];
  new Float32Array(memory.buffer, a, 2 * N * N).fill(0.5);
  const words = [2, 15, c, a, b, 1, N, N, N, N, 1, N, 1, 0, 0]; // MATMUL, words, …: see assembly/matmul.ts
  new Int32Array(memory.buffer, code, words.length).set(words);
  let best = Number.POSITIVE_INFINITY;
  for (let k = 0; k < 12; k++) {
    const began = performance.now();
    run(code, code + words.length * 4, 0, 1, 1024, 64);
    best = Math.min(best, performance.now() - began);
  }
  return (2 * N ** 3) / best / 1e6;
}

if (process.argv.includes('--help'))
  console.log('npx tsx bench/ceiling.ts\n\nGFLOP/s of one core on registers alone, and of the engine’s 1024³ product.');
else {
  setFlagsFromString('--experimental-wasm-relaxed-simd');
  console.log(`${cpus()[0]?.model ?? 'unknown processor'}, Node ${process.version}, one thread`);
  const most = await measure();
  const [fused, plain] = [await product(relaxedKernels), await product(plainKernels)];
  const share = (x: number): string => `${x.toFixed(1)} GFLOP/s, ${((100 * x) / most).toFixed(0)} %`;
  console.log(`registers alone, fused multiply-add   ${most.toFixed(1)} GFLOP/s`);
  console.log(`product 1024³, fused multiply-add     ${share(fused)}`);
  console.log(`product 1024³, multiply then add      ${share(plain)} (of the fused ceiling; two instructions for one)`);
}
