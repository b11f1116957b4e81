// Who takes part in npm run compare: ours, two JavaScript libraries in their best formulations, and PyTorch.
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Effort } from './measurement.ts';

export const ROOT = join(dirname(fileURLToPath(import.meta.url)), '..');
export const PEERS = join(ROOT, 'bench', 'peers');

export const works = ['W1', 'W2', 'W3', 'W2-last', 'W4h', 'W4'] as const;
export type CompareWork = (typeof works)[number];

export interface Command {
  readonly file: string;
  readonly args: readonly string[];
  readonly env: Readonly<Record<string, string>>;
}
export interface Contestant {
  readonly name: string;
  readonly side: 'ours' | 'javascript' | 'pytorch';
  readonly threads: number;
  /** Whether it takes part in a workload: all, or in --quick. */
  readonly takes: (work: CompareWork, quick: boolean) => boolean;
  /** Runs only when --only names it: needs hardware that may not be there. */
  readonly onRequest: boolean;
  readonly command: (work: CompareWork, effort: Effort) => Command;
}

const flags = (e: Effort): string[] => ['--steps', `${e.steps}`, '--warm', `${e.warm}`, '--seconds', `${e.seconds}`];
const oursCommand =
  (...own: readonly string[]): Contestant['command'] =>
  (work, e) => ({ file: process.execPath, args: ['--import', 'tsx', join(ROOT, 'bench', 'ours.ts'), work, ...own, ...flags(e)], env: {} });

/** Node 20 has iterator helpers, which jax-js uses, behind a flag. */
const iteratorHelpers = Number(process.versions.node.split('.')[0]) < 22 ? ['--harmony-iterator-helpers'] : [];

function jax(eager: boolean, threads: number): Contestant['command'] {
  const shim = threads > 1 ? ['--import', join(PEERS, 'threads.mjs')] : [];
  return (work, e) => ({
    file: process.execPath,
    args: [
      ...iteratorHelpers,
      ...shim,
      join(PEERS, 'jax.mjs'),
      work,
      ...(eager ? ['--eager'] : []),
      ...(work === 'W3' ? ['--onehot'] : []),
      ...flags(e),
    ],
    env: { THREADS: `${threads}` },
  });
}
const tfjs =
  (formulation: '--tuned' | '--hand' | null): Contestant['command'] =>
  (work, e) => ({
    file: process.execPath,
    args: [
      join(PEERS, 'tfjs.mjs'),
      work,
      ...(formulation === null ? [] : [formulation]),
      ...(work === 'W3' ? ['--onehot'] : []),
      ...flags(e),
    ],
    env: {},
  });
const torch =
  (python: string, ...own: readonly string[]): Contestant['command'] =>
  (work, e) => ({ file: python, args: [join(PEERS, 'torch_bench.py'), work, ...own, ...flags(e)], env: {} });

/** A peer has no W2-last: it is there to see what freezing saves us. */
const peer =
  (full: (w: CompareWork) => boolean, quick: readonly CompareWork[]): Contestant['takes'] =>
  (w, q) =>
    w !== 'W2-last' && full(w) && (!q || quick.includes(w));

/** Everybody, for these numbers of threads. */
export function contestants(threads: readonly number[], python: string): Contestant[] {
  const all = threads.flatMap((t): Omit<Contestant, 'threads' | 'onRequest'>[] => [
    {
      name: `ours-${t}t`,
      side: 'ours',
      takes: (w, q) => !q || t === 1 || (w !== 'W4' && w !== 'W2-last'),
      command: oursCommand('--threads', `${t}`),
    },
    {
      name: `ours-plain-${t}t`,
      side: 'ours',
      takes: (w, q) => w !== 'W2-last' && (!q || (t === 1 && w !== 'W4' && w !== 'W4h')),
      command: oursCommand('--plain', '--threads', `${t}`),
    },
    ...(t === 1
      ? ([
          { name: 'tfjs-hand-1t', side: 'javascript', takes: peer((w) => w !== 'W1', ['W2', 'W4h']), command: tfjs('--hand') },
          { name: 'tfjs-tuned-1t', side: 'javascript', takes: peer((w) => w !== 'W1', []), command: tfjs('--tuned') },
          { name: 'tfjs-1t', side: 'javascript', takes: peer(() => true, ['W1']), command: tfjs(null) },
        ] as const)
      : []),
    {
      name: `jax-eager-${t}t`,
      side: 'javascript',
      takes: peer(() => true, ['W1', 'W2']),
      command: jax(true, t),
    },
    {
      name: `jax-jit-${t}t`,
      side: 'javascript',
      takes: peer((w) => w !== 'W1', t === 1 ? ['W3'] : []),
      command: jax(false, t),
    },
    {
      name: `torch-${t}t`,
      side: 'pytorch',
      takes: peer(() => true, t === 1 ? works : ['W1', 'W2', 'W3']),
      command: torch(python, '--threads', `${t}`),
    },
  ]);
  const asked = (c: Pick<Contestant, 'name' | 'side' | 'command'>): Contestant => ({
    ...c,
    threads: 0, // a graphics card
    takes: (w) => c.side === 'ours' || w !== 'W2-last',
    onRequest: true,
  });
  return [
    ...all.map((c) => ({ ...c, threads: Number(/(\d+)t$/.exec(c.name)![1]), onRequest: false })),
    asked({ name: 'ours-webgpu', side: 'ours', command: oursCommand('--engine', 'gpujs', '--mode', 'webgpu') }),
    asked({ name: 'torch-cuda', side: 'pytorch', command: torch(python, '--device', 'cuda') }),
  ];
}

/** Those that --only picks: full names, or beginnings of names up to a dash. Throws on a name that picks nobody. */
export function chosen(all: readonly Contestant[], only: readonly string[]): Contestant[] {
  if (only.length === 0) return all.filter((c) => !c.onRequest);
  const is = (c: Contestant, name: string): boolean => c.name === name || c.name.startsWith(`${name}-`);
  for (const name of only)
    if (!all.some((c) => is(c, name)))
      throw new RangeError(
        `--only ${name}: there is no such contestant; choose among ${all.map((c) => c.name).join(', ')}, or a beginning such as ours`,
      );
  return all.filter((c) => only.some((name) => c.name === name || (is(c, name) && !c.onRequest)));
}
