// Opens a pretrained network by the path of its folder or the name of its repository: model, configuration and tokenizer.
import { readdir, readFile, stat } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import type { Model } from '../../nn/layer.ts';
import { exists } from '../files.ts';
import { isRepository } from '../hub/names.ts';
import { type HubOptions, openRepository, type Repository } from '../hub/repository.ts';
import { readTokenizer, type TextTokenizer } from '../tokenizer.ts';
import { type ConfigFile, readCheckpointConfig, readNetwork } from './folder.ts';
import { INDEX, type Kept, parseIndex, WEIGHTS } from './weights.ts';

export interface Checkpoint extends ConfigFile {
  /** Frozen. Decoders answer logits [B, T, V], encoders hidden states [B, T, D]; with a classifier's head, [B, C] or [B, T, C]. */
  readonly model: Model;
  /** Null where there is no tokenizer.json. */
  readonly tokenizer: TextTokenizer | null;
  /** Where its files are on this machine. */
  readonly folder: string;
}
export interface OpenOptions extends HubOptions {
  /** Leave a classifier's head aside and answer hidden states (encoders only). Default false. */
  readonly withoutHead?: boolean;
  /** Matrices stored as float16 or bfloat16: kept in two bytes a number until they are used, or widened to float32 at once. Default keep. */
  readonly dtype?: Kept;
}

const TOKENIZER = ['tokenizer.json', 'tokenizer_config.json', 'chat_template.jinja', 'generation_config.json'];

/**
 * The pretrained network in a folder, or in a repository of the Hugging Face hub (`org/name`, or `gpt2` from before there were organisations; a
 * folder of that name comes first). Files of a repository are fetched into the cache that Hugging Face's own library uses; the configuration first, so that what cannot be
 * loaded is refused before its weights are fetched. Every field and tensor is checked; errors say what to do.
 */
export async function openCheckpoint(
  source: string,
  { withoutHead = false, dtype = 'keep', ...hub }: OpenOptions = {},
): Promise<Checkpoint> {
  const repository = (await isFolder(source)) ? null : await openRepository(await named(source), hub);
  const folder = repository?.folder ?? source;
  await repository?.need('config.json');
  const { config, json } = await readCheckpointConfig(folder, withoutHead);
  if (repository !== null) await fetchRest(repository, source);
  const tokenizer = (await exists(join(folder, 'tokenizer.json'))) ? await readTokenizer(folder, config.sizes.positions) : null;
  return { model: await readNetwork(folder, config, dtype), config, json, tokenizer, folder };
}

async function fetchRest(repository: Repository, id: string): Promise<void> {
  for (const name of TOKENIZER) await repository.get(name);
  if ((await repository.get(WEIGHTS)) !== null) return;
  const index = await repository.get(INDEX);
  if (index === null)
    throw new Error(
      `${id}: has neither ${WEIGHTS} nor ${INDEX} (as far as ${repository.folder} knows). Weights in other formats (pytorch_model.bin, GGUF) are not read from the hub; some repositories have safetensors under another revision, refs/pr/…`,
    );
  for (const shard of new Set(parseIndex(await readFile(index, 'utf8'), index).values())) await repository.need(shard);
}

const isFolder = (path: string): Promise<boolean> =>
  stat(path).then(
    (s) => s.isDirectory(),
    () => false,
  );

/** The text as a repository's name; says why it is none, and where a save was interrupted. */
async function named(source: string): Promise<string> {
  const [parent, name] = [dirname(resolve(source)), basename(resolve(source))];
  const aside = (await readdir(parent).catch(() => [])).find((f) => f.startsWith(`.${name}.`) && f.endsWith('.old'));
  if (aside !== undefined)
    throw new Error(
      `${source}: a save was interrupted between two renames; what was there before is whole in ${join(parent, aside)}, rename it`,
    );
  if (await exists(source)) throw new Error(`${source}: is a file; a checkpoint is a folder with config.json and .safetensors files`);
  if (!isRepository(source))
    throw new Error(`${source}: no such folder, and not the name of a repository either (organisation/name, or a name alone as gpt2 has)`);
  return source;
}
