// Position interpolation: rotary positions squeezed, so that a longer text falls into the range the model was trained on.
//   position m → m/κ,   κ = ⌈tokens / longest⌉
// Chen et al. 2023, arXiv 2306.15595, eq. 4 (Hugging Face: rope_scaling = { type: 'linear', factor: κ }).
import type { Rope } from './attention.ts';
import { numberOf } from './backbone.ts';
import { type Fields, isRecord, type Model } from './layer.ts';
import { layers, rewrite } from './tree.ts';

/**
 * A model for texts of up to `tokens` tokens over the same weights: every rotary angle divided by κ. A model that is long enough is
 * answered as it is. Throws where positions are not rotary (a table of learned ones has nothing to squeeze), or where methods are
 * attached already: they were fitted to the positions the model had, so the base is extended first.
 */
export function interpolatePositions(model: Model, tokens: number): Model {
  if (!Number.isInteger(tokens) || tokens < 1) throw new RangeError(`interpolatePositions: tokens ${tokens} must be a whole number from 1`);
  let longest = 0;
  let rotary = false;
  for (const { path, layer } of layers(model)) {
    if (layer.attached !== null)
      throw new Error(
        `interpolatePositions: ${layer.attached.method} is attached at ${path === '' ? 'the model' : path}; extend the base first, then attach methods`,
      );
    if (layer.kind === 'trunk') longest = numberOf(layer, 'longest') ?? 0;
    if (ropeOf(layer.fields) !== null) rotary = true;
  }
  if (!rotary || longest === 0)
    throw new Error(
      'interpolatePositions: this model has no rotary positions to interpolate (a table of learned positions has no rows in between); use a model with rope, as llama() makes',
    );
  const factor = Math.ceil(tokens / longest);
  if (factor === 1) return model;
  const squeezed = rewrite(model, (l) => {
    const rope = ropeOf(l.fields);
    return rope === null ? null : l.with({ ...l.fields, rope: { ...rope, scale: rope.scale / factor } });
  });
  // rewrite does not look inside what it replaced, and the attention branches are inside the trunk: so one after the other
  return rewrite(squeezed, (l) => (l.kind === 'trunk' ? l.with({ ...l.fields, longest: tokens }) : null));
}

function ropeOf(f: Fields): Rope | null {
  const rope = f.rope;
  return isRecord(rope) && typeof rope.base === 'number' && typeof rope.scale === 'number' ? (rope as Rope) : null; // as attention wrote it
}
