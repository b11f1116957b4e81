// The reparameterized methods, each with a small configuration for small networks.
import { nf4 } from '../../quant/nf4.ts';
import { normalFloat } from '../../quant/normalFloat.ts';
import { composition, type Listed, listed } from '../listed.ts';
import { adalora } from '../reparameterized/adalora.ts';
import { adamss } from '../reparameterized/adamss.ts';
import { alora } from '../reparameterized/alora.ts';
import { arrow } from '../reparameterized/arrow.ts';
import { autoLora } from '../reparameterized/autoLora.ts';
import { bdLora } from '../reparameterized/bdLora.ts';
import { bitDelta } from '../reparameterized/bitDelta.ts';
import { boft } from '../reparameterized/boft.ts';
import { bone } from '../reparameterized/bone.ts';
import { c3a } from '../reparameterized/c3a.ts';
import { capaBoost } from '../reparameterized/capaBoost.ts';
import { corda } from '../reparameterized/corda.ts';
import { deft } from '../reparameterized/deft.ts';
import { delora } from '../reparameterized/delora.ts';
import { deltaLora } from '../reparameterized/deltaLora.ts';
import { did } from '../reparameterized/did.ts';
import { dora } from '../reparameterized/dora.ts';
import { dvora } from '../reparameterized/dvora.ts';
import { dylora } from '../reparameterized/dylora.ts';
import { eva } from '../reparameterized/eva.ts';
import { fourierft } from '../reparameterized/fourierft.ts';
import { frod } from '../reparameterized/frod.ts';
import { glora } from '../reparameterized/glora.ts';
import { gralora } from '../reparameterized/gralora.ts';
import { hira } from '../reparameterized/hira.ts';
import { hiwi } from '../reparameterized/hiwi.ts';
import { hra } from '../reparameterized/hra.ts';
import { kAdaptation } from '../reparameterized/kAdaptation.ts';
import { kasa } from '../reparameterized/kasa.ts';
import { krona } from '../reparameterized/krona.ts';
import { lily } from '../reparameterized/lily.ts';
import { loftq } from '../reparameterized/loftq.ts';
import { loha } from '../reparameterized/loha.ts';
import { lokr } from '../reparameterized/lokr.ts';
import { lora } from '../reparameterized/lora.ts';
import { loraDrop } from '../reparameterized/loraDrop.ts';
import { loraDropout } from '../reparameterized/loraDropout.ts';
import { loraEmbedding } from '../reparameterized/loraEmbedding.ts';
import { loraFa } from '../reparameterized/loraFa.ts';
import { loraGa } from '../reparameterized/loraGa.ts';
import { loraOrthogonal } from '../reparameterized/loraOrthogonal.ts';
import { loraPlus } from '../reparameterized/loraPlus.ts';
import { loraXs } from '../reparameterized/loraXs.ts';
import { lqLora } from '../reparameterized/lqLora.ts';
import { mica } from '../reparameterized/mica.ts';
import { miss } from '../reparameterized/miss.ts';
import { moelora } from '../reparameterized/moelora.ts';
import { mole } from '../reparameterized/mole.ts';
import { monteclora } from '../reparameterized/monteclora.ts';
import { moslora } from '../reparameterized/moslora.ts';
import { mtlLora } from '../reparameterized/mtlLora.ts';
import { nola } from '../reparameterized/nola.ts';
import { oft } from '../reparameterized/oft.ts';
import { olora } from '../reparameterized/olora.ts';
import { osf } from '../reparameterized/osf.ts';
import { peanut } from '../reparameterized/peanut.ts';
import { peqa } from '../reparameterized/peqa.ts';
import { periodicLora } from '../reparameterized/periodicLora.ts';
import { pissa } from '../reparameterized/pissa.ts';
import { poly } from '../reparameterized/poly.ts';
import { psoft } from '../reparameterized/psoft.ts';
import { pvera } from '../reparameterized/pvera.ts';
import { qaLora } from '../reparameterized/qaLora.ts';
import { qdylora } from '../reparameterized/qdylora.ts';
import { randlora } from '../reparameterized/randlora.ts';
import { riemannianLora } from '../reparameterized/riemannianLora.ts';
import { road } from '../reparameterized/road.ts';
import { said } from '../reparameterized/said.ts';
import { sora } from '../reparameterized/sora.ts';
import { tinyLora } from '../reparameterized/tinyLora.ts';
import { uniLora } from '../reparameterized/uniLora.ts';
import { vblora } from '../reparameterized/vblora.ts';
import { velora } from '../reparameterized/velora.ts';
import { vera } from '../reparameterized/vera.ts';
import { waveft } from '../reparameterized/waveft.ts';
import { xlora } from '../reparameterized/xlora.ts';

