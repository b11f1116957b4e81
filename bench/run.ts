// npm run bench: what single ops cost on an engine; npm run bench -- scaling: how a training step grows; npm run bench -- qlora: packed bases.
import { relative } from 'node:path';
import { pathToFileURL } from 'node:url';
import { parseArgs } from 'node:util';
import { Bench } from 'tinybench';
import { columns } from '../core/columns.ts';
import type { Engine } from '../core/engine.ts';
import { engines, modes, openEngine } from '../core/open.ts';
import { busy, described, type Machine, machine } from './machine.ts';
import { type Case, cases } from './ops.ts';
import { factor, MOST, memory, memoryTable, products, productTable } from './packed.ts';
import { schemes } from './packedSchemes.ts';
import { probe } from './probe.ts';
import { qloraRows, qloraTable, saveQlora } from './qlora.ts';
import { LINEAR, lines, scaling, scalingTable } from './scaling.ts';

export const help = `npm run bench -- [NAME …] [--engine simd] [--threads N] [--plain] [--quick] [--json]
npm run bench -- scaling [--engine simd] [--threads N] [--quick] [--json]
npm run bench -- packed [SCHEME …] [--threads N] [--quick] [--json]
npm run bench -- qlora [--quick] [--json] [--save]

  Times single ops at the sizes of a training step: a GPT-2 of width 256 over 8 × 128 tokens. NAME picks ops whose name
  contains it, such as matmul, softmax, attention.
  scaling times training steps against batch, length and depth; the exit code is 1 when cost does not grow in a straight
  line with batch and with depth, within ${100 * LINEAR} %.
  packed trains LoRA on frozen bases packed every way (${Object.keys(schemes).join(', ')}), one process each, and prints what was
  resident beside what account predicts; then times products with packed matrices on simd. The exit code is 1 when more is resident than
  ${MOST} times the packed bytes, beside the runtime itself and what account predicts (not with --quick).
  qlora trains adapters on one base packed in different ways: bytes, memory, time and loss of each (minutes; --quick: one minute).

  --engine NAME  of ${engines.join(', ')} (simd)
  --mode NAME    inside gpujs: ${modes.join(', ')}
  --threads N    of simd (as many as there are cores)
  --plain        simd without relaxed SIMD
  --quick        fewer and shorter measurements
  --json         for programs
  --save         qlora: also into bench/results/qlora.json and docs/qlora.md
  --help         this text`;

export interface Options {
  readonly scaling: boolean;
  readonly packed: boolean;
  readonly qlora: boolean;
  readonly save: boolean;
  readonly names: readonly string[];
  readonly engine: (typeof engines)[number];
  readonly mode: (typeof modes)[number] | undefined;
  readonly threads: number | undefined;
  readonly plain: boolean;
  readonly quick: boolean;
  readonly json: boolean;
  readonly help: boolean;
}

/** Options of a command line, or the sentence that says what is wrong with it. */
export function read(args: readonly string[]): Options | string {
  try {
    const { values, positionals } = parseArgs({
      args: [...args],
      allowPositionals: true,
      options: {
        engine: { type: 'string', default: 'simd' },
        mode: { type: 'string' },
        threads: { type: 'string' },
        plain: { type: 'boolean', default: false },
        quick: { type: 'boolean', default: false },
        json: { type: 'boolean', default: false },
        save: { type: 'boolean', default: false },
        help: { type: 'boolean', short: 'h', default: false },
      },
    });
    const mode = modes.find((m) => m === values.mode);
    if (values.mode !== undefined && mode === undefined)
      return `--mode ${values.mode}: there is no such mode; choose one of ${modes.join(', ')}`;
    const engine = engines.find((e) => e === (mode === undefined ? values.engine : 'gpujs'));
    if (engine === undefined) return `--engine ${values.engine}: there is no such engine; choose one of ${engines.join(', ')}`;
    const threads = values.threads === undefined ? undefined : Number(values.threads);
    if (threads !== undefined && !(Number.isInteger(threads) && threads >= 1 && threads <= 16))
      return `--threads ${values.threads}: expected a whole number from 1 to 16`;
    if (engine !== 'simd' && (threads !== undefined || values.plain))
      return `--threads and --plain are for the simd engine, not for ${engine}`;
    const asked = positionals.includes('scaling');
    const qlora = positionals.includes('qlora');
    const packed = positionals.includes('packed');
    const names = positionals.filter((p) => p !== 'scaling' && p !== 'qlora' && p !== 'packed');
    if (packed && (asked || qlora)) return 'packed runs alone; name only ways of packing beside it';
    if (packed && (engine !== 'simd' || values.plain))
      return 'packed measures the simd engine as it is; leave --engine, --mode and --plain out';
    if (qlora && (asked || names.length > 0)) return 'qlora runs alone; name nothing beside it';
    if (qlora && engine !== 'simd') return 'qlora runs on the simd engine';
    if (values.save && !qlora) return '--save is for qlora';
    if (asked && names.length > 0) return `scaling takes no names of ops, got ${names.join(', ')}`;
    const strange = packed ? names.find((n) => !(n in schemes)) : undefined;
    if (strange !== undefined) return `there is no way of packing '${strange}'; choose of ${Object.keys(schemes).join(', ')}`;
    const unknown = packed ? undefined : names.find((n) => !cases.some((c) => c.name.includes(n)));
    if (unknown !== undefined)
      return `there is no op '${unknown}'; choose parts of ${[...new Set(cases.map((c) => c.name.replace(', and backward', '')))].join(', ')}`;
    return {
      scaling: asked,
      packed,
      qlora,
      save: values.save,
      names,
      engine,
      mode,
      threads,
      plain: values.plain,
      quick: values.quick,
      json: values.json,
      help: values.help,
    };
  } catch (e) {
    return e instanceof Error ? e.message : String(e);
  }
}

