// npm run bench -- packed: what a process holds that trains LoRA on a packed base, one process per way of packing, beside what `account`
// predicts; then what a product with a packed matrix costs beside one with float32.
import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { columns } from '../core/columns.ts';
import type { Engine } from '../core/engine.ts';
import { rng } from '../core/rng.ts';
import { leaf, type Tensor } from '../core/tensor.ts';
import { weight } from '../nn/linear.ts';
import { schemes } from './packedSchemes.ts';
import { mb } from './resident.ts';

export interface Held {
  readonly scheme: string;
  readonly packed: number; // bytes of the frozen base on the host: codes, scales, tables, norms
  readonly account: number; // the same as `account` predicts it for the device
  readonly activations: number; // most bytes of intermediate values at once, outputs and next values, and inputs, as `account` predicts for this engine
  readonly trained: number; // adapters and the optimizer's moments, likewise, twice: where they start, and now (what they will be next is among the activations)
  readonly loaded: number; // resident before the first step
  readonly resident: number; // after the last, garbage collected
  readonly peak: number | null; // most resident during the steps, where the system counts it
  readonly scripts: string | null; // what ran as JavaScript
  readonly losses: readonly number[];
}

/** Resident memory may be this much larger than the packed base (beside what `account` predicts and the runtime itself). */
export const MOST = 1.3;
const SIZES = { full: { width: 1024, layers: 8 }, quick: { width: 512, layers: 4 } } as const;
const child = fileURLToPath(new URL('./packedChild.ts', import.meta.url));

/**
 * What neither V8 nor the C library gives back at once is no tensor's, and is there at one run and not at the next: V8's two spaces for young
 * objects (16 MB each), and what glibc keeps of freed blocks once it has raised its own thresholds (up to 64 MB). Both are kept small.
 */
const YOUNG = '--max-semi-space-size=1';
const FREED = { MALLOC_TRIM_THRESHOLD_: `${2 ** 17}`, MALLOC_MMAP_THRESHOLD_: `${2 ** 17}` }; // where glibc starts; once set, they stay

function held(scheme: string, width: number, layers: number, threads: number): Held {
  const r = spawnSync(process.execPath, [YOUNG, '--import', 'tsx', child, scheme, `${width}`, `${layers}`, `${threads}`], {
    encoding: 'utf8',
    env: { ...process.env, ...FREED },
  });
  if (r.status !== 0) throw new Error(`bench packed: ${scheme} ended with ${r.status ?? r.signal}: ${r.stderr.slice(-2000)}`);
  return JSON.parse(r.stdout) as Held; // our own program wrote it
}

export interface Memory {
  /** Bytes that the same program holds beside base and predictions when its model is tiny: Node, the engine, its compiled kernels. */
  readonly runtime: number;
  /** The same at the peak, garbage not yet collected included. */
  readonly runtimePeak: number | null;
  readonly rows: readonly Held[];
}
export function memory(names: readonly string[], quick: boolean, threads: number, say: (line: string) => void): Memory {
  const { width, layers } = SIZES[quick ? 'quick' : 'full'];
  const tiny = [0, 1, 2].map(() => held('f32', 64, layers, threads)); // the least of three, so that nothing of a base passes for runtime
  const least = (of: (h: Held) => number): number => Math.min(...tiny.map((h) => of(h) - h.packed - h.activations - h.trained));
  const runtime = least((h) => h.resident);
  const runtimePeak = tiny.some((h) => h.peak === null) ? null : least((h) => h.peak!);
  const rows = names.map((scheme) => {
    say(`${scheme} …`);
    return held(scheme, width, layers, threads);
  });
  return { runtime, runtimePeak, rows };
}
/** How many times the packed bytes are resident, when runtime and predictions are taken away. */
export const factor = (h: Pick<Held, 'packed' | 'activations' | 'trained' | 'resident'>, runtime: number, measured = h.resident): number =>
  (measured - runtime - h.activations - h.trained) / h.packed;

export const memoryTable = ({ runtime, runtimePeak, rows }: Memory): string =>
  `${columns(
    ['base', 'packed', 'account', 'activations', 'trained', 'resident', 'times packed', 'peak', 'times packed', 'loss'],
    rows.map((h) => [
      ...[h.scheme, mb(h.packed), mb(h.account), mb(h.activations), mb(h.trained)],
      ...[mb(h.resident), factor(h, runtime).toFixed(2)],
      ...(h.peak === null || runtimePeak === null ? ['not counted', ''] : [mb(h.peak), factor(h, runtimePeak, h.peak).toFixed(2)]),
      h.losses.at(-1)!.toFixed(4),
    ]),
  )}
resident: after the steps, garbage collected; peak: most during the steps, where Linux counts it, garbage included
runtime itself: ${mb(runtime)}${runtimePeak === null ? '' : `, at the peak ${mb(runtimePeak)}`} (what the same program around a tiny model holds beside its own base and predictions)
trained: adapters and moments as they start (on the host) and as they are (in the engine); what they will be next is among the activations
times packed = (resident − runtime − activations − trained) / packed; at most ${MOST} is allowed. Activations are what account predicts for this engine
${rows.every((h) => h.scripts === null) ? 'no kernel ran as JavaScript' : `ran as JavaScript: ${rows.map((h) => `${h.scheme}: ${h.scripts}`).join('; ')}`}`;

/** One product. */
export interface Product {
  readonly rows: number; // of x
  readonly backward: boolean; // dy·W instead of x·Wᵀ
  readonly ms: Readonly<Record<string, number>>; // least of all rounds, by scheme
}
/** x·Wᵀ and dy·W with W [n, n] packed every way, taken in turn, the least of `rounds`. */
export async function products(engine: Engine, quick: boolean): Promise<Product[]> {
  const [n, rounds] = quick ? [256, 5] : [1024, 15];
  const data = rng(1).normal(n * n, 0.02);
  const weights: [string, Tensor][] = Object.entries(schemes).map(([name, s]) => [
    name,
    (s === null ? weight(leaf(data, [n, n])) : s.pack(data, [n, n]))(),
  ]);
  const store = engine.store();
  const out: Product[] = [];
  for (const rows of [1, 16, 128, 512])
    for (const backward of [false, true]) {
      const x = leaf(rng(2).normal(rows * n), [rows, n]);
      const plans = await Promise.all(
        weights.map(
          async ([name, w]) =>
            [name, await engine.compile(store, { outputs: { y: x.matmul(backward ? w : w.T).slice(0, 0, 1) } })] as const,
        ),
      );
      const ms: Record<string, number> = {};
      for (let k = 0; k < rounds; k++)
        for (const [name, plan] of plans) {
          const started = performance.now();
          await plan.run();
          ms[name] = Math.min(ms[name] ?? Number.POSITIVE_INFINITY, performance.now() - started);
        }
      out.push({ rows, backward, ms });
    }
  store.close();
  return out;
}
export const productTable = (ps: readonly Product[]): string =>
  columns(
    ['product', 'rows', ...Object.keys(schemes)],
    ps.map((p) => [p.backward ? 'dy·W' : 'x·Wᵀ', `${p.rows}`, ...Object.keys(schemes).map((s) => p.ms[s]!.toFixed(2))]),
  );
