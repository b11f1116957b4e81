// Every method of the library in one list, each with a small configuration for small networks: for tests, tables and the lab.
import type { Kind } from '../nn/layer.ts';
import { nf4 } from '../quant/nf4.ts';
import { adamix } from './additive/adamix.ts';
import { adapterDrop } from './additive/adapterDrop.ts';
import { adapterFusion } from './additive/adapterFusion.ts';
import { compacter, compacterPlusPlus } from './additive/compacter.ts';
import { dept } from './additive/dept.ts';
import { houlsby } from './additive/houlsby.ts';
import { ia3 } from './additive/ia3.ts';
import { idpg } from './additive/idpg.ts';
import { invertible } from './additive/invertible.ts';
import { llamaAdapter } from './additive/llamaAdapter.ts';
import { lnTuning } from './additive/lnTuning.ts';
import { lst } from './additive/lst.ts';
import { madx } from './additive/madx.ts';
import { mixlora } from './additive/mixlora.ts';
import { mixloraExperts } from './additive/mixloraExperts.ts';
import { molora } from './additive/molora.ts';
import { mov } from './additive/mov.ts';
import { mpt } from './additive/mpt.ts';
import { parallelAdapter } from './additive/parallelAdapter.ts';
import { pfeiffer } from './additive/pfeiffer.ts';
import { prefixTuning } from './additive/prefixTuning.ts';
import { promptTuning } from './additive/promptTuning.ts';
import { pTuning } from './additive/pTuning.ts';
import { pTuningTemplate } from './additive/pTuningTemplate.ts';
import { pTuningV2 } from './additive/pTuningV2.ts';
import { direft, loreft, noreft } from './additive/reft.ts';
import { smop } from './additive/smop.ts';
import { spot } from './additive/spot.ts';
import { ssf } from './additive/ssf.ts';
import { xprompt } from './additive/xprompt.ts';
import type { Configurable } from './attach.ts';
import { hybrid } from './combine.ts';
import { autopeft } from './hybrid/autopeft.ts';
import { llmAdapters } from './hybrid/llmAdapters.ts';
import { longlora } from './hybrid/longlora.ts';
import { mam } from './hybrid/mam.ts';
import { noah } from './hybrid/noah.ts';
import { s4 } from './hybrid/s4.ts';
import { unipelt } from './hybrid/unipelt.ts';
import type { Options, Transform } from './method.ts';
import { adalora } from './reparameterized/adalora.ts';
import { bdLora } from './reparameterized/bdLora.ts';
import { boft } from './reparameterized/boft.ts';
import { bone } from './reparameterized/bone.ts';
import { c3a } from './reparameterized/c3a.ts';
import { corda } from './reparameterized/corda.ts';
import { deft } from './reparameterized/deft.ts';
import { delora } from './reparameterized/delora.ts';
import { deltaLora } from './reparameterized/deltaLora.ts';
import { did } from './reparameterized/did.ts';
import { dora } from './reparameterized/dora.ts';
import { dylora } from './reparameterized/dylora.ts';
import { eva } from './reparameterized/eva.ts';
import { fourierft } from './reparameterized/fourierft.ts';
import { glora } from './reparameterized/glora.ts';
import { gralora } from './reparameterized/gralora.ts';
import { hira } from './reparameterized/hira.ts';
import { hra } from './reparameterized/hra.ts';
import { kasa } from './reparameterized/kasa.ts';
import { krona } from './reparameterized/krona.ts';
import { lily } from './reparameterized/lily.ts';
import { loftq } from './reparameterized/loftq.ts';
import { loha } from './reparameterized/loha.ts';
import { lokr } from './reparameterized/lokr.ts';
import { lora } from './reparameterized/lora.ts';
import { loraDrop } from './reparameterized/loraDrop.ts';
import { loraDropout } from './reparameterized/loraDropout.ts';
import { loraFa } from './reparameterized/loraFa.ts';
import { loraGa } from './reparameterized/loraGa.ts';
import { loraOrthogonal } from './reparameterized/loraOrthogonal.ts';
import { loraPlus } from './reparameterized/loraPlus.ts';
import { loraXs } from './reparameterized/loraXs.ts';
import { mica } from './reparameterized/mica.ts';
import { miss } from './reparameterized/miss.ts';
import { moslora } from './reparameterized/moslora.ts';
import { oft } from './reparameterized/oft.ts';
import { olora } from './reparameterized/olora.ts';
import { osf } from './reparameterized/osf.ts';
import { peanut } from './reparameterized/peanut.ts';
import { pissa } from './reparameterized/pissa.ts';
import { poly } from './reparameterized/poly.ts';
import { psoft } from './reparameterized/psoft.ts';
import { pvera } from './reparameterized/pvera.ts';
import { qaLora } from './reparameterized/qaLora.ts';
import { randlora } from './reparameterized/randlora.ts';
import { road } from './reparameterized/road.ts';
import { said } from './reparameterized/said.ts';
import { sora } from './reparameterized/sora.ts';
import { tinyLora } from './reparameterized/tinyLora.ts';
import { uniLora } from './reparameterized/uniLora.ts';
import { vblora } from './reparameterized/vblora.ts';
import { vera } from './reparameterized/vera.ts';
import { waveft } from './reparameterized/waveft.ts';
import { attentionOnly } from './selective/attentionOnly.ts';
import { beft } from './selective/beft.ts';
import { bitfit } from './selective/bitfit.ts';
import { childTuning } from './selective/childTuning.ts';
import { childTuningD } from './selective/childTuningD.ts';
import { diffPruning } from './selective/diffPruning.ts';
import { far } from './selective/far.ts';
import { fishMask } from './selective/fishMask.ts';
import { headOnly } from './selective/headOnly.ts';
import { lastLayers } from './selective/lastLayers.ts';
import { ltSft } from './selective/ltSft.ts';
import { sam } from './selective/sam.ts';
import { shira } from './selective/shira.ts';
import { snip } from './selective/snip.ts';
import { sparseMask } from './selective/sparseMask.ts';
import { spt } from './selective/spt.ts';
import { supertuning } from './selective/supertuning.ts';
import type { Where } from './site.ts';