async function open(o: Options): Promise<Engine> {
  if (o.engine !== 'simd') return openEngine({ engine: o.engine, mode: o.mode });
  const { simd } = await import('../core/engines/simd.ts');
  return simd({ relaxed: !o.plain, ...(o.threads === undefined ? {} : { threads: o.threads }) });
}

export interface Row {
  readonly name: string;
  readonly shape: string;
  readonly ms: number; // median
  readonly off: number; // relative margin of error of the mean, in percent
  readonly runs: number;
  readonly gflops: number; // GFLOP/s
  readonly gbytes: number; // GB/s, operands and results counted once per kernel
}

/** Times one op with tinybench. */
export async function timed(engine: Engine, c: Case, quick: boolean): Promise<Row> {
  const p = await probe(engine, c.make());
  try {
    const bench = new Bench(
      quick ? { time: 60, iterations: 3, warmupTime: 20, warmupIterations: 1 } : { time: 500, iterations: 10, warmupTime: 100 },
    );
    bench.add(c.name, async () => void (await p.run()), { async: true });
    await bench.run();
    const { result } = bench.tasks[0]!;
    if (result.state !== 'completed')
      throw result.state === 'errored' ? result.error : new Error(`${c.name}: tinybench says ${result.state}`);
    const { p50: ms, rme, samplesCount } = result.latency;
    return { name: c.name, shape: c.shape, ms, off: rme, runs: samplesCount, gflops: p.flops / ms / 1e6, gbytes: p.bytes / ms / 1e6 };
  } finally {
    p.close();
  }
}

export const opTable = (rows: readonly Row[]): string =>
  columns(
    ['op', 'shape', 'ms', '±', 'runs', 'GFLOP/s', 'GB/s'],
    rows.map((r) => [r.name, r.shape, r.ms.toFixed(3), `${r.off.toFixed(1)} %`, `${r.runs}`, r.gflops.toFixed(1), r.gbytes.toFixed(1)]),
  );

async function packed(o: Options, m: Machine, warning: string | null): Promise<number> {
  const say = (line: string): void => console.error(line);
  const size = o.quick ? 'quick' : 'full';
  const rows = await qloraRows(size, say);
  console.log(
    o.json
      ? JSON.stringify({ machine: m, rows }, null, 2)
      : `${described(m)}${warning === null ? '' : `\n${warning}`}\n\n${qloraTable(rows)}`,
  );
  if (o.save) for (const file of saveQlora(rows, m, size)) say(`written: ${relative(process.cwd(), file)}`);
  return 0;
}

async function main(): Promise<number> {
  const o = read(process.argv.slice(2));
  if (typeof o === 'string') {
    console.error(`bench: ${o}`);
    return 2;
  }
  if (o.help) {
    console.log(help);
    return 0;
  }
  const m = machine();
  const warning = busy(m);
  if (o.qlora) return packed(o, m, warning);
  await using engine = await open(o);
  const about = { machine: m, engine: engine.report };
  const say = (line: string): void => console.error(line);
  const head = `${described(m)}\nengine ${engine.report.engine}: ${engine.report.mode}${warning === null ? '' : `\n${warning}`}\n`;
  if (o.packed) {
    const held = memory(o.names.length === 0 ? Object.keys(schemes) : o.names, o.quick, o.threads ?? m.cores, say);
    const ps = await products(engine, o.quick);
    const times = `ms of a product with W [n, n] packed, the least of several, taken in turn${warning === null ? '' : ' (on a busy machine: see above)'}`;
    console.log(
      o.json
        ? JSON.stringify({ ...about, ...held, products: ps }, null, 2)
        : `${head}\n${memoryTable(held)}\n\n${times}\n${productTable(ps)}`,
    );
    return o.quick || held.rows.every((h) => factor(h, held.runtime) <= MOST) ? 0 : 1; // the quick base is too small beside Node's own ups and downs
  }
  if (o.scaling) {
    const points = await scaling(engine, o.quick, say);
    console.log(o.json ? JSON.stringify({ ...about, points, lines: lines(points) }, null, 2) : `${head}\n${scalingTable(points)}`);
    return lines(points).every(({ line }) => line.off <= LINEAR) ? 0 : 1;
  }
  const rows: Row[] = [];
  for (const c of cases.filter((c) => o.names.length === 0 || o.names.some((n) => c.name.includes(n)))) {
    rows.push(await timed(engine, c, o.quick));
    say(`${c.name} ${c.shape}`);
  }
  console.log(o.json ? JSON.stringify({ ...about, rows }, null, 2) : `${head}\n${opTable(rows)}`);
  return 0;
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) process.exitCode = await main();
