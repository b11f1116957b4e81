// `tinypeft inspect`: what is in a folder or file: a checkpoint, an adapter of either kind, a GGUF file.
import { stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { short } from '../../core/account.ts';
import { columns } from '../../core/columns.ts';
import { float64 } from '../../core/engines/float64.ts';
import { show, size } from '../../core/shape.ts';
import { ADAPTER_FILE, readDescription } from '../../io/adapters.ts';
import { readCheckpointConfig } from '../../io/checkpoints/folder.ts';
import { openWeights } from '../../io/checkpoints/weights.ts';
import { exists, mustBeFile, openSafetensors } from '../../io/files.ts';
import { openGguf } from '../../io/gguf.ts';
import { PICKLE_FILE } from '../../io/peft/adapter.ts';
import type { Common, ConfigFile } from '../../io/peft/config.ts';
import { expertFolders } from '../../io/peft/experts.ts';
import type { AnyFormat } from '../../io/peft/format.ts';
import { PEFT_FORMATS } from '../../io/peft/formats.ts';
import { readConfig, understood, weightsPath } from '../../io/peft/load.ts';
import { layers } from '../../nn/tree.ts';
import { UsageError } from '../usage.ts';
import { HELP_FLAG, parsed } from './flags.ts';
import { adapterKind, labelsOf, openAdapted } from './open.ts';

const HELP = `tinypeft inspect DIR|FILE [--model DIR|REPO|FILE.gguf] [--all]

What is in a checkpoint, an adapter or a GGUF file. With --model, what an adapter attaches to there.

  --all     every tensor, not the first twelve
  --json    as JSON
  --help    this text`;
const FIRST = 12;

interface Entry {
  readonly name: string;
  readonly type: string;
  readonly shape: readonly number[];
  readonly bytes: number; // in the file
}
interface About {
  readonly what: string;
  readonly facts: Readonly<Record<string, unknown>>;
  readonly tensors: readonly Entry[];
  /** Paths of the layers it attaches to in --model. */
  readonly sites?: readonly string[];
}

export async function inspectCommand(args: readonly string[]): Promise<void> {
  const { values: v, positionals } = parsed('inspect', {
    args: [...args],
    allowPositionals: true,
    options: {
      model: { type: 'string' },
      all: { type: 'boolean', default: false },
      json: { type: 'boolean', default: false },
      ...HELP_FLAG,
    },
  });
  if (v.help) return console.log(HELP);
  const [path] = positionals;
  if (path === undefined || positionals.length > 1) throw new UsageError('inspect: name one folder or file');
  const about = await aboutOf(path, v.model);
  if (v.json) return console.log(JSON.stringify(about, null, 2));
  console.log(text(about, v.all));
}

async function aboutOf(path: string, model: string | undefined): Promise<About> {
  const found = await stat(path).catch(() => null);
  if (found === null) throw new UsageError(`${path}: no such file or folder`);
  if (!found.isDirectory()) await mustBeFile(path);
  if (found.isFile()) return path.endsWith('.gguf') ? gguf(path) : safetensors(path);
  const kind = await adapterKind(path).catch(() => null);
  if (kind === null && (await exists(join(path, PICKLE_FILE)))) await weightsPath(path); // says what to do with it
  if (kind === null) return checkpoint(path);
  const about = kind === 'peft' ? await peft(path) : await own(path);
  return model === undefined ? about : { ...about, sites: await sites(path, model) };
}

async function gguf(path: string): Promise<About> {
  await using file = await openGguf(path);
  const facts = [...file.metadata].filter(([, value]) => !Array.isArray(value));
  const tensors = [...file.entries.values()].map((e) => ({ name: e.name, type: e.format.name, shape: e.shape, bytes: e.end - e.start }));
  return {
    what: 'GGUF file',
    facts: Object.fromEntries(facts.map(([k, value]) => [k, typeof value === 'bigint' ? Number(value) : value])),
    tensors,
  };
}
async function safetensors(path: string): Promise<About> {
  await using file = await openSafetensors(path);
  return {
    what: 'safetensors file',
    facts: Object.fromEntries(file.metadata),
    tensors: [...file.entries.values()].map((e) => ({ name: e.name, type: e.dtype, shape: e.shape, bytes: e.end - e.start })),
  };
}
async function checkpoint(folder: string): Promise<About> {
  const { config } = await readCheckpointConfig(folder);
  await using weights = await openWeights(folder);
  const tensors = [...weights.entries.values()].map(({ entry: e }) => ({
    name: e.name,
    type: e.dtype,
    shape: e.shape,
    bytes: e.end - e.start,
  }));
  return { what: `checkpoint, ${config.architecture} with a ${config.head} head`, facts: { ...config.sizes }, tensors };
}
async function peft(folder: string): Promise<About> {
  const file = await readConfig(folder);
  const { format, config, warnings } = understood(file, PEFT_FORMATS);
  const { tensors } = await safetensors(await weightsPath(dirname(file.file)));
  const set = Object.entries(file.fields).filter(([, value]) => value !== null && value !== false);
  return {
    what: `adapter of Hugging Face PEFT, ${file.peftType}: here ${format.method}`,
    facts: {
      ...Object.fromEntries(set),
      ...(await experts(folder, file, format, config)),
      ...(await classes(folder)),
      ...(warnings.length > 0 ? { warnings } : {}),
    },
    tensors,
  };
}
/** What a mixture is over: each expert's folder, and what is in it. */
async function experts(folder: string, file: ConfigFile, format: AnyFormat, config: Common): Promise<Readonly<Record<string, string>>> {
  const { over } = format;
  if (over === undefined) return {};
  const found = await expertFolders(over.named(config), folder, {}, file);
  const lines = found.map(async ({ name, folder: at, general }): Promise<[string, string]> => {
    const { fields, peftType } = await readConfig(at);
    return [`${general ? 'general' : 'expert'} ${name}`, `${peftType} of rank ${JSON.stringify(fields.r ?? null)} in ${at}`];
  });
  return Object.fromEntries(await Promise.all(lines));
}
async function own(folder: string): Promise<About> {
  const { applications } = await readDescription(folder);
  const { tensors } = await safetensors(join(folder, ADAPTER_FILE));
  return {
    what: 'adapter of tinypeft',
    facts: { ...Object.fromEntries(applications.map((a, k) => [`${k + 1}: ${a.method}`, a.config])), ...(await classes(folder)) },
    tensors,
  };
}

const classes = async (folder: string): Promise<{ labels?: readonly string[] }> => {
  const labels = await labelsOf(folder);
  return labels === null ? {} : { labels };
};

async function sites(folder: string, source: string): Promise<readonly string[]> {
  await using engine = float64();
  const { model } = await openAdapted(source, folder, engine);
  return [...layers(model)].filter(({ layer }) => layer.attached !== null).map(({ path, layer }) => `${path} (${layer.attached!.method})`);
}

function text({ what, facts, tensors, sites: at }: About, all: boolean): string {
  const numbers = tensors.reduce((n, t) => n + size(t.shape), 0);
  const bytes = tensors.reduce((n, t) => n + t.bytes, 0);
  const types = [...new Set(tensors.map((t) => t.type))];
  const shown = all ? tensors : tensors.slice(0, FIRST);
  const lines = Object.entries(facts).map(([k, value]) => `  ${k}: ${typeof value === 'string' ? value : JSON.stringify(value)}`);
  return [
    what,
    ...lines,
    `${tensors.length} tensors, ${numbers.toLocaleString('en-US')} numbers (${short(bytes, 'B')}${types.length === 1 ? ` as ${types[0]}` : ''})`,
    columns(
      ['tensor', 'type', 'shape', 'bytes'],
      shown.map((t) => [t.name, t.type, show(t.shape), short(t.bytes, 'B')]),
    ),
    ...(shown.length < tensors.length ? [`… and ${tensors.length - shown.length} more (--all)`] : []),
    ...(at === undefined
      ? []
      : [`attaches to ${at.length} layers: ${(all ? at : at.slice(0, FIRST)).join(', ')}${!all && at.length > FIRST ? ', …' : ''}`]),
  ].join('\n');
}
