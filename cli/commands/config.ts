// The configuration of `tinypeft train`: one schema for the file, the flags, the defaults, the checks and the JSON Schema for editors.
import { readFile } from 'node:fs/promises';
import { z } from 'zod';
import { nearest } from '../../core/nearest.ts';
import { engines, modes } from '../../core/open.ts';
import { parseJson } from '../../io/adapterJson.ts';
import { UsageError } from '../usage.ts';
import { PACKINGS, parsed } from './flags.ts';

const count = z.int().min(1);
const positive = z.number().positive();
const text = z.string().min(1);

export const TrainSchema = z
  .strictObject({
    $schema: z.string().optional().describe('where this schema is, for editors'),
    model: text.describe('a folder with config.json and .safetensors, a repository (organisation/name, or gpt2), or a .gguf file'),
    data: text.describe('.jsonl, .csv, .tsv, .txt or .md'),
    evalData: text.nullable().default(null).describe('texts to measure on; without them, a share of the data is kept aside'),
    held: z.number().min(0).max(0.5).default(0.1).describe('share of the data kept aside where evalData is null'),
    method: text.default('lora').describe('a name in the first table of tinypeft methods, or qlora; full trains everything'),
    options: z.record(z.string(), z.json()).default({}).describe('the method’s own options: {"rank": 16, "where": ["q", "v"]}'),
    quantize: z.enum(PACKINGS).default('none').describe('how the frozen base is packed'),
    dtype: z.enum(['float32', 'keep']).default('keep').describe('half-precision weights: widened, or kept in two bytes until used'),
    epochs: positive.default(1).describe('passes over the data, where steps is null'),
    steps: count.nullable().default(null).describe('optimizer steps'),
    rows: count.default(8).describe('texts in a batch'),
    accumulate: count.default(1).describe('micro-batches a step is cut into'),
    longest: count.default(256).describe('tokens of a text at most'),
    lr: positive.default(2e-4).describe('learning rate'),
    schedule: z.enum(['linear', 'cosine', 'constant']).default('linear').describe('how the learning rate falls after the warmup'),
    warmup: z.number().min(0).max(0.9).default(0.05).describe('share of the steps in which the learning rate rises'),
    weightDecay: z.number().min(0).default(0.01).describe('share of a weight taken away a step, times the learning rate'),
    clip: positive.nullable().default(1).describe('largest norm of the gradients'),
    optimizer: z
      .enum(['adamw', 'adamw8bit', 'paged', 'paged8bit', 'sgd'])
      .default('adamw')
      .describe('AdamW, its states in eight bits, or in pages that go to disk; sgd with momentum 0.9'),
    budget: count.default(16).describe('MiB of optimizer states in memory, for paged and paged8bit'),
    chunk: count.default(256).describe('positions whose logits are held at once (language models)'),
    evaluate: count.nullable().default(null).describe('steps between two measurements; a tenth of the training when null'),
    save: count.default(100).describe('steps between two saved states'),
    seed: z.int().min(0).default(0).describe('of starts, batches and dropout; the same seed gives the same adapter'),
    out: text.default('out/train').describe('folder of the adapter, the curve and the state'),
    format: z.enum(['auto', 'peft', 'own']).default('auto').describe('files of the adapter: Hugging Face PEFT’s where it has the method'),
    engine: z.enum(engines).nullable().default(null).describe('the fastest here when null'),
    mode: z.enum(modes).nullable().default(null).describe('inside gpujs'),
  })
  .describe('tinypeft train');
export type TrainConfig = Omit<z.output<typeof TrainSchema>, '$schema'>;

export const trainJsonSchema = (): object => z.toJSONSchema(TrainSchema, { io: 'input' });

/** What `qlora` trains with where nothing else is said: the numbers of qloraRecipe (peft/reparameterized/qloraRecipe.ts). */
const QLORA = { optimizer: 'paged', clip: 0.3, schedule: 'constant', warmup: 0, weightDecay: 0 } as const;

/** evalData → eval-data */
const dashed = (key: string): string => key.replace(/[A-Z]/g, (c) => `-${c.toLowerCase()}`);
const fields = Object.entries(TrainSchema.shape).filter(([key]) => key !== '$schema' && key !== 'options');

export const TRAIN_HELP = `tinypeft train --model DIR|REPO|FILE.gguf --data FILE [options]      or: tinypeft train --config FILE.json [options]

Fine-tunes a model with a PEFT method: a language model on prose, prompts with completions or conversations, a classifier where the data have
labels. Ctrl-C saves the state; --resume goes on bit for bit. Flags come before what the file says.
Full fine-tuning (--method full) and methods that Hugging Face PEFT lacks are written in this library's own format.
--method qlora trains as its paper does: --optimizer paged --clip ${QLORA.clip} --schedule ${QLORA.schedule} --warmup ${QLORA.warmup} --weight-decay ${QLORA.weightDecay}, unless told otherwise.

${fields
  .map(([key, schema]) => {
    const { description = '' } = schema as { readonly description?: string };
    const json = z.toJSONSchema(schema, { io: 'input' }) as {
      readonly enum?: readonly string[];
      readonly default?: unknown;
      readonly anyOf?: readonly { readonly enum?: readonly string[] }[];
    };
    const choices = json.enum ?? json.anyOf?.find((a) => a.enum !== undefined)?.enum;
    const fallback = json.default === undefined || json.default === null ? '' : ` (${json.default})`;
    return `  --${dashed(key).padEnd(14)} ${description}${choices === undefined ? '' : `: ${choices.join(', ')}`}${fallback}`;
  })
  .join('\n')}
  --option K=V     an option of the method; several are allowed: --option rank=16 --option where=q,v
  --config FILE    these names as JSON; --schema prints its JSON Schema
  --resume         go on where an interrupted run in --out stopped
  --json           the result as one JSON object on the last line
  --help           this text`;

