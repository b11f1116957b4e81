// The options of `npm start`, checked, and what a resumed run must have in common with the one it goes on with.
import { mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { nearest } from '../core/nearest.ts';
import { type Recipe, recipes } from './recipes.ts';

const NAMES = Object.keys(recipes);
const ROLES = ['q', 'k', 'v', 'o', 'up', 'down'];
export const HELP = `npm start -- [options]

Fine-tunes all-MiniLM-L6-v2 (22.7 M parameters) on 800 labelled Amazon sentences, beside a linear probe of the frozen encoder,
and says how many of 200 others each gets right.

  --method NAME   ${NAMES.slice(0, -1).join(', ')} or ${NAMES.at(-1)!} (default lora)
  --rank N        rank of lora and its relatives (default 8)
  --where NAMES   linear layers they go to: some of ${ROLES.join(',')} (default q,v)
  --lr X          learning rate (default: by method)
  --epochs N      passes over the training sentences (default 2)
  --rows N        sentences per batch (default 16)
  --seeds N       trainings, with seeds 0 … N−1 (default 3)
  --model DIR     another BERT or RoBERTa: a folder with config.json, tokenizer.json and one .safetensors file
  --data FILE     other sentences: one {"text": …, "label": …} per line; a fifth is kept aside
  --validation    leaves the sentences kept aside alone and measures on a quarter of the others, for every seed another one: for
                  choosing options
  --engine NAME   gpujs, simd or float64 (default: the fastest here)
  --mode NAME     webgpu, webasm or cpu, inside gpujs
  --out DIR       where adapter, figure and states go (default out/start)
  --resume        go on where an interrupted run stopped
  --help          this text`;

/** What decides the outcome of a run. */
export interface Options {
  readonly method: string;
  readonly rank: number;
  readonly where: readonly string[];
  readonly lr: number;
  readonly epochs: number;
  readonly rows: number;
  readonly seeds: number;
  readonly model: string | null;
  readonly data: string | null;
  readonly validation: boolean;
}
export interface Flags extends Options {
  readonly recipe: Recipe;
  readonly engine: string | undefined;
  readonly mode: string | undefined;
  readonly out: string;
  readonly resume: boolean;
  readonly help: boolean;
}

/** The command line, every value checked; throws with what is wrong and what there is. */
export function parseFlags(args: readonly string[]): Flags {
  const { values } = parseArgs({
    args: [...args],
    options: {
      method: { type: 'string', default: 'lora' },
      rank: { type: 'string', default: '8' },
      where: { type: 'string', default: 'q,v' },
      lr: { type: 'string' },
      epochs: { type: 'string', default: '2' },
      rows: { type: 'string', default: '16' },
      seeds: { type: 'string', default: '3' },
      model: { type: 'string' },
      data: { type: 'string' },
      validation: { type: 'boolean', default: false },
      engine: { type: 'string' },
      mode: { type: 'string' },
      out: { type: 'string', default: 'out/start' },
      resume: { type: 'boolean', default: false },
      help: { type: 'boolean', short: 'h', default: false },
    },
  });
  const whole = (name: 'rank' | 'epochs' | 'rows' | 'seeds'): number => {
    const n = Number(values[name]);
    if (!Number.isInteger(n) || n < 1) throw new RangeError(`--${name} must be a whole number from 1, got '${values[name]}'`);
    return n;
  };
  const method = values.method === 'prefix' ? 'prefixTuning' : values.method; // its short name in the literature
  const recipe = Object.hasOwn(recipes, method) ? recipes[method] : undefined;
  if (recipe === undefined) throw new RangeError(`--method: there is no ${method}. Nearest: ${nearest(method, NAMES).join(', ')}`);
  const lr = values.lr === undefined ? recipe.lr : Number(values.lr);
  if (!(lr > 0 && Number.isFinite(lr))) throw new RangeError(`--lr must be a number above 0, got '${values.lr}'`);
  const where = values.where.split(',').map((w) => w.trim());
  const strange = where.find((w) => !ROLES.includes(w));
  if (strange !== undefined) throw new RangeError(`--where: there is no linear layer ${strange}; an encoder has ${ROLES.join(', ')}`);
  const { model = null, data = null, validation, engine, mode, out, resume, help } = values;
  const numbers = { rank: whole('rank'), epochs: whole('epochs'), rows: whole('rows'), seeds: whole('seeds'), lr };
  return { method, recipe, where, ...numbers, model, data, validation, engine, mode, out, resume, help };
}

const statesIn = (out: string): string => join(out, 'states');
export const stateOf = (out: string, seed: number): string => join(statesIn(out), `seed-${seed}.safetensors`);

/** Makes the folders and writes down the options; or, for a resumed run, compares them with those of the interrupted one. */
export async function begin(f: Flags): Promise<void> {
  const path = join(statesIn(f.out), 'options.json');
  const { method, rank, where, lr, epochs, rows, seeds, model, data, validation } = f;
  const now = { method, rank, where, lr, epochs, rows, seeds, model, data, validation };
  if (!f.resume) {
    await rm(statesIn(f.out), { recursive: true, force: true });
    await mkdir(statesIn(f.out), { recursive: true });
    await writeFile(path, `${JSON.stringify(now, null, 2)}\n`);
    return;
  }
  const text = await readFile(path, 'utf8').catch(() => {
    throw new Error(`--resume: there is no interrupted run in ${f.out}; start one without --resume`);
  });
  const before = JSON.parse(text) as Record<string, unknown>;
  const changed = Object.entries(now).filter(([k, v]) => JSON.stringify(before[k]) !== JSON.stringify(v));
  if (changed.length > 0)
    throw new Error(
      `--resume: the interrupted run had ${changed.map(([k]) => `--${k} ${JSON.stringify(before[k])}`).join(', ')}; give the same options, or start anew without --resume`,
    );
}

/** A run that is complete leaves nothing to go on with. */
export const finished = (out: string): Promise<void> => rm(statesIn(out), { recursive: true, force: true });
