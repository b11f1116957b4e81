// What the peers' programs share: sizes, weights and tokens (equal to bench/workloads.ts, number for number), and the clock.
import { parseArgs } from 'node:util';

const small = { V: 512, d: 256, L: 4, H: 4, F: 1024, T: 128, B: 8 };
const mini = { V: 2048, d: 384, L: 6, H: 12, F: 1536, T: 128, B: 16 };
export const workloads = {
  W2: { sizes: small, mode: 'lora' },
  W3: { sizes: small, mode: 'full' },
  W4: { sizes: mini, mode: 'lora' },
  W4h: { sizes: { ...mini, B: 8 }, mode: 'lora' },
};
export const rank = 8;
export const alpha = 16;
export const rate = { lora: 1e-2, full: 1e-3 };
export const adam = { b1: 0.9, b2: 0.999, eps: 1e-8, decay: 0.01 };
export const eps = 1e-5; // of the layer norms

/** A whole number below 2³² from two others, alike in every language. */
export function hash(i, seed) {
  const mixed = (Math.imul(i, 0x9e3779b1) + Math.imul(seed, 0x85ebca77)) >>> 0;
  const once = Math.imul(mixed ^ (mixed >>> 16), 0x7feb352d) >>> 0;
  const twice = Math.imul(once ^ (once >>> 15), 0x846ca68b) >>> 0;
  return (twice ^ (twice >>> 16)) >>> 0;
}
/** n numbers, uniform with standard deviation 0.02 around `offset`. */
export const numbers = (n, seed, offset = 0) => Float32Array.from({ length: n }, (_, i) => offset + (hash(i, seed) / 2 ** 32 - 0.5) * 0.0692);

/** Every tensor of the model by name, in the order that numbers the seeds. Matrices are [in, out]; LoRA's A [r, in], B [out, r]. */
export function weights({ V, d, L, F, T }, mode) {
  const blocks = Array.from({ length: L }, (_, l) => l);
  const list = [
    ['words', [V, d]],
    ['positions', [T, d]],
    ...blocks.flatMap((l) => [
      [`${l}.norm1.g`, [d], 1],
      [`${l}.norm1.b`, [d]],
      [`${l}.qkv.w`, [d, 3 * d]],
      [`${l}.qkv.b`, [3 * d]],
      [`${l}.o.w`, [d, d]],
      [`${l}.o.b`, [d]],
      [`${l}.norm2.g`, [d], 1],
      [`${l}.norm2.b`, [d]],
      [`${l}.up.w`, [d, F]],
      [`${l}.up.b`, [F]],
      [`${l}.down.w`, [F, d]],
      [`${l}.down.b`, [d]],
    ]),
    ['norm.g', [d], 1],
    ['norm.b', [d]],
    ...(mode === 'lora'
      ? blocks.flatMap((l) => [
          [`${l}.lora.A`, [rank, d]],
          [`${l}.lora.B`, [3 * d, rank]],
        ])
      : []),
  ];
  return list.map(([name, shape, offset = 0], k) => ({
    name,
    shape,
    trained: mode === 'full' || name.includes('lora'),
    data: numbers(
      shape.reduce((a, b) => a * b, 1),
      k + 1,
      offset,
    ),
  }));
}

/** The tokens of every step, and the token after each. */
export function tokens({ V, T, B }) {
  const at = (shift) => Int32Array.from({ length: B * T }, (_, i) => hash(Math.floor(i / T) * (T + 1) + (i % T) + shift, 7777) % V);
  return { ids: at(0), targets: at(1) };
}

/** Flags of a peer's program: the workload, how long to measure, and the formulation. */
export function flags(own = {}) {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      steps: { type: 'string', default: '6' },
      warm: { type: 'string', default: '2' },
      seconds: { type: 'string', default: '20' },
      ...own,
    },
  });
  const work = positionals[0] ?? 'W2';
  if (work !== 'W1' && !(work in workloads)) throw new RangeError(`there is no workload '${work}'; choose one of W1, ${Object.keys(workloads).join(', ')}`);
  return { ...values, work, effort: { steps: Number(values.steps), warm: Number(values.warm), seconds: Number(values.seconds) } };
}
export const emit = (m) => console.log(JSON.stringify({ ...m, peak: process.resourceUsage().maxRSS / 1024 }));

/** Times `step`, which answers its loss; the same clock as ours (bench/measurement.ts). */
export async function timeSteps(step, { steps, warm, seconds }) {
  const losses = [];
  const ms = [];
  const began = performance.now();
  let first = 0;
  for (let i = 0; ms.length < steps; i++) {
    const t = performance.now();
    losses.push(await step(i));
    const took = performance.now() - t;
    const spent = (performance.now() - began) / 1000;
    if (i === 0) first = took;
    else if (i >= warm || spent > seconds / 2) ms.push(took);
    if (spent > seconds && ms.length >= 2) break;
  }
  return { ms, first, losses: losses.slice(0, 8) };
}

/** Times one product for each size; `prepare(n, a, b)` answers { run, read }. */
export async function timeProducts(prepare, { steps }, note) {
  for (const n of [512, 1024]) {
    const { run, read } = await prepare(n, numbers(n * n, 1), numbers(n * n, 2));
    const once = async () => {
      const t = performance.now();
      await run();
      return performance.now() - t;
    };
    const first = await once();
    for (const began = performance.now(); performance.now() - began < 300; ) await once();
    const ms = [];
    for (let k = 0; k < 5 * steps; k++) ms.push(await once());
    emit({ ms, first, case: `${n} nn`, check: (await read())[3 * n + 5], note });
  }
}