export interface TrainCall {
  readonly config: TrainConfig;
  readonly resume: boolean;
  readonly json: boolean;
}

/** The configuration of a command line, or what to print instead of training. */
export async function readTrainCall(args: readonly string[]): Promise<TrainCall | string> {
  const { values } = parsed('train', {
    args: [...args],
    options: {
      ...Object.fromEntries(fields.map(([key]) => [dashed(key), { type: 'string' as const }])),
      option: { type: 'string' as const, multiple: true as const },
      config: { type: 'string' as const },
      resume: { type: 'boolean' as const, default: false },
      schema: { type: 'boolean' as const, default: false },
      json: { type: 'boolean' as const, default: false },
      help: { type: 'boolean' as const, short: 'h', default: false },
    },
  });
  if (values.help) return TRAIN_HELP;
  if (values.schema) return JSON.stringify(trainJsonSchema(), null, 2);
  const given = values as unknown as Readonly<Record<string, string | undefined>>;
  const file = values.config === undefined ? {} : await readConfigFile(values.config);
  const flags = Object.fromEntries(
    fields.flatMap(([key, schema]) => {
      const value = given[dashed(key)];
      return value === undefined ? [] : [[key, schema.safeParse(value).success ? value : jsonOf(value)]]; // a file may be called 7
    }),
  );
  const own = (values.option ?? []).map((o) => {
    const at = o.indexOf('=');
    if (at < 1) throw new UsageError(`--option ${o}: must be name=value`);
    const value = o.slice(at + 1);
    const name = o.slice(0, at);
    if (['__proto__', 'constructor', 'prototype'].includes(name)) throw new UsageError(`--option ${o}: no method has such an option`);
    return [name, value.includes(',') ? value.split(',').map(jsonOf) : jsonOf(value)] as const;
  });
  const before = file.options ?? {};
  const options = isRecord(before) ? { ...before, ...Object.fromEntries(own) } : before; // what is no object is refused below
  const said = { ...file, ...flags, options };
  const recipe = 'method' in said && said.method === 'qlora' ? QLORA : {};
  return { config: checked({ ...recipe, ...said }, values.config ?? 'the command line'), resume: values.resume, json: values.json };
}

/** Every value checked; throws with the name of each that is wrong. */
export function checked(value: unknown, from: string): TrainConfig {
  const result = TrainSchema.safeParse(value);
  if (!result.success)
    throw new UsageError(
      `${from}:\n${result.error.issues.flatMap(issueLines).join('\n')}\nAll names with their defaults: tinypeft train --help`,
    );
  const { $schema: _, ...config } = result.data;
  return config;
}

function issueLines(issue: z.core.$ZodIssue): string[] {
  if (issue.code !== 'unrecognized_keys') {
    const [name] = issue.path;
    const missing = issue.path.length === 1 && issue.message.endsWith('received undefined');
    return [`  ${issue.path.join('.') || 'the whole'}: ${missing ? `is missing: ${describe(String(name))}` : issue.message}`];
  }
  return issue.keys.map((k) => `  there is no ${k}. Nearest: ${nearest(k, Object.keys(TrainSchema.shape)).join(', ')}`);
}

async function readConfigFile(path: string): Promise<Readonly<Record<string, unknown>>> {
  const content = await readFile(path, 'utf8').catch((e: NodeJS.ErrnoException) => {
    throw e.code === 'ENOENT' ? new UsageError(`--config ${path}: no such file`) : e;
  });
  try {
    JSON.parse(content);
  } catch (e) {
    throw new UsageError(`--config ${path}: ${(e as Error).message}`, { cause: e });
  }
  const json = parseJson(content); // null where a key would reach a prototype
  if (!isRecord(json)) throw new UsageError(`--config ${path}: must be an object without the keys __proto__, constructor and prototype`);
  return json;
}
const describe = (name: string): string =>
  (Object.entries(TrainSchema.shape) as [string, { readonly description?: string }][]).find(([key]) => key === name)?.[1].description ?? '';
const isRecord = (v: unknown): v is Readonly<Record<string, unknown>> => typeof v === 'object' && v !== null && !Array.isArray(v);

/** A flag's text as JSON where it is a number, true, false or null. */
const jsonOf = (v: string): unknown =>
  /^(-?(0|[1-9]\d*)(\.\d+)?(e[-+]?\d+)?|true|false|null)$/i.test(v) ? JSON.parse(v.toLowerCase()) : v;
