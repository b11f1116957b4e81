// A Python that has Hugging Face PEFT, if this machine has one: TINYPEFT_PYTHON names it, else python3 is tried.
import { spawnSync } from 'node:child_process';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const HERE = dirname(fileURLToPath(import.meta.url));
export function pythonWithPeft(): string | null {
  const python = process.env.TINYPEFT_PYTHON ?? 'python3';
  return spawnSync(python, ['-c', 'import peft, torch, transformers'], { stdio: 'ignore' }).status === 0 ? python : null;
}
/** Runs a script of this folder; its errors are shown. */
export function run(python: string, script: string, ...args: readonly string[]): void {
  const { status, stderr } = spawnSync(python, [join(HERE, script), ...args], { encoding: 'utf8', maxBuffer: 2 ** 26 });
  if (status !== 0) throw new Error(`${script} ${args.join(' ')}: exit ${status}\n${stderr.slice(-2000)}`);
}
