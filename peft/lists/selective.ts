// The selective methods, each with a small configuration for small networks.

import { type Listed, listed } from '../listed.ts';
import { attentionOnly } from '../selective/attentionOnly.ts';
import { beft } from '../selective/beft.ts';
import { bitfit } from '../selective/bitfit.ts';
import { childTuning } from '../selective/childTuning.ts';
import { childTuningD } from '../selective/childTuningD.ts';
import { diffPruning } from '../selective/diffPruning.ts';
import { far } from '../selective/far.ts';
import { fishDip } from '../selective/fishDip.ts';
import { fishMask } from '../selective/fishMask.ts';
import { headOnly } from '../selective/headOnly.ts';
import { lastLayers } from '../selective/lastLayers.ts';
import { ltSft } from '../selective/ltSft.ts';
import { sam } from '../selective/sam.ts';
import { sBitfit } from '../selective/sBitfit.ts';
import { shira } from '../selective/shira.ts';
import { snip } from '../selective/snip.ts';
import { sparseMask } from '../selective/sparseMask.ts';
import { spt } from '../selective/spt.ts';
import { supertuning } from '../selective/supertuning.ts';
import { trainableTokens } from '../selective/trainableTokens.ts';
import { uBitfit } from '../selective/uBitfit.ts';

export const selective: readonly Listed[] = [
  listed('peft/selective/bitfit.ts', bitfit, {}, { llama: 'it has no biases' }),
  listed('peft/selective/beft.ts', beft, {}),
  listed('peft/selective/supertuning.ts', supertuning, { sparsity: 0.8 }),
  listed('peft/selective/sparseMask.ts', sparseMask, { density: 0.2 }),
  listed('peft/selective/diffPruning.ts', diffPruning, {
    density: 0.3,
    lambda: 0.01,
    alphaInit: 1,
    alphaRate: 1,
    group: 'row',
    where: ['q.weight', 'down.weight', 'norm1.weight'],
  }),
  listed('peft/selective/shira.ts', shira, { rank: 1, mask: 'struct', scale: 2 }),
  listed('peft/selective/fishMask.ts', fishMask, { density: 0.1, where: ['q.weight', 'down.weight', 'norm1.weight'] }),
  listed('peft/selective/sam.ts', sam, { density: 0.1, where: ['q.weight', 'down.weight', 'norm1.weight'] }),
  listed('peft/selective/snip.ts', snip, { density: 0.1, where: ['q.weight', 'down.weight', 'norm1.weight'] }),
  listed('peft/selective/ltSft.ts', ltSft, { density: 0.1, where: ['q.weight', 'down.weight', 'norm1.weight'] }),
  listed('peft/selective/childTuning.ts', childTuning, { where: ['q.weight', 'down.weight', 'norm1.weight'] }),
  listed('peft/selective/childTuningD.ts', childTuningD, { where: ['q.weight', 'down.weight', 'norm1.weight'] }),
  listed('peft/selective/lastLayers.ts', lastLayers, { layers: 2, where: ['q.weight', 'down.weight', 'norm1.weight'] }),
  listed('peft/selective/attentionOnly.ts', attentionOnly, {}),
  listed('peft/selective/headOnly.ts', headOnly, {}, { gpt2: 'its head is tied to the embedding' }),
  listed('peft/selective/far.ts', far, { share: 0.3 }),
  listed('peft/selective/trainableTokens.ts', trainableTokens, { tokens: [1, 3, 4, 9, 10] }),
  listed('peft/selective/spt.ts', spt, { density: 0.15, rank: 1 }),
  listed('peft/selective/fishDip.ts', fishDip, { density: 0.1, every: 5, least: 1, where: ['q.weight', 'down.weight', 'norm1.weight'] }),
  listed('peft/selective/uBitfit.ts', uBitfit, { density: 0.3 }, { llama: 'it has no biases' }),
  listed('peft/selective/sBitfit.ts', sBitfit, { density: 0.5 }, { llama: 'it has no biases' }),
];
