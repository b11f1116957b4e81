// The additive methods, each with a small configuration for small networks.
import { adamix } from '../additive/adamix.ts';
import { adapterBias } from '../additive/adapterBias.ts';
import { adapterDrop } from '../additive/adapterDrop.ts';
import { adapterFusion } from '../additive/adapterFusion.ts';
import { adapterPlus } from '../additive/adapterPlus.ts';
import { aprompt } from '../additive/aprompt.ts';
import { apt } from '../additive/apt.ts';
import { attempt } from '../additive/attempt.ts';
import { biAdapter } from '../additive/biAdapter.ts';
import { cartridge } from '../additive/cartridge.ts';
import { coda } from '../additive/coda.ts';
import { compacter, compacterPlusPlus } from '../additive/compacter.ts';
import { cpt } from '../additive/cpt.ts';
import { dept } from '../additive/dept.ts';
import { houlsby } from '../additive/houlsby.ts';
import { hyperformer } from '../additive/hyperformer.ts';
import { ia3 } from '../additive/ia3.ts';
import { idpg } from '../additive/idpg.ts';
import { invertible } from '../additive/invertible.ts';
import { ipt } from '../additive/ipt.ts';
import { llamaAdapter } from '../additive/llamaAdapter.ts';
import { lnTuning } from '../additive/lnTuning.ts';
import { lpt } from '../additive/lpt.ts';
import { lst } from '../additive/lst.ts';
import { madx } from '../additive/madx.ts';
import { meft } from '../additive/meft.ts';
import { mixlora } from '../additive/mixlora.ts';
import { mixloraExperts } from '../additive/mixloraExperts.ts';
import { molora } from '../additive/molora.ts';
import { mov } from '../additive/mov.ts';
import { mpt } from '../additive/mpt.ts';
import { parallelAdapter } from '../additive/parallelAdapter.ts';
import { pfeiffer } from '../additive/pfeiffer.ts';
import { pha } from '../additive/pha.ts';
import { prefixTuning } from '../additive/prefixTuning.ts';
import { promptTuning } from '../additive/promptTuning.ts';
import { pTuning } from '../additive/pTuning.ts';
import { pTuningTemplate } from '../additive/pTuningTemplate.ts';
import { pTuningV2 } from '../additive/pTuningV2.ts';
import { ptp } from '../additive/ptp.ts';
import { direft, loreft, noreft } from '../additive/reft.ts';
import { resTuning } from '../additive/resTuning.ts';
import { sideTuning } from '../additive/sideTuning.ts';
import { smop } from '../additive/smop.ts';
import { spot } from '../additive/spot.ts';
import { sptPrompt } from '../additive/sptPrompt.ts';
import { ssf } from '../additive/ssf.ts';
import { tinyAttn } from '../additive/tinyAttn.ts';
import { tpt } from '../additive/tpt.ts';
import { xprompt } from '../additive/xprompt.ts';
import { hybrid } from '../combine.ts';
import { composition, type Listed, listed } from '../listed.ts';

/** Language models, for prompts made of the whole text. */
const wholeText = { gpt2: 'its tokens must not see later ones', llama: 'its tokens must not see later ones' };

