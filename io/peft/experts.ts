// Methods over trained LoRAs that stand in folders of their own (X-LoRA, Arrow): finding and reading those, and writing them again.
import { isAbsolute, join, relative, resolve } from 'node:path';
import { size } from '../../core/shape.ts';
import { leaf } from '../../core/tensor.ts';
import { freeze } from '../../nn/freeze.ts';
import type { Model } from '../../nn/layer.ts';
import { layers, mapTensors } from '../../nn/tree.ts';
import { detach } from '../../peft/merge.ts';
import { genKnowSub } from '../../peft/reparameterized/genKnowSub.ts';
import { lora } from '../../peft/reparameterized/lora.ts';
import { loraExperts } from '../../peft/reparameterized/loraExperts.ts';
import { exists, some } from '../files.ts';
import { CONFIG_FILE, type Expert, ownOf, type PeftFiles, tableOf } from './adapter.ts';
import { equal } from './attachments.ts';
import type { ConfigFile } from './config.ts';
import { type AnyFormat, type FactorTables, type Held, type NamedExpert, type NamedExperts, type Over, Unsupported } from './format.ts';

/** What `loadPeft` answers of one expert. */
interface Read {
  readonly model: Model;
  readonly method: string;
  readonly files: PeftFiles;
}

/**
 * Where an expert is: where the caller says; else beneath the adapter's own folder, by its name or by the path in the configuration. That path was
 * written by whoever made the file: nothing outside the folder is opened because of it.
 */
async function folderOf(root: string, { name, path }: NamedExpert, given: Readonly<Record<string, string>>, file: string): Promise<string> {
  const said = Object.hasOwn(given, name) ? given[name] : undefined;
  if (said !== undefined) return said;
  const inside = path === null || isAbsolute(path) || /^[a-z]:|\\/i.test(path) ? null : relative(root, resolve(root, path));
  const honest = inside !== null && inside !== '' && !isAbsolute(inside) && inside.split(/[/\\]/)[0] !== '..';
  for (const folder of [join(root, name), ...(honest ? [join(root, inside)] : [])])
    if (await exists(join(folder, CONFIG_FILE))) return folder;
  const why =
    path === null || honest
      ? ''
      : ` The configuration says ${JSON.stringify(path.slice(0, 80))}, which is outside that folder and is not followed.`;
  throw new Error(
    `${file}: has no folder for its expert ${name}; expected ${join(root, name)} with ${CONFIG_FILE}.${why} Put the expert there, or say where it is: loadPeft(model, folder, { adapters: { ${JSON.stringify(name)}: … } })`,
  );
}

/** An expert of a configuration, and the folder it is in. */
export interface Placed extends NamedExpert {
  readonly general: boolean;
  readonly folder: string;
}
/** Where the experts are; `given` says it for some of them. Throws where one is nowhere. */
export async function expertFolders(
  named: NamedExperts,
  root: string,
  given: Readonly<Record<string, string>>,
  { file }: ConfigFile,
): Promise<Placed[]> {
  const all = [...named.experts.map((n) => ({ ...n, general: false })), ...named.general.map((n) => ({ ...n, general: true }))];
  const unknown = Object.keys(given).filter((n) => !all.some((e) => e.name === n));
  if (unknown.length > 0)
    throw new Error(`loadPeft: adapters names ${some(unknown)}, but ${file} has the experts ${some(all.map((e) => e.name))}`);
  const placed: Placed[] = [];
  for (const one of all) placed.push({ ...one, folder: await folderOf(root, one, given, file) });
  return placed;
}

/** These experts, each read with `read` onto the bare model. */
export async function readExperts(
  placed: readonly Placed[],
  advice: string,
  { file }: ConfigFile,
  read: (folder: string) => Promise<Read>,
): Promise<Expert[]> {
  const experts: Expert[] = [];
  for (const { name, general, folder } of placed) {
    try {
      const { model, method, files } = await read(folder);
      plain(method, files);
      experts.push({ name, general, model, files });
    } catch (e) {
      const text = (e as Error).message;
      const more = advice !== '' && /has no tensor/.test(text) ? `. ${advice}` : '';
      throw new Error(`${file}: its expert ${name} cannot be read: ${text}${more}`, { cause: e });
    }
  }
  return experts;
}
/** An expert is a LoRA on layers and nothing besides: what else a file holds would change the network beneath all of them. */
export function plain(method: string, { folder, dtypes, config }: PeftFiles): void {
  if (method !== 'lora' || (typeof config.init_lora_weights === 'string' && !/^(gaussian|eva|loftq)$/.test(config.init_lora_weights)))
    throw new Unsupported(
      `${folder} is ${method === 'lora' ? JSON.stringify(config.init_lora_weights) : method}, and an expert is an ordinary LoRA; where it was trained, save it as one`,
    );
  const more = [...dtypes.keys()].filter((k) => !/\.lora_[AB]\.weight$/.test(k));
  if (more.length > 0)
    throw new Unsupported(`${folder} has ${some(more)} besides LoRA's factors, and experts share one network that none of them changes`);
}

