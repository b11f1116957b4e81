// Starts the programs that measure, one at a time, each in a process of its own, and reads what they print.
import { spawn, spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { type Command, PEERS, ROOT } from './contestants.ts';
import type { Measurement } from './measurement.ts';

/** What one child answered, or why it did not. */
export type Answer = { readonly measurements: readonly Measurement[] } | { readonly error: string };

/** Variables that choose another BLAS kernel than the machine's own: peers are measured without them. */
const DISTORTING = ['OPENBLAS_CORETYPE', 'OPENBLAS_L2_SIZE', 'OMP_NUM_THREADS', 'MKL_NUM_THREADS', 'OPENBLAS_NUM_THREADS'];

export function measure({ file, args, env }: Command, limitMs: number): Promise<Answer> {
  const own = { ...process.env, ...env };
  for (const name of DISTORTING) delete own[name];
  return new Promise((done) => {
    const child = spawn(file, args, { cwd: ROOT, env: own, stdio: ['ignore', 'pipe', 'pipe'] });
    const out: string[] = [];
    const err: string[] = [];
    const state = { late: false };
    const timer = setTimeout(() => {
      state.late = true;
      child.kill('SIGKILL');
    }, limitMs);
    child.stdout.on('data', (d: Buffer) => out.push(d.toString()));
    child.stderr.on('data', (d: Buffer) => err.push(d.toString()));
    child.on('error', (e) => {
      clearTimeout(timer);
      done({ error: e.message });
    });
    child.on('close', (code, signal) => {
      clearTimeout(timer);
      const measurements = parse(out.join(''));
      if (state.late) done({ error: `took more than ${(limitMs / 1000).toFixed(0)} s` });
      else if (code !== 0 || measurements.length === 0) done({ error: reason(err.join(''), code, signal) });
      else done({ measurements });
    });
  });
}

/** Lines of JSON among whatever else a library prints. */
export const parse = (out: string): Measurement[] =>
  out.split('\n').flatMap((l) => (l.startsWith('{"') ? [JSON.parse(l) as Measurement] : [])); // our own programs wrote it

/** The line that says what went wrong, out of a stack trace. */
export function reason(err: string, code: number | null, signal: string | null): string {
  const lines = err.split('\n').map((l) => l.trim());
  const said =
    lines.find((l) => /^(\w*Error|RuntimeError|ModuleNotFoundError)\b/.test(l)) ??
    lines.findLast((l) => l !== '' && !l.startsWith('Node.js v'));
  return (said ?? `ended with ${signal ?? `code ${code}`}`).slice(0, 160);
}

/** Installs tfjs and jax-js into bench/peers when they are not there; answers what to say when that fails. */
export function installPeers(say: (line: string) => void): string | null {
  if (existsSync(join(PEERS, 'node_modules', '@jax-js', 'jax')) && existsSync(join(PEERS, 'node_modules', '@tensorflow', 'tfjs')))
    return null;
  say('Installing tfjs and jax-js into bench/peers/node_modules (once, about 310 MB; the library itself needs none of it) …');
  const npm = process.platform === 'win32' ? 'npm.cmd' : 'npm';
  const r = spawnSync(npm, ['ci', '--ignore-scripts', '--omit=optional', '--no-audit', '--no-fund'], {
    cwd: PEERS,
    encoding: 'utf8',
    shell: process.platform === 'win32',
  });
  if (r.status === 0) return null;
  return `the peers could not be installed: ${reason(r.stderr ?? '', r.status, r.signal)}. Run npm ci --ignore-scripts --omit=optional in bench/peers, or leave them out with --only ours,torch`;
}

/** Whether this Python has PyTorch. */
export const hasTorch = (python: string): boolean =>
  spawnSync(python, ['-c', 'import importlib.util as u, sys; sys.exit(u.find_spec("torch") is None)'], { stdio: 'ignore' }).status === 0;
