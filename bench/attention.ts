// Attention forward and backward on the simd engine: its own kernels against the composition (product, softmax, product, scores
// kept), turn by turn on one thread, the least of many runs.
//   npx tsx bench/attention.ts [--runs 40] [--plain]
import { parseArgs } from 'node:util';
import { setFlagsFromString } from 'node:v8';
import { account, short } from '../core/account.ts';
import { pullback } from '../core/grad.ts';
import { attention } from '../core/ops/fused.ts';
import { rng } from '../core/rng.ts';
import { type Opening, type Schedule, schedule } from '../core/schedule.ts';
import { within } from '../core/scope.ts';
import { type Shape, size } from '../core/shape.ts';
import { type Arena, arena } from '../core/simd/arena.ts';
import { assemble, placeTemporaries } from '../core/simd/assemble.ts';
import { plain, relaxed } from '../core/simd/binary.ts';
import { opening } from '../core/simd/native.ts';
import { SCRATCH } from '../core/simd/opcodes.ts';
import { input, type Tensor } from '../core/tensor.ts';

const { values } = parseArgs({ options: { runs: { type: 'string', default: '60' }, plain: { type: 'boolean', default: false } } });

interface Setting {
  readonly B: number;
  readonly H: number;
  readonly T: number;
  readonly S: number;
  readonly D: number;
  readonly causal: boolean;
}
// One sequence each, so that a run is short enough to fall between what else the machine does; and a batch, whose scores leave the cache.
const settings: readonly Setting[] = [
  { B: 1, H: 4, T: 128, S: 128, D: 64, causal: true }, // W2, W3
  { B: 1, H: 12, T: 128, S: 128, D: 32, causal: true }, // W4
  { B: 1, H: 4, T: 128, S: 128, D: 64, causal: false },
  { B: 1, H: 12, T: 128, S: 128, D: 32, causal: false },
  { B: 1, H: 4, T: 32, S: 32, D: 64, causal: true },
  { B: 1, H: 2, T: 12, S: 12, D: 16, causal: true },
  { B: 1, H: 2, T: 512, S: 512, D: 64, causal: true },
  { B: 1, H: 2, T: 512, S: 512, D: 64, causal: false },
  { B: 1, H: 1, T: 2048, S: 2048, D: 64, causal: true },
  { B: 1, H: 4, T: 1, S: 128, D: 64, causal: false },
  { B: 1, H: 12, T: 1, S: 512, D: 32, causal: false },
  { B: 1, H: 4, T: 8, S: 128, D: 64, causal: true },
  { B: 8, H: 4, T: 128, S: 128, D: 64, causal: false },
  { B: 8, H: 12, T: 128, S: 128, D: 32, causal: true },
];

/** q, k and v from one projection, as in a decoder's block; the result by time. */
function recipe({ B, H, T, S, D, causal }: Setting, back: boolean): Tensor[] {
  const head = (name: string, n: number): Tensor =>
    input(name, [B, n, H * D])
      .reshape(B, n, H, D)
      .permute(0, 2, 1, 3);
  const [q, k, v] = [head('q', T), head('k', S), head('v', S)];
  const y = attention(q, k, v, { causal })
    .permute(0, 2, 1, 3)
    .reshape(B, T, H * D);
  if (!back) return [y];
  const bases = [q, k, v].map((t) =>
    t.source.kind === 'apply' && t.source.ins[0]!.source.kind === 'apply' ? t.source.ins[0]!.source.ins[0]! : t,
  );
  return [y, ...within({ phase: 'backward' }, () => pullback(y, input('dy', y.shape), bases))];
}

const composed: Opening = (op, ins, attrs) => (op.name.startsWith('attention') ? null : opening(op, ins, attrs));

/** A program in the arena, ready to run. */
function place(s: Schedule, mem: Arena, put: (name: string, shape: Shape) => number): { from: number; to: number } {
  const owned = s.steps.map((st) => mem.alloc(size(st.node.shape) * 4).at);
  const placed = placeTemporaries(s);
  const a = assemble(s, placed, mem.alloc(placed.bytes).at);
  for (const { word, ref, offset } of a.patches)
    a.words[word] = offset + (ref.kind === 'step' ? owned[ref.index]! : put(s.inputs[ref.index]!.name, s.inputs[ref.index]!.shape));
  const code = mem.alloc(a.words.length * 4);
  mem.words(code).set(a.words);
  return { from: code.at, to: code.at + a.words.length * 4 };
}

setFlagsFromString('--experimental-wasm-relaxed-simd');
const bytes = Uint8Array.from(Buffer.from(values.plain ? plain : relaxed, 'base64'));
const runs = Number(values.runs);
console.log('  B  H    T    S  D  causal │ forward: composed   native  ratio │ both: composed   native  ratio │ kept for backward');
for (const setting of settings) {
  const memory = new WebAssembly.Memory({ initial: 1024, maximum: 65536, shared: true });
  const { instance } = await WebAssembly.instantiate(bytes, { env: { memory } });
  const run = instance.exports.run as (from: number, to: number, tid: number, threads: number, scratch: number, control: number) => void;
  const mem = arena(memory, 1024 + SCRATCH, 2 ** 32 - 65536);
  const known = new Map<string, number>();
  const put = (name: string, shape: Shape): number => {
    const at = known.get(name);
    if (at !== undefined) return at;
    const block = mem.alloc(size(shape) * 4);
    mem.floats(block, size(shape)).set(rng(known.size).normal(size(shape)));
    known.set(name, block.at);
    return block.at;
  };
  const best = [false, true].map((back) => {
    const programs = [composed, opening].map((o) => place(schedule(recipe(setting, back), o), mem, put));
    const least = programs.map(() => Number.POSITIVE_INFINITY);
    for (let n = 0; n < runs; n++)
      for (const [k, { from, to }] of programs.entries()) {
        const began = performance.now();
        run(from, to, 0, 1, 1024, 64);
        least[k] = Math.min(least[k]!, performance.now() - began);
      }
    return least as [number, number];
  });
  const kept = [composed, opening].map((o) => short(account(recipe(setting, true), { opening: o }).total.saved, 'B'));
  const { B, H, T, S, D, causal } = setting;
  const cell = ([a, b]: [number, number]): string =>
    `${a.toFixed(3).padStart(9)} ${b.toFixed(3).padStart(8)} ${(a / b).toFixed(2).padStart(6)}`;
  console.log(
    `${[B, H].map((n) => String(n).padStart(3)).join('')} ${[T, S].map((n) => String(n).padStart(4)).join(' ')} ${String(D).padStart(2)} ${String(causal).padStart(7)} │ ${cell(best[0]!).padStart(34)} │ ${cell(best[1]!).padStart(31)} │ ${kept.join(' → ')}`,
  );
}
