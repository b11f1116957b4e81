// npm run bench -- qlora: what each way of packing a frozen base costs in bytes, time and loss, one run, every way in a process of its own.
import { spawn } from 'node:child_process';
import { mkdirSync, writeFileSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { short } from '../core/account.ts';
import { columns } from '../core/columns.ts';
import { reason } from './children.ts';
import { ROOT } from './contestants.ts';
import { busy, described, type Machine } from './machine.ts';
import { type QloraRow, type SizeName, sizes, type VariantName, variants } from './qloraWork.ts';

/** Runs bench/qloraChild.ts; answers what it printed. */
function child(args: readonly string[], say: (line: string) => void): Promise<string> {
  return new Promise((done, fail) => {
    const c = spawn(process.execPath, ['--import', 'tsx', join(ROOT, 'bench', 'qloraChild.ts'), ...args], {
      cwd: ROOT,
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    const out: string[] = [];
    const err: string[] = [];
    c.stdout.on('data', (d: Buffer) => out.push(d.toString()));
    c.stderr.on('data', (d: Buffer) => {
      err.push(d.toString());
      if (args[0] === 'pretrain') say(d.toString().trimEnd());
    });
    c.on('error', fail);
    c.on('close', (code, signal) => {
      if (code === 0) done(out.join(''));
      else fail(new Error(`bench qlora: ${args[0]}: ${reason(err.join(''), code, signal)}`));
    });
  });
}

/** Pretrains one base, then tunes every variant of it, one after the other. Throws when one of them fails. */
export async function qloraRows(size: SizeName, say: (line: string) => void): Promise<QloraRow[]> {
  const folder = await mkdtemp(join(tmpdir(), 'tinypeft-qlora-'));
  try {
    const file = join(folder, 'base.safetensors');
    say(`pretraining a base of width ${sizes[size].width} …`);
    await child(['pretrain', file, size], say);
    const rows: QloraRow[] = [];
    for (const name of Object.keys(variants) as VariantName[]) {
      const line = (await child([name, file, size], say)).split('\n').find((l) => l.startsWith('{"'));
      if (line === undefined) throw new Error(`bench qlora: ${name} printed no result`);
      const row = JSON.parse(line) as QloraRow; // our own program wrote it
      rows.push(row);
      say(`${variants[name].title}: ${row.ms.toFixed(1)} ms a step, held-out loss ${row.after.toFixed(4)}`);
    }
    return rows;
  } finally {
    await rm(folder, { recursive: true });
  }
}

const HEAD = ['base', 'bits per weight', 'frozen bytes', 'trained', 'peak resident', 'ms/step', 'loss before', 'loss after'];
const cells = (r: QloraRow): string[] => [
  variants[r.variant].title,
  ((8 * r.blocks) / r.weights).toFixed(2),
  short(r.base, 'B'),
  String(r.trained),
  short(r.peak, 'B'),
  r.ms.toFixed(1),
  r.before.toFixed(4),
  r.after.toFixed(4),
];
export const qloraTable = (rows: readonly QloraRow[]): string => columns(HEAD, rows.map(cells));

const optimizerLines = (rows: readonly QloraRow[]): string[] =>
  rows.flatMap(({ variant, states }) =>
    states === null
      ? []
      : [
          `- ${variants[variant].title}: ${short(states.stored, 'B')} of optimizer states, at most ${short(states.resident, 'B')} of them in memory`,
        ],
  );

/** The page docs/qlora.md. */
export function qloraPage(rows: readonly QloraRow[], m: Machine, size: SizeName, date: string): string {
  const s = sizes[size];
  const line = (c: readonly string[]): string => `| ${c.join(' | ')} |`;
  const warning = busy(m);
  return `# LoRA on packed bases

Written by \`npm run bench -- qlora --save\` on ${date.slice(0, 10)}: ${described(m)}.${warning === null ? '' : `\n\n**${warning}**`}

A LLaMA of width ${s.width} with ${s.layers} blocks reads Melville for ${s.pretraining} steps of ${s.rows} × ${s.tokens} characters and is frozen. Every row below is a process of its own that
opens it, packs the matrices of its blocks, attaches an adapter of rank ${s.rank} to every linear layer of the blocks, and takes ${s.tuning} steps on Roosevelt (AdamW, rate 0.001,
gradients clipped at 0.3; engine simd). Losses are of held-out text, before the first step and after the last.

${line(HEAD)}
${line(HEAD.map((_, k) => (k === 0 ? '---' : '---:')))}
${rows.map((r) => line(cells(r))).join('\n')}

- bits per weight: codes, scales, zero points and tables of the matrices in the blocks, over their weights. Frozen bytes: those, and the embedding, norms and head in float32.
- peak resident: the largest resident memory of the whole process, sampled after every step; Node itself and the plans are in it. Before the steps the
  float32 weights have been let go of, except where they are the base.
- loss before: what packing alone costs; LoftQ's factors start at what quantisation lost of the weights, the others start at nothing. QA-LoRA trains
  fewer numbers, because its A sees group means.
${optimizerLines(rows).join('\n')}
`;
}

/** Writes bench/results/qlora.json and docs/qlora.md; answers their paths. */
export function saveQlora(rows: readonly QloraRow[], m: Machine, size: SizeName, root = ROOT): string[] {
  const date = new Date().toISOString();
  const round = (_: string, v: unknown): unknown => (typeof v === 'number' && Number.isFinite(v) ? Number(v.toPrecision(7)) : v);
  const files = [
    [join(root, 'bench', 'results', 'qlora.json'), `${JSON.stringify({ date, machine: m, size: sizes[size], rows }, round, 2)}\n`],
    [join(root, 'docs', 'qlora.md'), qloraPage(rows, m, size, date)],
  ] as const;
  for (const [file, text] of files) {
    mkdirSync(join(file, '..'), { recursive: true });
    writeFileSync(file, text);
  }
  return files.map(([file]) => file);
}