/** What may be changed on any method. */
export interface Placed {
  readonly where?: Where;
  readonly seed?: number;
}
export interface Listed {
  readonly name: string;
  readonly family: string;
  readonly paper: string;
  /** The kind of layer it attaches to; several for a composition. */
  readonly at: readonly Kind[];
  /** Where it is written, from the root of the repository. */
  readonly file: string;
  /** Whether `where` can be chosen; a composition's parts choose for themselves. */
  readonly placeable: boolean;
  /** As the paper has it; `seed` (0) starts what is random. */
  readonly standard: (seed?: number) => Transform;
  /** Small enough for a network of width 8. */
  readonly tiny: (placed?: Placed) => Transform;
  /** Networks it has nothing to attach to, and why: there it must refuse. */
  readonly unfit: Readonly<Record<string, string>>;
}

/** A method made with `defineMethod`. */
export const listed = <C>(
  file: string,
  configurable: Configurable<C>,
  tiny: Options<C>,
  unfit: Readonly<Record<string, string>> = {},
): Listed => {
  const { name, family, paper, at } = configurable.method;
  return {
    name,
    family,
    paper,
    at: [at],
    file,
    unfit,
    placeable: true,
    standard: (seed = 0) => configurable({ seed } as Options<C>), // a seam: seed is an option of every method
    tiny: (placed = {}) => configurable({ ...tiny, ...placed }),
  };
};

/** A composition written in the open: it takes a seed, and its parts know their places. */
export const composition = (
  about: Pick<Listed, 'name' | 'family' | 'paper' | 'file'>,
  standard: (seed: number) => Transform,
  tiny: (seed: number) => Transform,
  unfit: Readonly<Record<string, string>> = {},
): Listed => ({
  ...about,
  at: [...new Set(standard(0).parts.map((p) => p.method.at))],
  unfit,
  placeable: false,
  standard: (seed = 0) => standard(seed),
  tiny: ({ seed = 0 } = {}) => tiny(seed),
});

/** Language models, for prompts made of the whole text. */
const wholeText = { gpt2: 'its tokens must not see later ones', llama: 'its tokens must not see later ones' };