export const additive: readonly Listed[] = [
  listed('peft/additive/houlsby.ts', houlsby, { bottleneck: 3 }),
  listed('peft/additive/pfeiffer.ts', pfeiffer, { bottleneck: 3, activation: 'silu' }),
  listed('peft/additive/adapterFusion.ts', adapterFusion, {
    adapters: [
      { bottleneck: 3, activation: 'silu' },
      { bottleneck: 2, activation: 'gelu' },
    ],
    temperature: true,
    dropout: 0.25,
  }),
  composition(
    { name: 'adapterDrop', family: 'additive', paper: 'arXiv:2010.11918', file: 'peft/additive/adapterDrop.ts' },
    (seed) => hybrid('adapterDrop', pfeiffer({ seed }), adapterDrop({ where: 'mlp' })),
    (seed) => hybrid('adapterDrop', pfeiffer({ bottleneck: 3, activation: 'silu', seed }), adapterDrop({ where: 'mlp' })),
  ),
  listed('peft/additive/adamix.ts', adamix, { experts: 2, bottleneck: 3 }),
  listed('peft/additive/compacter.ts', compacter, { n: 2, bottleneck: 4, std: 0.5 }),
  composition(
    { name: 'compacter++', family: 'additive', paper: 'arXiv:2106.04647', file: 'peft/additive/compacter.ts' },
    (seed) => compacterPlusPlus({ seed }),
    (seed) => compacterPlusPlus({ n: 2, rank: 2, bottleneck: 4, std: 0.5, seed }),
  ),
  listed('peft/additive/llamaAdapter.ts', llamaAdapter, { length: 2 }),
  listed('peft/additive/invertible.ts', invertible, { activation: 'silu' }),
  composition(
    { name: 'madx', family: 'additive', paper: 'arXiv:2005.00052', file: 'peft/additive/madx.ts' },
    (seed) => madx({ seed }),
    (seed) => madx({ invertible: { activation: 'silu' }, adapter: { bottleneck: 3, activation: 'silu' }, seed }),
  ),
  listed('peft/additive/parallelAdapter.ts', parallelAdapter, { bottleneck: 3, scale: 2 }),
  listed('peft/additive/promptTuning.ts', promptTuning, { length: 2 }),
  listed('peft/additive/prefixTuning.ts', prefixTuning, { length: 2, bottleneck: 3 }),
  listed('peft/additive/cartridge.ts', cartridge, { length: 3, frozen: 1 }),
  listed('peft/additive/cpt.ts', cpt, { ids: [3, 1, 4, 1], types: [1, 2, 3, 4], epsilon: 8, formatEpsilon: 4 }),
  listed('peft/additive/pTuning.ts', pTuning, { length: 2, hidden: 3 }),
  listed('peft/additive/pTuningTemplate.ts', pTuningTemplate, { pseudoTokens: [0, 1, 2, 3, 4, 5], hidden: 2, layers: 2 }),
  composition(
    { name: 'pTuningV2', family: 'additive', paper: 'arXiv:2110.07602', file: 'peft/additive/pTuningV2.ts' },
    (seed) => pTuningV2({ seed }),
    (seed) => pTuningV2({ length: 2, dropout: 0.25, seed }),
  ),
  composition(
    { name: 'spot', family: 'additive', paper: 'arXiv:2110.07904', file: 'peft/additive/spot.ts' },
    (seed) => spot({ seed }),
    (seed) => spot({ length: 2, seed }),
  ),
  listed('peft/additive/xprompt.ts', xprompt, { length: 2, pieces: 4 }),
  listed('peft/additive/mpt.ts', mpt, { length: 2, ranks: 2 }),
  listed('peft/additive/idpg.ts', idpg, { length: 2, hidden: 3, activation: 'silu' }, wholeText),
  listed('peft/additive/dept.ts', dept, { length: 2, rank: 2, tokens: 12, alpha: 2, matrixRate: 0.1 }),
  listed('peft/additive/lpt.ts', lpt, { length: 2 }),
  listed('peft/additive/apt.ts', apt, { length: 2 }, wholeText),
  listed('peft/additive/aprompt.ts', aprompt, { length: 2, queryKey: 2, keyValue: 3, tokens: 16 }),
  listed('peft/additive/attempt.ts', attempt, { length: 2, sources: 3, hidden: 3, temperature: 2 }, wholeText),
  listed('peft/additive/ipt.ts', ipt, { length: 2, dimension: 3, hidden: 4 }),
  listed('peft/additive/tpt.ts', tpt, { length: 2, sourceWidth: 3, hidden: 4 }),
  composition(
    { name: 'ptp', family: 'additive', paper: 'arXiv:2305.02423', file: 'peft/additive/ptp.ts' },
    (seed) => ptp({ seed }),
    (seed) => ptp({ length: 2, seed }),
  ),
  listed('peft/additive/sptPrompt.ts', sptPrompt, { length: 2, tau: 0.75 }),
  listed('peft/additive/smop.ts', smop, { experts: 2, length: 2 }, wholeText),
  listed('peft/additive/ia3.ts', ia3, {}),
  composition(
    { name: 'ssf', family: 'additive', paper: 'arXiv:2210.08823', file: 'peft/additive/ssf.ts' },
    (seed) => ssf({ seed }),
    (seed) => ssf({ seed }),
  ),
  listed('peft/additive/lnTuning.ts', lnTuning, {}),
  listed('peft/additive/mov.ts', mov, { experts: 3, balance: 0.1 }),
  listed('peft/additive/molora.ts', molora, { experts: 3, rank: 2, alpha: 3, dropout: 0.25, balance: 0.1 }),
  listed('peft/additive/mixloraExperts.ts', mixloraExperts, { experts: 2, topK: 2, rank: 1, alpha: 3, dropout: 0.25, balance: 0.1 }), // an expert that no token hears has no gradient
  composition(
    { name: 'mixlora', family: 'additive', paper: 'arXiv:2404.15159', file: 'peft/additive/mixlora.ts' },
    (seed) => mixlora({ seed }),
    (seed) => mixlora({ experts: 2, topK: 2, rank: 1, alpha: 3, attention: 'v', seed }),
  ),
  listed('peft/additive/reft.ts', loreft, { rank: 2, prefix: 2, dropout: 0.25 }),
  listed('peft/additive/reft.ts', noreft, { rank: 2, prefix: 1 }),
  listed('peft/additive/reft.ts', direft, { rank: 2, prefix: 2, tied: true }),
  listed('peft/additive/lst.ts', lst, { reduction: 2 }),
  listed('peft/additive/adapterBias.ts', adapterBias, {}),
  listed('peft/additive/adapterPlus.ts', adapterPlus, { bottleneck: 3, stochasticDepth: 0.5 }),
  listed('peft/additive/resTuning.ts', resTuning, { bottleneck: 3 }),
  listed('peft/additive/sideTuning.ts', sideTuning, { reduction: 2 }),
  listed('peft/additive/tinyAttn.ts', tinyAttn, { width: 2, heads: 2 }),
  listed('peft/additive/meft.ts', meft, { bottleneck: 3 }),
  listed('peft/additive/coda.ts', coda, { bottleneck: 3, activation: 'silu', tokens: 0.5, epsilon: 1, turns: 4 }, wholeText),
  listed('peft/additive/hyperformer.ts', hyperformer, { bottleneck: 3, embedding: 2, hidden: 6, projected: 3 }),
  listed('peft/additive/pha.ts', pha, { bottleneck: 3, activation: 'silu', embedding: 3, hidden: 6 }),
  listed('peft/additive/biAdapter.ts', biAdapter, { bottleneck: 3, bits: 2, dropout: 0.25, scale: 2 }),
];
