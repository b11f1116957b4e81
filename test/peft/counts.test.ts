// Trainable parameters on Llama-3.2-3B, as Hugging Face PEFT's benchmark publishes them, on the network in its real shapes, with no numbers in it.
import { expect, test } from 'vitest';
import { account } from '../../core/account.ts';
import { blank, blankResult } from '../../core/blank.ts';
import { grad } from '../../core/grad.ts';
import { type Shape, size } from '../../core/shape.ts';
import { leaf, stateOf } from '../../core/tensor.ts';
import { context } from '../../nn/context.ts';
import { decoder, llama } from '../../nn/decoder.ts';
import { freeze } from '../../nn/freeze.ts';
import { nextToken } from '../../nn/losses.ts';
import { tensors, trainable } from '../../nn/tree.ts';
import { ia3 } from '../../peft/additive/ia3.ts';
import { llamaAdapter } from '../../peft/additive/llamaAdapter.ts';
import { lnTuning } from '../../peft/additive/lnTuning.ts';
import { prefixTuning } from '../../peft/additive/prefixTuning.ts';
import { promptTuning } from '../../peft/additive/promptTuning.ts';
import { pTuning } from '../../peft/additive/pTuning.ts';
import { type Configurable, defineMethod } from '../../peft/attach.ts';
import type { Method, Transform } from '../../peft/method.ts';
import { adalora } from '../../peft/reparameterized/adalora.ts';
import { boft } from '../../peft/reparameterized/boft.ts';
import { c3a } from '../../peft/reparameterized/c3a.ts';
import { corda } from '../../peft/reparameterized/corda.ts';
import { deft } from '../../peft/reparameterized/deft.ts';
import { delora } from '../../peft/reparameterized/delora.ts';
import { dora } from '../../peft/reparameterized/dora.ts';
import { eva } from '../../peft/reparameterized/eva.ts';
import { fourierft } from '../../peft/reparameterized/fourierft.ts';
import { glora } from '../../peft/reparameterized/glora.ts';
import { gralora } from '../../peft/reparameterized/gralora.ts';
import { hira } from '../../peft/reparameterized/hira.ts';
import { loha } from '../../peft/reparameterized/loha.ts';
import { lokr } from '../../peft/reparameterized/lokr.ts';
import { type Factors, lora, type UpdateConfig } from '../../peft/reparameterized/lora.ts';
import { loraFa } from '../../peft/reparameterized/loraFa.ts';
import { loraGa } from '../../peft/reparameterized/loraGa.ts';
import { mica } from '../../peft/reparameterized/mica.ts';
import { miss } from '../../peft/reparameterized/miss.ts';
import { oft } from '../../peft/reparameterized/oft.ts';
import { olora } from '../../peft/reparameterized/olora.ts';
import { peanut } from '../../peft/reparameterized/peanut.ts';
import { pissa } from '../../peft/reparameterized/pissa.ts';
import { psoft } from '../../peft/reparameterized/psoft.ts';
import { pvera } from '../../peft/reparameterized/pvera.ts';
import { randlora } from '../../peft/reparameterized/randlora.ts';
import { road } from '../../peft/reparameterized/road.ts';
import { tinyLora } from '../../peft/reparameterized/tinyLora.ts';
import { uniLora } from '../../peft/reparameterized/uniLora.ts';
import { vblora } from '../../peft/reparameterized/vblora.ts';
import { vera } from '../../peft/reparameterized/vera.ts';
import { beft } from '../../peft/selective/beft.ts';
import { bitfit } from '../../peft/selective/bitfit.ts';
import { shira } from '../../peft/selective/shira.ts';
import { pick, type Site } from '../../peft/site.ts';

/** All of it: 28 blocks of width 3072, 24 heads and 8 key heads, feed-forward 8192, 128,256 tokens, tied. */
const real = { vocabulary: 128_256, width: 3072, layers: 28, heads: 24, kvHeads: 8, inner: 8192, positions: 131_072, tied: true };
const draws = blank();
const network = freeze(decoder(llama(real), draws));
const withBiases = freeze(decoder(llama({ ...real, bias: true }), draws));

