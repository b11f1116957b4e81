// A Python that has the reference libraries, if this machine has one: TINYPEFT_PYTHON names it, else python3 is tried.
import { spawn, spawnSync } from 'node:child_process';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const HERE = dirname(fileURLToPath(import.meta.url));
/** The Python, when it has all these packages. */
export function pythonWith(...packages: readonly string[]): string | null {
  const python = process.env.TINYPEFT_PYTHON ?? 'python3';
  return spawnSync(python, ['-c', `import ${packages.join(', ')}`], { stdio: 'ignore' }).status === 0 ? python : null;
}
export const pythonWithPeft = (): string | null => pythonWith('peft', 'torch', 'transformers');
/** Runs a script of this folder; its errors are shown. */
export function run(python: string, script: string, ...args: readonly string[]): void {
  const { status, stderr } = spawnSync(python, [join(HERE, script), ...args], { encoding: 'utf8', maxBuffer: 2 ** 26 });
  if (status !== 0) throw new Error(`${script} ${args.join(' ')}: exit ${status}\n${stderr.slice(-2000)}`);
}

/** Runs a script that reads a line of JSON for each question and answers with lines of JSON. This process goes on meanwhile. */
export async function ask(
  python: string,
  script: string,
  questions: readonly object[],
  env: Readonly<Record<string, string>> = {},
): Promise<unknown[]> {
  const child = spawn(python, [join(HERE, script)], { env: { ...process.env, ...env } });
  const [out, err]: [string[], string[]] = [[], []];
  child.stdout.on('data', (d: Buffer) => out.push(d.toString()));
  child.stderr.on('data', (d: Buffer) => err.push(d.toString()));
  const ended = new Promise<number | null>((done, fail) => {
    child.on('error', fail);
    child.on('close', done);
  });
  child.stdin.end(questions.map((q) => `${JSON.stringify(q)}\n`).join(''));
  const status = await ended;
  if (status !== 0) throw new Error(`${script}: exit ${status}\n${err.join('').slice(-2000)}`);
  const lines = out.join('').trim().split('\n');
  return lines.map((l) => JSON.parse(l) as unknown);
}
