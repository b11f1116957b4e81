// What one core can do at most with WebAssembly SIMD: multiply-adds in registers, by one instruction or two. The measure for products.   npx tsx bench/ceiling.ts
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { cpus, tmpdir } from 'node:os';
import { join } from 'node:path';
import { setFlagsFromString } from 'node:v8';
import asc from 'assemblyscript/asc';
import { plain as plainKernels, relaxed as relaxedKernels } from '../core/simd/binary.ts';
import { SCRATCH } from '../core/simd/opcodes.ts';

const SUMS = 12; // independent ones hide the latency of an addition; as many as a tile of the matmul has
const each = (n: number, f: (k: number) => string): string => Array.from({ length: n }, (_, k) => f(k)).join(' ');
const sum = (n: number, of: string): string => each(n, (k) => `+ f32x4.extract_lane(${of}${k}, 0)`);

/** A loop of nothing but arithmetic, and how many multiply-adds of four numbers one turn of it does. */
interface Loop {
  readonly body: string;
  readonly each: number;
}
/** One instruction for both: sums in registers, operands that never change. */
const fused: Loop = {
  each: SUMS,
  body: `const a = f32x4.splat(1.0001), b = f32x4.splat(0.9999);
  ${each(SUMS, (k) => `let c${k} = f32x4.splat(${k});`)}
  for (let i = 0; i < n; i++) { ${each(SUMS, (k) => `c${k} = f32x4.relaxed_madd(a, b, c${k});`)} }
  return 0 ${sum(SUMS, 'c')};`,
};
/** Two instructions: k products that each go on, and k sums that each take one. Constant operands would leave nothing to multiply. */
const chains = (k: number): Loop => ({
  each: k,
  body: `const a = f32x4.splat(0.9999999);
  ${each(k, (j) => `let c${j} = f32x4.splat(${j}), x${j} = f32x4.splat(1.0${j});`)}
  for (let i = 0; i < n; i++) { ${each(k, (j) => `x${j} = f32x4.mul(x${j}, a); c${j} = f32x4.add(c${j}, x${j});`)} }
  return 0 ${sum(k, 'c')};`,
});
/** Two instructions, as a product needs them: rows × 2 sums, a row of B and one element of A from the first-level cache. */
const tile = (rows: number, turns = 64): Loop => ({
  each: rows * 2 * turns,
  body: `${each(rows * 2, (k) => `let c${k} = f32x4.splat(0);`)}
  for (let i = 0; i < n; i++) for (let a: usize = 1024, b: usize = 8192; a < ${1024 + turns * rows * 4}; a += ${rows * 4}, b += 32) {
    const b0 = v128.load(b), b1 = v128.load(b, 16);
    ${each(rows, (r) => `const x${r} = v128.load_splat<f32>(a, ${4 * r}); c${2 * r} = f32x4.add(f32x4.mul(x${r}, b0), c${2 * r}); c${2 * r + 1} = f32x4.add(f32x4.mul(x${r}, b1), c${2 * r + 1});`)}
  }
  return 0 ${sum(rows * 2, 'c')};`,
});

/** GFLOP/s: the best of several runs of the best loop. */
async function measure(loops: readonly Loop[]): Promise<number> {
  let most = 0;
  for (const loop of loops) most = Math.max(most, await rate(loop));
  return most;
}
async function rate(loop: Loop): Promise<number> {
  const folder = await mkdtemp(join(tmpdir(), 'tinypeft-'));
  try {
    const [from, to] = [join(folder, 'peak.ts'), join(folder, 'peak.wasm')];
    await writeFile(from, `export function run(n: i32): f32 {\n${loop.body}\n}`);
    const flags = ['-O3', '--noAssert', '--runtime', 'stub', '--initialMemory', '1', '--enable', 'simd', '--enable', 'relaxed-simd'];
    const { error, stderr } = await asc.main([from, '-o', to, ...flags]);
    if (error !== null) throw new Error(`asc: ${error.message}\n${stderr.toString()}`);
    const { instance } = await WebAssembly.instantiate(await readFile(to));
    const run = instance.exports.run as (n: number) => number;
    const n = Math.round(4e7 / loop.each);
    let best = Number.POSITIVE_INFINITY;
    for (let k = 0; k < 16; k++) {
      const began = performance.now();
      run(n);
      best = Math.min(best, performance.now() - began);
    }
    return (n * loop.each * 4 * 2) / best / 1e6;
  } finally {
    await rm(folder, { recursive: true });
  }
}

/** GFLOP/s of the engine's own product of 1024 × 1024 on one thread, straight through its module, either operand transposed or not. */
async function product(binary: string, left: boolean, right: boolean): Promise<number> {
  const memory = new WebAssembly.Memory({ initial: 1024, maximum: 65536, shared: true });
  const { instance } = await WebAssembly.instantiate(Uint8Array.from(Buffer.from(binary, 'base64')), { env: { memory } });
  const run = instance.exports.run as (...words: number[]) => void;
  const N = 1024;
  const base = 1024 + SCRATCH;
  const [a, b, c, code] = [base, base + 4 * N * N, base + 8 * N * N, base + 12 * N * N];
  new Float32Array(memory.buffer, a, 2 * N * N).fill(0.5);
  const strides = (transposed: boolean): number[] => (transposed ? [1, N] : [N, 1]);
  const words = [2, 15, c, a, b, 1, N, N, N, ...strides(left), ...strides(right), 0, 0]; // MATMUL, words, …: see assembly/matmul.ts
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
  console.log(
    'npx tsx bench/ceiling.ts\n\nGFLOP/s of one core on arithmetic alone, and of the engine’s 1024³ product in every combination of transposes.',
  );
else {
  setFlagsFromString('--experimental-wasm-relaxed-simd');
  console.log(`${cpus()[0]?.model ?? 'unknown processor'}, Node ${process.version}, one thread, GFLOP/s (share of the ceiling)\n`);
  console.log('                        ceiling       A·B          Aᵀ·B          A·Bᵀ         Aᵀ·Bᵀ');
  const kinds = [
    ['fused multiply-add', relaxedKernels, [fused]],
    ['multiply, then add', plainKernels, [chains(5), chains(6), chains(7), tile(4), tile(5), tile(6)]],
  ] as const;
  for (const [name, kernels, loops] of kinds) {
    const most = await measure(loops);
    const row = [];
    for (const [left, right] of [
      [false, false],
      [true, false],
      [false, true],
      [true, true],
    ] as const) {
      const speed = await product(kernels, left, right);
      row.push(`${speed.toFixed(1)} (${((100 * speed) / most).toFixed(0)} %)`);
    }
    console.log(`${name}   ${most.toFixed(1).padStart(10)}   ${row.map((r) => r.padStart(11)).join('   ')}`);
  }
}
