// Arrow over folders of LoRAs that nobody has combined yet, as create_arrow_model of Hugging Face PEFT takes them.
import type { Model } from '../../nn/layer.ts';
import type { ArrowConfig } from '../../peft/reparameterized/arrow.ts';
import { arrowOf } from '../../peft/reparameterized/arrowOf.ts';
import { plain } from './experts.ts';
import { type LoadOptions, loadPeft } from './load.ts';

export interface ArrowOptions extends Omit<LoadOptions, 'adapters'>, Partial<Omit<ArrowConfig, 'experts'>> {
  /** Folders of LoRAs whose mean is subtracted from each expert (GenKnowSub). */
  readonly general?: readonly string[];
}

/** A frozen model with Arrow over the LoRAs in these folders: every token hears the `topK` whose update it would change most. */
export async function loadArrow(
  model: Model,
  folders: readonly string[],
  { general = [], topK, temperature, trainExperts, ...options }: ArrowOptions = {},
): Promise<Model> {
  const read = async (folder: string): Promise<Model> => {
    const loaded = await loadPeft(model, folder, options);
    plain(loaded.method, loaded.files);
    return loaded.model;
  };
  const [experts, others]: [Model[], Model[]] = [[], []];
  for (const folder of folders) experts.push(await read(folder));
  for (const folder of general) others.push(await read(folder));
  const given = { topK, temperature, trainExperts };
  const set = Object.fromEntries(Object.entries(given).filter(([, v]) => v !== undefined)) as Partial<ArrowConfig>; // the seam: what was not given is left to arrowOf
  return arrowOf(experts, { ...set, general: others })(model);
}
