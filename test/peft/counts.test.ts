// Trainable parameters on Llama-3.2-3B, as Hugging Face PEFT's benchmark publishes them: every method that is here, at the places it picks there.
import { expect, test } from 'vitest';
import { rng } from '../../core/rng.ts';
import { decoder, llama } from '../../nn/decoder.ts';
import { freeze } from '../../nn/freeze.ts';
import type { Kind } from '../../nn/layer.ts';
import { ia3 } from '../../peft/additive/ia3.ts';
import { llamaAdapter } from '../../peft/additive/llamaAdapter.ts';
import { lnTuning } from '../../peft/additive/lnTuning.ts';
import { prefixTuning } from '../../peft/additive/prefixTuning.ts';
import { promptTuning } from '../../peft/additive/promptTuning.ts';
import { pTuning } from '../../peft/additive/pTuning.ts';
import type { Transform } from '../../peft/method.ts';
import { adalora } from '../../peft/reparameterized/adalora.ts';
import { boft } from '../../peft/reparameterized/boft.ts';
import { corda } from '../../peft/reparameterized/corda.ts';
import { dora } from '../../peft/reparameterized/dora.ts';
import { eva } from '../../peft/reparameterized/eva.ts';
import { fourierft } from '../../peft/reparameterized/fourierft.ts';
import { hira } from '../../peft/reparameterized/hira.ts';
import { loha } from '../../peft/reparameterized/loha.ts';
import { lokr } from '../../peft/reparameterized/lokr.ts';
import { lora } from '../../peft/reparameterized/lora.ts';
import { loraFa } from '../../peft/reparameterized/loraFa.ts';
import { loraGa } from '../../peft/reparameterized/loraGa.ts';
import { miss } from '../../peft/reparameterized/miss.ts';
import { oft } from '../../peft/reparameterized/oft.ts';
import { olora } from '../../peft/reparameterized/olora.ts';
import { pissa } from '../../peft/reparameterized/pissa.ts';
import { vblora } from '../../peft/reparameterized/vblora.ts';
import { vera } from '../../peft/reparameterized/vera.ts';
import { bitfit } from '../../peft/selective/bitfit.ts';
import { shira } from '../../peft/selective/shira.ts';
import { pick, type Site, type Where } from '../../peft/site.ts';

/** All of its 28 blocks, 24 heads and 8 key heads, in the proportions 1 : 128, so that nothing large is allocated. */
const SCALE = 128;
const small = (bias: boolean) =>
  freeze(decoder(llama({ vocabulary: 2, width: 24, layers: 28, heads: 24, kvHeads: 8, inner: 64, positions: 2, bias }), rng(0)));
const [network, withBiases] = [small(false), small(true)];

/** A place as it is in the real network: sizes times 128, numbers of heads as they are. */
const real = <K extends Kind>(s: Site<K>): Site<K> => {
  const shape = s.kind === 'weight' || s.kind === 'linear' ? s.shape.map((n) => n * SCALE) : [];
  return Object.create(s, {
    shape: { get: () => shape },
    layer: { value: () => ({ shape }) },
    dim: { value: (name: string) => s.dim(name) * (/^(width|headWidth)$/.test(name) ? SCALE : 1) },
    within: { value: (kind: Kind, where?: Where) => s.within(kind, where).map(real) },
  }) as Site<K>;
};
function trained(t: Transform, model = network): number {
  const [{ method, config }] = t.parts as [Transform['parts'][number]];
  return method.count(pick(model, method.at, config.where, method.name).map(real), config).train;
}

const r = 32;
const vectors: readonly (readonly [Transform, number])[] = [
  [lora({ rank: r }), 9_175_040],
  [lora({ rank: r, rankStabilized: true }), 9_175_040],
  [pissa({ rank: r }), 9_175_040],
  [olora({ rank: r }), 9_175_040],
  [corda({ rank: r }), 9_175_040],
  [eva({ rank: r }), 9_175_040],
  [loraGa({ rank: r }), 9_175_040],
  [hira({ rank: r }), 9_175_040],
  [shira({ rank: r }), 9_175_040],
  [lora({ rank: 64 }), 18_350_080],
  [dora({ rank: r }), 9_289_728],
  [loraFa({ rank: r }), 3_670_016],
  [adalora({ rank: 64 }), 18_353_664],
  [loha({ rank: r }), 18_350_080],
  [lokr({ rank: r, factor: 4 }), 2_294_656],
  [vera({ rank: 256 }), 129_024],
  [vblora({ rank: 4, vectors: 256, vectorLength: 256 }), 1_212_416],
  [ia3(), 286_720],
  [miss({ rank: 64 }), 7_340_032],
  [miss({ rank: 64, miniRank: 64 }), 229_376],
  [oft({ blockSize: 96 }), 8_171_520],
  [boft({ blockSize: 4, factors: 1 }), 802_816],
  [fourierft({ coefficients: 1000 }), 56_000],
  [fourierft({ coefficients: 5000 }), 280_000],
  [lnTuning(), 175_104],
  [promptTuning({ length: 200 }), 614_400],
  [prefixTuning({ length: 200, bottleneck: null }), 11_468_800],
  [prefixTuning({ length: 50, bottleneck: null }), 2_867_200],
  [pTuning({ length: 20, hidden: 3072 }), 28_382_208],
  [llamaAdapter({ length: 100, gate: 'one', where: 'attn' }), 8_601_628],
];
test.each(vectors.map(([t, n]) => [t.title, n, t] as const))('%s: %i', (_, n, t) => {
  expect(trained(t)).toBe(n);
});
test('bitfit on the values, which PEFT calls BEFT: 28672', () => {
  expect(trained(bitfit({ where: 'v.bias' }), withBiases)).toBe(28_672);
});
