// The command `tinypeft` as a user runs it: a child process, its exit code and what it said; and texts for it to learn from.
import { type ChildProcess, spawn } from 'node:child_process';
import { copyFile, mkdir, mkdtemp, readFile, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { vi } from 'vitest';

const at = (path: string): string => fileURLToPath(new URL(`../../${path}`, import.meta.url));
const PROGRAM = at('cli/tinypeft.mjs');
/** A LLaMA of two layers with a tokenizer. */
export const SMOLLM = at('test/oracle/fixtures/checkpoints/smollm');

export interface Ended {
  readonly code: number | null;
  readonly out: string;
  readonly err: string;
}
/** Runs it in a folder; `meanwhile` hears what it says on stderr, as it comes. */
export function tinypeft(
  cwd: string,
  args: readonly string[],
  meanwhile: (err: string, child: ChildProcess) => void = () => {},
  { unread = false } = {},
): Promise<Ended> {
  return new Promise((done) => {
    const child = spawn(process.execPath, [PROGRAM, ...args], { cwd, env: { ...process.env, TINYPEFT_ENGINE: 'float64' } });
    const said = { out: '', err: '' };
    if (unread) child.stdout.destroy();
    child.stdout.on('data', (d: Buffer) => {
      said.out += d.toString();
    });
    child.stderr.on('data', (d: Buffer) => {
      said.err += d.toString();
      meanwhile(said.err, child);
    });
    child.on('close', (code) => done({ code, ...said }));
  });
}

const COLOURS = ['red', 'green', 'blue', 'black'];
const lines = (values: readonly unknown[]): string => `${values.map((v) => JSON.stringify(v)).join('\n')}\n`;
/** A fresh folder with texts of every kind, a model with a chat template (`chatty`) and one without (`model`). */
export async function workplace(): Promise<string> {
  const root = await mkdtemp(join(tmpdir(), 'tinypeft-command-'));
  const n = Array.from({ length: 12 }, (_, k) => k);
  const texts: Readonly<Record<string, string>> = {
    'pairs.jsonl': lines(n.map((k) => ({ prompt: `${k} is `, completion: COLOURS[k % 4] }))),
    'labels.csv': `text,label\n${n.map((k) => (k % 2 === 0 ? `"a good day, ${k}",yes` : `"a bad night, ${k}",no`)).join('\n')}\n`,
    'prose.txt': n.map((k) => `The cat number ${k} sat on the mat.`).join(' '),
    'chat.jsonl': lines(
      n.map((k) => ({
        messages: [
          { role: 'user', content: `say ${k}` },
          { role: 'assistant', content: COLOURS[k % 4] },
        ],
      })),
    ),
  };
  for (const [name, text] of Object.entries(texts)) await writeFile(join(root, name), text);
  for (const folder of ['model', 'chatty']) {
    await mkdir(join(root, folder));
    for (const f of ['config.json', 'model.safetensors', 'tokenizer.json', 'tokenizer_config.json'])
      await copyFile(join(SMOLLM, f), join(root, folder, f));
  }
  const template =
    '{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}';
  const settings = JSON.parse(await readFile(join(SMOLLM, 'tokenizer_config.json'), 'utf8')) as object;
  await writeFile(join(root, 'chatty', 'tokenizer_config.json'), JSON.stringify({ ...settings, chat_template: template }));
  return root;
}

/** The JSON object on the last line. */
export const lastLine = (out: string): Readonly<Record<string, unknown>> =>
  JSON.parse(out.trim().split('\n').at(-1)!) as Readonly<Record<string, unknown>>;

type Command = (args: readonly string[]) => Promise<void>;
/** A command inside this process, which is quicker: what it said. One at a time, for it listens to the console. */
export async function said(command: Command, args: readonly string[]): Promise<{ readonly out: string; readonly err: string }> {
  const [out, err]: [string[], string[]] = [[], []];
  const spies = [
    vi.spyOn(console, 'log').mockImplementation((line: string) => void out.push(line)),
    vi.spyOn(console, 'error').mockImplementation((line: string) => void err.push(line)),
    vi.spyOn(process.stderr, 'write').mockImplementation(() => true), // the progress bar
    vi.spyOn(process.stdout, 'write').mockImplementation(() => true), // tokens as they come
  ];
  try {
    await command(args);
  } finally {
    for (const s of spies) s.mockRestore();
  }
  return { out: out.join('\n'), err: err.join('\n') };
}
/** The same on engine float64. */
export const called: typeof said = (command, args) => said(command, [...args, '--engine', 'float64']);
