// Where a training step's time goes on the simd engine: every kernel timed alone (one thread, the least of several runs).
//   npx tsx bench/profile.ts W2 [--runs 7]
import { parseArgs } from 'node:util';
import { setFlagsFromString } from 'node:v8';
import { grad } from '../core/grad.ts';
import { type Schedule, schedule } from '../core/schedule.ts';
import { size } from '../core/shape.ts';
import { arena } from '../core/simd/arena.ts';
import { assemble, placeTemporaries } from '../core/simd/assemble.ts';
import { plain, relaxed } from '../core/simd/binary.ts';
import { encode } from '../core/simd/encode.ts';
import { opening } from '../core/simd/native.ts';
import { SCRATCH } from '../core/simd/opcodes.ts';
import { input, stateOf, type Tensor } from '../core/tensor.ts';
import { context } from '../nn/context.ts';
import { nextToken } from '../nn/losses.ts';
import { trainable } from '../nn/tree.ts';
import { batch, model, type Work, workloads } from './workloads.ts';

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    runs: { type: 'string', default: '7' },
    plain: { type: 'boolean', default: false },
    help: { type: 'boolean', default: false },
  },
});

interface Row {
  readonly name: string;
  readonly phase: string;
  readonly path: string;
  readonly flops: number;
  readonly ms: number;
}

/** Loss and gradients of a workload, without the optimizer. */
function program(work: Work): { s: Schedule; feed: Readonly<Record<string, ArrayLike<number>>> } {
  const m = model(work);
  const b = batch(work);
  const ids = input('ids', b.ids.shape);
  const loss = nextToken(m, { ids, targets: input('targets', b.targets.shape) }, context(workloads[work].sizes.T));
  const roots: Tensor[] = [loss, ...grad(loss, [...trainable(m).keys()].map(stateOf))];
  return { s: schedule(roots, opening), feed: { ids: b.ids.data, targets: b.targets.data } };
}

export async function profile(work: Work, runs: number, fused = true): Promise<Row[]> {
  const { s, feed } = program(work);
  setFlagsFromString('--experimental-wasm-relaxed-simd');
  const memory = new WebAssembly.Memory({ initial: 1024, maximum: 65536, shared: true });
  const bytes = Uint8Array.from(Buffer.from(fused ? relaxed : plain, 'base64'));
  const { instance } = await WebAssembly.instantiate(bytes, { env: { memory } });
  const run = instance.exports.run as (from: number, to: number, tid: number, threads: number, scratch: number, control: number) => void;
  const mem = arena(memory, 1024 + SCRATCH, 2 ** 32 - 65536);
  const put = (data: ArrayLike<number>): number => {
    const block = mem.alloc(data.length * 4);
    mem.floats(block, data.length).set(data);
    return block.at;
  };
  const outside = {
    leaf: s.leaves.map((l) => put(l.data)),
    state: s.states.map((p) => put(p.value)),
    input: s.inputs.map((i) => put(feed[i.name]!)),
  };
  const owned = s.steps.map((st) => mem.alloc(size(st.node.shape) * 4).at); // simple: the gradients too get a place each
  const a = assemble(s, placeTemporaries(s), mem.alloc(placeTemporaries(s).bytes).at);
  for (const { word, ref, offset } of a.patches)
    a.words[word] = offset + (ref.kind === 'step' ? owned[ref.index]! : outside[ref.kind][ref.index]!);
  const code = mem.alloc(a.words.length * 4);
  mem.words(code).set(a.words);
  const best = s.steps.map(() => Number.POSITIVE_INFINITY);
  for (let k = 0; k < runs; k++) {
    let at = code.at;
    for (const [i, st] of s.steps.entries()) {
      const words = a.aliases.has(i) ? 0 : (encode(st)?.reduce((n, w) => n + w.length, 0) ?? 0);
      const began = performance.now();
      run(at, at + words * 4, 0, 1, 1024, 64);
      best[i] = Math.min(best[i]!, performance.now() - began);
      at += words * 4;
    }
  }
  return s.steps.map((st, i) => ({
    name: st.kernel.name,
    phase: st.kernel.at.phase,
    path: st.kernel.at.path,
    flops: st.kernel.flops,
    ms: encode(st) === null ? 0 : best[i]!,
  }));
}

/** Rows summed by a key, the dearest first. */
function by(rows: readonly Row[], key: (r: Row) => string): string {
  const sums = new Map<string, { ms: number; flops: number; n: number }>();
  for (const r of rows) {
    const s = sums.get(key(r)) ?? { ms: 0, flops: 0, n: 0 };
    sums.set(key(r), { ms: s.ms + r.ms, flops: s.flops + r.flops, n: s.n + 1 });
  }
  const total = rows.reduce((n, r) => n + r.ms, 0);
  return [...sums]
    .sort((x, y) => y[1].ms - x[1].ms)
    .slice(0, 16)
    .map(
      ([k, v]) =>
        `${k.padEnd(44).slice(0, 44)} ${String(v.n).padStart(4)} ${v.ms.toFixed(2).padStart(9)} ms ${((100 * v.ms) / total).toFixed(1).padStart(5)} % ${(v.flops / v.ms / 1e6).toFixed(1).padStart(6)} GFLOP/s`,
    )
    .join('\n');
}

if (values.help)
  console.log(
    'npx tsx bench/profile.ts W2|W3|W4|W4h [--runs 7] [--plain]\n\nTimes every kernel of a training step (without the optimizer) alone on one thread.',
  );
else {
  const work = (positionals[0] ?? 'W2') as Work;
  if (!(work in workloads))
    throw new RangeError(`profile: there is no workload '${work}'; choose one of ${Object.keys(workloads).join(', ')}`);
  const rows = await profile(work, Number(values.runs), !values.plain);
  const total = rows.reduce((n, r) => n + r.ms, 0);
  const kind = (r: Row): string => (r.name === 'matmul' ? `matmul${/attend/.test(r.path) ? ' in attention' : ''}` : r.name);
  console.log(
    `${work}: ${rows.length} kernels, ${total.toFixed(1)} ms, ${(rows.reduce((n, r) => n + r.flops, 0) / total / 1e6).toFixed(1)} GFLOP/s\n\nby kernel\n${by(rows, kind)}\n\nby phase\n${by(rows, (r) => r.phase)}`,
  );
}