export const methods: readonly Listed[] = [
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
  listed('peft/selective/spt.ts', spt, { density: 0.15, rank: 1 }),
  listed('peft/reparameterized/lora.ts', lora, { rank: 2, alpha: 3, dropout: 0.25 }),
  listed('peft/reparameterized/dora.ts', dora, { rank: 2, alpha: 3 }),
  listed('peft/reparameterized/adalora.ts', adalora, { rank: 3, targetRank: 2 }),
  listed('peft/reparameterized/pissa.ts', pissa, { rank: 2, alpha: 3 }),
  listed('peft/reparameterized/loraPlus.ts', loraPlus, { rank: 2, alpha: 3, ratio: 4 }),
  listed('peft/reparameterized/loraFa.ts', loraFa, { rank: 2, alpha: 3 }),
  listed('peft/reparameterized/deltaLora.ts', deltaLora, { rank: 2, alpha: 3, warmup: 3 }),
  listed('peft/reparameterized/dylora.ts', dylora, { rank: 4, alpha: 3 }),
  listed('peft/reparameterized/sora.ts', sora, { rank: 3, alpha: 3, xi: 0.02 }),
  listed('peft/reparameterized/loraDropout.ts', loraDropout, { rank: 2, alpha: 3, dropout: 0.25 }),
  listed('peft/reparameterized/loraXs.ts', loraXs, { rank: 2, alpha: 3, sigma: 0.1 }),
  listed('peft/reparameterized/olora.ts', olora, { rank: 2, alpha: 3 }),
  listed('peft/reparameterized/moslora.ts', moslora, { rank: 2, alpha: 3 }),
  listed('peft/reparameterized/vblora.ts', vblora, { rank: 2, vectors: 5, vectorLength: 4, logitsRate: 1 }),
  listed('peft/reparameterized/loraDrop.ts', loraDrop, { rank: 2, alpha: 3, keep: ['blocks.1.attn.q'] }),
  listed('peft/reparameterized/eva.ts', eva, { rank: 2, alpha: 3, ranks: { 'trunk.blocks.1.attn.q': 3 } }),
  listed('peft/reparameterized/corda.ts', corda, { rank: 2, alpha: 3 }),
  listed('peft/reparameterized/loraGa.ts', loraGa, { rank: 2, alpha: 3 }),
  listed('peft/reparameterized/poly.ts', poly, { rank: 2, skills: 3, splits: 2 }),
  listed('peft/reparameterized/loftq.ts', loftq, { rank: 2, alpha: 3, iterations: 2, scheme: nf4({ block: 8 }) }),
  listed('peft/reparameterized/qaLora.ts', qaLora, { rank: 2, alpha: 3, dropout: 0.25, group: 4 }),
  listed('peft/reparameterized/miss.ts', miss, { rank: 3 }),
  listed('peft/reparameterized/bone.ts', bone, { rank: 2 }),
  listed('peft/reparameterized/hira.ts', hira, { rank: 2 }),
  listed('peft/reparameterized/loha.ts', loha, { rank: 2, alpha: 3, rankDropout: 0.25, moduleDropout: 0.25 }),
  listed('peft/reparameterized/lokr.ts', lokr, { rank: 1, alpha: 3, rankDropout: 0.25, rescale: true }),
  listed('peft/reparameterized/krona.ts', krona, {}),
  listed('peft/reparameterized/oft.ts', oft, { blockSize: 4, dropout: 0.25 }),
  listed('peft/reparameterized/boft.ts', boft, { blockSize: 2, factors: 2, dropout: 0.25 }),
  listed('peft/reparameterized/hra.ts', hra, { rank: 2 }),
  listed('peft/reparameterized/fourierft.ts', fourierft, { coefficients: 6, scaling: 20 }),
  listed('peft/reparameterized/did.ts', did, { dim: 7 }),
  listed('peft/reparameterized/said.ts', said, { dim: 20, where: ['q.weight', 'down.weight', 'norm1.weight'] }),
  listed('peft/reparameterized/vera.ts', vera, { rank: 3 }),
  listed('peft/reparameterized/pvera.ts', pvera, { rank: 3 }),
  listed('peft/reparameterized/randlora.ts', randlora, { rank: 3, alpha: 6 }),
  listed('peft/reparameterized/uniLora.ts', uniLora, { rank: 2, size: 7, bound: 0.5 }),
  listed('peft/reparameterized/tinyLora.ts', tinyLora, { rank: 2, size: 3, tying: 0.5 }),
  listed('peft/reparameterized/c3a.ts', c3a, { blockSize: 4 }),
  listed('peft/reparameterized/gralora.ts', gralora, { rank: 4, alpha: 3, blocks: 2, hybrid: 1 }),
  listed('peft/reparameterized/delora.ts', delora, { rank: 2, lambda: 2 }),
  listed('peft/reparameterized/psoft.ts', psoft, { rank: 3, alpha: 2 }),
  listed('peft/reparameterized/mica.ts', mica, { rank: 2, alpha: 3, dropout: 0.25 }),
  listed('peft/reparameterized/kasa.ts', kasa, { rank: 2, alpha: 3 }),
  listed('peft/reparameterized/deft.ts', deft, { rank: 2 }),
  listed('peft/reparameterized/peanut.ts', peanut, { rank: 2, depth: 1 }),
  listed('peft/reparameterized/waveft.ts', waveft, { coefficients: 9, scaling: 4 }),
  listed('peft/reparameterized/osf.ts', osf, { kept: 2 }),
  listed('peft/reparameterized/glora.ts', glora, { rank: 2 }),
  listed('peft/reparameterized/lily.ts', lily, { rank: 2, stride: 2, experts: 2, scale: 2 }),
  listed('peft/reparameterized/loraOrthogonal.ts', loraOrthogonal, { rank: 2, alpha: 3 }),
  listed('peft/reparameterized/bdLora.ts', bdLora, { rank: 2, alpha: 3, blocks: 2, where: ['q', 'o'] }),
  listed('peft/reparameterized/road.ts', road, { variant: 1, groupSize: 4 }),
  listed('peft/hybrid/unipelt.ts', unipelt, { rank: 2, length: 2, prefixBottleneck: 3, bottleneck: 3, activation: 'silu' }),
  composition(
    { name: 'mam', family: 'hybrid', paper: 'arXiv:2110.04366', file: 'peft/hybrid/mam.ts' },
    (seed) => mam({ seed }),
    (seed) => mam({ length: 2, prefixBottleneck: 3, bottleneck: 3, scale: 2, seed }),
  ),
  listed('peft/additive/lst.ts', lst, { reduction: 2 }),
  composition(
    { name: 'longlora', family: 'hybrid', paper: 'arXiv:2309.12307', file: 'peft/hybrid/longlora.ts' },
    (seed) => longlora({ seed }),
    (seed) => longlora({ rank: 2, alpha: 3, seed }),
    { gpt2: 'its positions are not rotary', bert: 'its positions are not rotary' },
  ),
  composition(
    { name: 's4', family: 'hybrid', paper: 'arXiv:2301.01821', file: 'peft/hybrid/s4.ts' },
    (seed) =>
      s4(
        [
          { blocks: [0], adapter: 8, lora: 4, prefix: 0, bitfit: false },
          { blocks: [1], adapter: 8, lora: 0, prefix: 4, bitfit: true },
        ],
        seed,
      ),
    (seed) =>
      s4(
        [
          { blocks: [0], adapter: 2, lora: 1, prefix: 0, bitfit: false },
          { blocks: [1], adapter: 0, lora: 2, prefix: 2, bitfit: false },
        ],
        seed,
      ),
  ),
  composition(
    { name: 'autopeft', family: 'hybrid', paper: 'arXiv:2301.12132', file: 'peft/hybrid/autopeft.ts' },
    (seed) => autopeft({ serial: 8, parallel: 8, prefix: 4, layers: [true, true] }, { seed }),
    (seed) => autopeft({ serial: 2, parallel: 2, prefix: 1, layers: [false, true] }, { seed, activation: 'silu' }),
  ),
  composition(
    { name: 'noah', family: 'hybrid', paper: 'arXiv:2206.04673', file: 'peft/hybrid/noah.ts' },
    (seed) => noah({ prompt: [5, 0], lora: [5, 5], adapter: [5, 10] }, { seed }),
    (seed) => noah({ prompt: [2, 0], lora: [1, 2], adapter: [0, 3] }, { seed, activation: 'silu' }),
  ),
  composition(
    { name: 'llmAdapters', family: 'hybrid', paper: 'arXiv:2304.01933', file: 'peft/hybrid/llmAdapters.ts' },
    (seed) => llmAdapters('series', { seed }),
    (seed) => llmAdapters('series', { bottleneck: 3, seed }),
  ),
];
