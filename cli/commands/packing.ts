// What the frozen base was packed in while an adapter was trained: written beside the adapter, read by whatever uses it.
// Hugging Face PEFT reads only its own files of a folder, so an adapter in its format keeps this beside them.
import { readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { isJsonObject, parseJson } from '../../io/adapterJson.ts';
import { writeAtomic } from '../../io/files.ts';
import type { Model } from '../../nn/layer.ts';
import { int2, int4 } from '../../quant/affine.ts';
import { doubleQuant } from '../../quant/doubleQuant.ts';
import { int8 } from '../../quant/int8.ts';
import { fp4, nf4 } from '../../quant/nf4.ts';
import { inBlocks, quantize, type Scheme } from '../../quant/quantize.ts';
import { PACKINGS, type Packing } from './flags.ts';

const SCHEMES: Readonly<Record<Exclude<Packing, 'none'>, () => Scheme>> = {
  nf4: () => nf4(),
  'nf4-double': () => nf4({ scales: doubleQuant() }),
  fp4: () => fp4(),
  int8: () => int8(),
  int4: () => int4(),
  int2: () => int2(),
};

/** The matrices of the blocks packed. */
export const packed = (model: Model, how: Packing): Model => (how === 'none' ? model : quantize(model, inBlocks, SCHEMES[how]()));

export const PACKING_FILE = 'tinypeft.json';

/** Says beside an adapter what its base was packed in; nothing where it was not. */
export async function writePacking(folder: string, quantize: Packing): Promise<void> {
  if (quantize === 'none') return rm(join(folder, PACKING_FILE), { force: true }); // of an adapter that was there before
  await writeAtomic(join(folder, PACKING_FILE), [new TextEncoder().encode(`${JSON.stringify({ quantize })}\n`)]);
}

/** What an adapter's base was packed in; null where its folder does not say. */
export async function packingOf(adapter: string): Promise<Packing | null> {
  const path = join(adapter, PACKING_FILE);
  const text = await readFile(path, 'utf8').catch((e: NodeJS.ErrnoException) => {
    if (e.code === 'ENOENT' || e.code === 'ENOTDIR') return null;
    throw e;
  });
  if (text === null) return null;
  const json = parseJson(text);
  const found = isJsonObject(json) ? PACKINGS.find((p) => p === json.quantize) : undefined;
  if (found === undefined) throw new Error(`${path}: must be {"quantize": one of ${PACKINGS.join(', ')}}, as tinypeft train writes it`);
  return found;
}

/** The packing to use: what was asked for, else what the adapter was trained on; says on the error output what is not to be expected. */
export async function packingFor(adapter: string | undefined, asked: Packing | null): Promise<Packing> {
  const trained = adapter === undefined ? null : await packingOf(adapter);
  const how = asked ?? trained ?? 'none';
  if (asked === null && trained !== null) console.error(`base     packed in ${how}, as the adapter was trained`);
  else if (trained !== null && asked !== trained)
    console.error(
      `base     ${how === 'none' ? 'not packed' : `packed in ${how}`}, as --quantize says; the adapter was trained on ${trained}`,
    );
  else if (adapter !== undefined && trained === null && how !== 'none')
    console.error(`base     packed in ${how}, as --quantize says; the adapter's folder names no packing that it was trained on`);
  return how;
}
