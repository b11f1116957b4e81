// What the search of SPT, selective prompt tuning, finds: the blocks to prompt for good.
// Zhu & Tan 2023, arXiv 2310.20127 (EMNLP 2023).
import { paramOf } from '../../core/tensor.ts';
import type { Model } from '../../nn/layer.ts';
import { wholeNumber } from '../check.ts';
import { largest } from '../select.ts';
import { ownOf } from './sourcePrompts.ts';
import type { SptPrompt, SptPromptConfig } from './sptRows.ts';

/** The blocks with the `most` largest gates of a trained model, in order: what to attach a new `sptPrompt({ kept })` with and train again. */
export function sptKept(model: Model, most: number): number[] {
  const { own } = ownOf<SptPrompt, SptPromptConfig>(model, 'sptPrompt');
  const gates = own.alpha === undefined ? null : paramOf(own.alpha);
  if (gates === null) throw new Error('sptKept: the gates of this model are not trained any more; give it the model of the search');
  wholeNumber('sptKept', 'most', most);
  return largest([gates.value], most)[0]!;
}