export const reparameterized: readonly Listed[] = [
  listed('peft/reparameterized/lora.ts', lora, { rank: 2, alpha: 3, dropout: 0.25 }),
  listed('peft/reparameterized/loraEmbedding.ts', loraEmbedding, { rank: 2, alpha: 3 }),
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
  listed('peft/reparameterized/dvora.ts', dvora, { rank: 3 }),
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
  listed('peft/reparameterized/riemannianLora.ts', riemannianLora, { rank: 2, alpha: 3, damping: 0.1 }),
  listed('peft/reparameterized/adamss.ts', adamss, {
    ...{ directions: 4, subspaces: 3, rank: 2 },
    budget: { target: 6, from: 2, to: 8, interval: 3, beta1: 0.85, beta2: 0.85, exponent: 3 },
  }),
  listed('peft/reparameterized/frod.ts', frod, { sparsity: 0.1, dropout: 0.25 }),
  listed('peft/reparameterized/alora.ts', alora, {
    rank: 2,
    alpha: 3,
    dropout: 0.25,
    invocation: [5, 0, 7],
    absent: 'all',
    where: ['q', 'v'],
  }),
  listed('peft/reparameterized/xlora.ts', xlora, {
    experts: [
      { rank: 2, scale: 1.5 },
      { rank: 1, scale: 2 },
    ],
    ...{ depth: 2, hidden: 3, dropout: 0.25, layerwise: true, topK: 1 },
  }),
  listed('peft/reparameterized/arrow.ts', arrow, {
    experts: [
      { rank: 2, scale: 1.5 },
      { rank: 1, scale: 2 },
      { rank: 2, scale: 1 },
    ],
    ...{ topK: 3, temperature: 0.5, trainExperts: true }, // an expert that no token hears has no gradient
  }),
  listed('peft/reparameterized/velora.ts', velora, { rank: 2, alpha: 3, dropout: 0.25, groups: 3 }),
  listed('peft/reparameterized/monteclora.ts', monteclora, {
    rank: 2,
    alpha: 3,
    samples: 3,
    sampleScale: 0.1,
    klWeight: 0.01,
    entropy: true,
  }),
  listed('peft/reparameterized/road.ts', road, { variant: 1, groupSize: 4 }),
  listed('peft/reparameterized/mtlLora.ts', mtlLora, { rank: 2, alpha: 3, ups: 2, sharpness: 0.5 }),
  listed('peft/reparameterized/nola.ts', nola, { rank: 2, alpha: 3, dropout: 0.25, basis: 5 }),
  listed('peft/reparameterized/capaBoost.ts', capaBoost, { rank: 2, alpha: 3, dropout: 0.25, density: 0.6 }),
  listed('peft/reparameterized/kAdaptation.ts', kAdaptation, { n: 2, rank: 2, scale: 3 }),
  listed('peft/reparameterized/autoLora.ts', autoLora, { rank: 3, alpha: 3, dropout: 0.25 }),
  listed('peft/reparameterized/moelora.ts', moelora, { rank: 4, alpha: 3, dropout: 0.25, experts: 2, taskWidth: 3 }),
  listed('peft/reparameterized/hiwi.ts', hiwi, { bottleneck: 3, activation: 'gelu', where: /mlp\.(up|down)\.(weight|bias)$/ }),
  listed('peft/reparameterized/periodicLora.ts', periodicLora, { rank: 2, alpha: 3, dropout: 0.25, period: 4, stages: 3 }),
  listed(
    'peft/reparameterized/mole.ts',
    mole,
    { experts: [1, 2].map((rank) => ({ rank, scale: 1.5 })), length: 16, balance: 0.1 },
    { gpt2: 'its tokens must not see later ones', llama: 'its tokens must not see later ones' },
  ),
  listed('peft/reparameterized/peqa.ts', peqa, { bits: 4, group: 3, where: ['v.weight', 'up.weight', 'norm2.weight'] }),
  composition(
    { name: 'qdylora', family: 'reparameterized', paper: 'arXiv:2402.10462', file: 'peft/reparameterized/qdylora.ts' },
    (seed) => qdylora({ seed }),
    (seed) => qdylora({ rank: 4, alpha: 3, dropout: 0.25, ranks: [1, 3], scheme: nf4({ block: 8 }), seed }),
  ),
  listed('peft/reparameterized/bitDelta.ts', bitDelta, { where: ['q', 'down'] }),
  listed('peft/reparameterized/lqLora.ts', lqLora, {
    rank: 2,
    alpha: 3,
    dropout: 0.25,
    iterations: 2,
    bits: 6.5,
    dataAware: true,
    schemes: [normalFloat({ bits: 2, block: 8 }), nf4({ block: 8 })],
    where: ['q', 'down'],
  }),
];