/** The format over these experts. */
export function madeOver(over: Over, experts: readonly Expert[], file: string): AnyFormat {
  const models = (general: boolean): Model[] => experts.filter((e) => e.general === general).map((e) => e.model);
  try {
    return over.made(models(false), models(true));
  } catch (e) {
    throw new Error(`${file}: ${(e as Error).message}`, { cause: e });
  }
}
/** Numbers that the experts' files hold. */
export const numbersOf = (experts: readonly Expert[]): number =>
  experts.reduce((n, { model }) => n + [...loraOf(model).values()].reduce((sum, { A, B }) => sum + size(A.shape) + size(B.shape), 0), 0);

/** The factors of the one LoRA on a model, by path. */
function loraOf(model: Model): ReadonlyMap<string, FactorTables> {
  const found = new Map<string, FactorTables>();
  for (const { path, layer } of layers(model)) {
    if (layer.attached?.method !== 'lora') continue;
    const own = ownOf(layer.fields[layer.attached.field] ?? null);
    found.set(path, { A: tableOf(own.get('A')!)!, B: tableOf(own.get('B')!)! });
  }
  return found;
}
const sameTables = (a: ReadonlyMap<string, FactorTables>, b: ReadonlyMap<string, FactorTables>): boolean =>
  a.size === b.size &&
  [...a].every(([path, f]) => (['A', 'B'] as const).every((n) => b.has(path) && equal(f[n].data, b.get(path)![n].data)));

/** A model with one expert's LoRA alone, to be written into a folder of this name. */
export interface Written {
  readonly name: string;
  readonly model: Model;
  readonly like: PeftFiles | undefined;
}
export interface Writing {
  readonly experts: readonly Written[];
  /** Whether they are other than those that were read. */
  readonly changed: boolean;
}
/** What is attached over experts, taken apart again: those that were read as they were, where nothing was trained. */
export function expertsToWrite(
  over: Over,
  names: NamedExperts,
  found: readonly Held[],
  model: Model,
  like: PeftFiles | undefined,
): Writing {
  const now = over.factors(found, model);
  const asLora = (at: ReadonlyMap<string, FactorTables>, onto: Model): Model =>
    mapTensors(onto, (t, path) => {
      const [, site, factor] = /^(.*)\.lora\.([AB])$/.exec(path) ?? [];
      const table = site === undefined ? undefined : at.get(site)?.[factor as 'A' | 'B'];
      return table === undefined ? t : leaf(table.data, table.shape);
    });
  if (like?.experts !== undefined) {
    const [tasks, general] = [like.experts.filter((e) => !e.general), like.experts.filter((e) => e.general)];
    const then = general.length === 0 ? tasks.map((e) => loraOf(e.model)) : subtracted(tasks, general);
    const changed = now.map((at, k) => !sameTables(at, then[k]!));
    if (general.length > 0 && changed.includes(true))
      throw new Error(
        'savePeft: the experts were changed after general knowledge was subtracted from them, so the folders they came from cannot be written again; leave out `like` to write them as they are',
      );
    return {
      changed: changed.includes(true),
      experts: like.experts.map((e) => {
        const k = tasks.indexOf(e);
        return { name: e.name, like: e.files, model: k >= 0 && changed[k] === true ? asLora(now[k]!, e.model) : e.model };
      }),
    };
  }
  const base = freeze(detach(model));
  const scales = over.scales(found[0]!.options);
  return {
    changed: true,
    experts: names.experts.map(({ name }, k) => {
      const at = now[k]!;
      const rank = [...at.values()][0]!.A.shape[0]!;
      return { name, like: undefined, model: asLora(at, lora({ rank, alpha: alphaOf(scales[k]!, rank), where: [...at.keys()] })(base)) };
    }),
  };
}
/** The α of a scale α/r: the whole number, where it is one but for rounding. */
function alphaOf(scale: number, rank: number): number {
  const whole = Math.round(scale * rank);
  return whole / rank === scale ? whole : scale * rank;
}
function subtracted(tasks: readonly Expert[], general: readonly Expert[]): ReadonlyMap<string, FactorTables>[] {
  const models = (all: readonly Expert[]): Model[] => all.map((e) => e.model);
  const at = genKnowSub(loraExperts('savePeft', models(tasks)), loraExperts('savePeft, general', models(general)));
  return tasks.map((_, k) => new Map([...at].map(([path, each]) => [path, { A: tableOf(each[k]!.A)!, B: tableOf(each[k]!.B)! }])));
}
