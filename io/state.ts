// Training state on disk: what `trainer.state()` answers, in one safetensors file that is replaced wholly or not at all.
import type { Numbers } from '../core/plan.ts';
import type { Stored, StoredState, TrainingState } from '../optim/state.ts';
import { asJson, isJsonObject, type Json, parseJson } from './adapterJson.ts';
import { readSafetensors, writeSafetensors } from './files.ts';
import type { Writable } from './safetensors.ts';

const KEY = 'tinypeft training';
const VALUE = 'value/';
const MOMENT = 'moment/'; // moment/<path>/<name>; paths are joined by dots, so the last slash ends the path

/** What is saved beside the trainer's state: where the data stood, say. JSON. */
export type Extra = { readonly [key: string]: Json };

/** Writes a trainer's state (and `extra`) to `path`. A crash at any moment leaves the old file or the new one, whole. */
export async function saveState(state: TrainingState, path: string, extra: Extra = {}): Promise<void> {
  const tensors = new Map<string, Writable>();
  for (const [p, s] of Object.entries(state.values)) tensors.set(VALUE + p, s);
  for (const [p, own] of Object.entries(state.moments))
    for (const [name, s] of Object.entries(own)) tensors.set(`${MOMENT}${p}/${name}`, s);
  const { format, step, seed, optimizer } = state;
  const text = asJson({ format, step, seed, optimizer, paths: Object.keys(state.moments), extra });
  if (text === undefined)
    throw new RangeError('saveState: step, seed and extra must be JSON (no functions, arrays of numbers only as plain lists)');
  await writeSafetensors(path, tensors, new Map([[KEY, JSON.stringify(text)]]));
}

/** Reads what `saveState` wrote. Whether it fits a trainer, `trainer.load` checks, before it changes anything. */
export async function readState(path: string): Promise<{ readonly state: TrainingState; readonly extra: Extra }> {
  const { metadata, tensors } = await readSafetensors(path);
  const refuse = (what: string): never => {
    throw new Error(`${path}: ${what}`);
  };
  const text = metadata.get(KEY);
  if (text === undefined)
    return refuse(`is a safetensors file without the metadata key '${KEY}', so it is no training state of this library`);
  const json = parseJson(text);
  if (!isJsonObject(json)) return refuse('its training metadata is not a JSON object');
  const { format, step, seed, optimizer, paths, extra } = json;
  if (format !== 1) return refuse(`has training format ${JSON.stringify(format)}; this library reads 1`);
  if (
    typeof step !== 'number' ||
    typeof seed !== 'number' ||
    typeof optimizer !== 'string' ||
    !isJsonObject(extra) ||
    !Array.isArray(paths)
  )
    return refuse('its training metadata lacks step, seed, optimizer, paths or extra');
  const values = new Map<string, Stored>();
  const moments = new Map<string, Map<string, StoredState>>(paths.map((p: unknown) => [String(p), new Map()]));
  for (const [name, { data, shape }] of tensors) {
    const end = name.lastIndexOf('/');
    if (name.startsWith(VALUE)) {
      const numbers = isNumbers(data) ? data : refuse(`${name} holds whole numbers; parameters are F32 or F64`);
      values.set(name.slice(VALUE.length), { data: numbers, shape });
    } else if (name.startsWith(MOMENT) && end > MOMENT.length) {
      const of = moments.get(name.slice(MOMENT.length, end)) ?? refuse(`${name} is a moment of a parameter its metadata does not name`);
      const kept = isNumbers(data) || data instanceof Uint8Array ? data : refuse(`${name} holds numbers that are neither F32, F64 nor U8`);
      of.set(name.slice(end + 1), { data: kept, shape });
    } else refuse(`${name} is neither a value nor a moment`);
  }
  return {
    extra,
    state: {
      format,
      step,
      seed,
      optimizer,
      values: Object.fromEntries(values),
      moments: Object.fromEntries([...moments].map(([p, own]) => [p, Object.fromEntries(own)])),
    },
  };
}
const isNumbers = (d: Writable['data']): d is Numbers => d instanceof Float32Array || d instanceof Float64Array;