const r = 32;
const seed = draws;
/** Attached as it is, and counted. */
const attached: readonly (readonly [string, Transform, number])[] = [
  ['LoRA', lora({ rank: r, seed }), 9_175_040],
  ['LoRA, rank-stabilised', lora({ rank: r, rankStabilized: true, seed }), 9_175_040],
  ['LoRA, rank 64', lora({ rank: 64, seed }), 18_350_080],
  ['HiRA', hira({ rank: r, seed }), 9_175_040],
  ['GraLoRA', gralora({ rank: r, seed }), 9_175_040],
  ['LoRA-FA', loraFa({ rank: r, seed }), 3_670_016],
  ['AdaLoRA', adalora({ rank: 64, seed }), 18_353_664],
  ['LoHa', loha({ rank: r, seed }), 18_350_080],
  ['LoKr', lokr({ rank: r, factor: 4, seed }), 2_294_656],
  ['VeRA', vera({ rank: 256, seed }), 129_024],
  ['PVeRA, rank 256', pvera({ rank: 256, seed }), 143_360],
  ['PVeRA, rank 64', pvera({ rank: 64, seed }), 121_856],
  ['VB-LoRA', vblora({ rank: 4, vectors: 256, vectorLength: 256, seed }), 1_212_416],
  ['(IA)³', ia3({ seed }), 286_720],
  ['MiSS', miss({ rank: 64, seed }), 7_340_032],
  ['MiSS, mini', miss({ rank: 64, miniRank: 64, seed }), 229_376],
  ['C3A', c3a({ blockSize: 64, seed }), 5_505_024],
  ['OFT', oft({ blockSize: 96, seed }), 8_171_520],
  ['BOFT', boft({ blockSize: 4, factors: 1, seed }), 802_816],
  ['FourierFT, 1000', fourierft({ coefficients: 1000, seed }), 56_000],
  ['FourierFT, 5000', fourierft({ coefficients: 5000, seed }), 280_000],
  ['UniLoRA', uniLora({ seed }), 256],
  ['LN tuning', lnTuning({ seed }), 175_104],
  ['prompt tuning', promptTuning({ length: 200, seed }), 614_400],
  ['prefix tuning, 200', prefixTuning({ length: 200, bottleneck: null, seed }), 11_468_800],
  ['prefix tuning, 50', prefixTuning({ length: 50, bottleneck: null, seed }), 2_867_200],
  ['P-tuning', pTuning({ length: 20, hidden: 3072, seed }), 28_382_208],
  ['AdaptionPrompt', llamaAdapter({ length: 100, gate: 'one', where: 'attn', seed }), 8_601_628],
  ['RoAd', road({ variant: 2, seed }), 229_376],
  ['GLoRA', glora({ rank: 8, A: 'lora', B: 'lora', C: 'none', D: 'none', E: 'none', seed }), 4_587_520],
  ['PEANuT', peanut({ rank: r, seed }), 7_340_032],
  ['BEFT', beft({ seed }), 28_672],
];
/** What a method measures on data before it attaches, n numbers for a site, is as blank here as the network. */
function measured<C extends UpdateConfig>({ method }: Configurable<C>, n: (shape: Shape) => number): Configurable<C> {
  const { prepare, ...m } = method as unknown as Method<'linear', C, Factors, null, unknown>; // the seam that knows C again
  const prepared = (s: Site<'linear'>): unknown => ({ [s.index]: blankResult(n(s.shape)) });
  return defineMethod<'linear', C, Factors>({ ...m, init: (s, c, draw, given) => m.init(s, c, draw, { ...given, prepared: prepared(s) }) });
}
/** These begin with numbers of the weights: decompositions, lengths. */
const begun: readonly (readonly [string, Transform, number])[] = [
  ['RandLoRA', randlora({ rank: r, seed }), 9_289_728],
  ['SHiRA', shira({ rank: r }), 9_175_040],
  ['DoRA', dora({ rank: r, seed }), 9_289_728],
  ['PiSSA', pissa({ rank: r, seed }), 9_175_040],
  ['OLoRA', olora({ rank: r, seed }), 9_175_040],
  ['CorDA', measured(corda, ([, into]) => into! ** 2)({ rank: r, seed }), 9_175_040],
  ['EVA', measured(eva, ([, into]) => r * into!)({ rank: r, seed }), 9_175_040],
  ['LoRA-GA', measured(loraGa, size)({ rank: r, seed }), 9_175_040],
  ['MiCA', mica({ rank: r, seed }), 5_505_024],
  ['DeLoRA', delora({ rank: r, seed }), 9_175_096],
  ['TinyLoRA', tinyLora({ size: 64, seed }), 3_584],
  ['PSOFT', psoft({ rank: 256, seed }), 1_856_512],
  ['DEFT', deft({ rank: r, seed }), 9_175_040],
  ['DEFT as PaRa', deft({ rank: r, removal: true, seed }), 3_670_016],
];

const declared = (t: Transform, model = network): number => {
  const [{ method, config }] = t.parts as [Transform['parts'][number]];
  return method.count(pick(model, method.at, config.where, method.name), config).train;
};

test('the network has its 3,212,749,824 scalars', () => {
  expect([...new Set([...tensors(network)].map((t) => t.tensor))].reduce((n, t) => n + size(t.shape), 0)).toBe(3_212_749_824);
});
test.each([...attached, ...begun])('%s: attached, accounted and declared', (_, t, n) => {
  const params = [...trainable(t(network)).keys()];
  expect(account(params.map(stateOf), { params }).trained / 4).toBe(n);
  expect(declared(t)).toBe(n);
});
test('bitfit on the values, which PEFT calls BEFT: 28672', () => {
  expect(declared(bitfit({ where: 'v.bias' }), withBiases)).toBe(28_672);
});
test('a step of LoRA on 512 tokens: every frozen product is a multiply and an add per weight and token', () => {
  const T = 512;
  const model = lora({ rank: r, seed })(network);
  const params = [...trainable(model).keys()];
  const text = leaf(new Float32Array(T), [1, T]);
  const loss = nextToken(model, { ids: text, targets: text }, context(T));
  const a = account([loss, ...grad(loss, params.map(stateOf))], { params });
  expect(a.trained).toBe(4 * 9_175_040);
  expect(a.leaves.host).toBeGreaterThanOrEqual(4 * 3_212_749_824); // and texts, positions
  expect(a.leaves.host).toBeLessThan(4.001 * 3_212_749_824);
  const products = 2 * T * (3_212_749_824 + 9_175_040);
  expect(a.phases.forward.flops / products).toBeGreaterThan(1); // attention, norms and activations besides
  expect(a.phases.forward.flops / products).toBeLessThan(1.05);
});
