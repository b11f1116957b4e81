// Adapters of ours for Hugging Face PEFT to read: each method moved off its start, written, and what this library answers with it.
import { join } from 'node:path';
import { float64 } from '../../core/engines/float64.ts';
import { crossEntropy } from '../../core/ops/fused.ts';
import { rng } from '../../core/rng.ts';
import { leaf, type Tensor } from '../../core/tensor.ts';
import { adamssAsPeft } from '../../io/peft/adamss.ts';
import { savePeft } from '../../io/peft/save.ts';
import { withTorchPlaces } from '../../io/peft/sparse.ts';
import { context } from '../../nn/context.ts';
import { decoder, gpt2 } from '../../nn/decoder.ts';
import { freeze, unfreeze, withValues } from '../../nn/freeze.ts';
import type { Model } from '../../nn/layer.ts';
import { mapTensors, tensors, trainable } from '../../nn/tree.ts';
import { cartridge } from '../../peft/additive/cartridge.ts';
import { cpt } from '../../peft/additive/cpt.ts';
import { ia3 } from '../../peft/additive/ia3.ts';
import { llamaAdapter } from '../../peft/additive/llamaAdapter.ts';
import { lnTuning } from '../../peft/additive/lnTuning.ts';
import { mpt } from '../../peft/additive/mpt.ts';
import { prefixTuning } from '../../peft/additive/prefixTuning.ts';
import { promptTuning } from '../../peft/additive/promptTuning.ts';
import { pTuning } from '../../peft/additive/pTuning.ts';
import { stack } from '../../peft/combinators.ts';
import { supra } from '../../peft/hybrid/supra.ts';
import type { Transform } from '../../peft/method.ts';
import { adalora } from '../../peft/reparameterized/adalora.ts';
import { alora } from '../../peft/reparameterized/alora.ts';
import { bdLora } from '../../peft/reparameterized/bdLora.ts';
import { boft } from '../../peft/reparameterized/boft.ts';
import { bone } from '../../peft/reparameterized/bone.ts';
import { c3a } from '../../peft/reparameterized/c3a.ts';
import { corda } from '../../peft/reparameterized/corda.ts';
import { deft } from '../../peft/reparameterized/deft.ts';
import { delora } from '../../peft/reparameterized/delora.ts';
import { dora } from '../../peft/reparameterized/dora.ts';
import { dylora } from '../../peft/reparameterized/dylora.ts';
import { eva } from '../../peft/reparameterized/eva.ts';
import { fourierft } from '../../peft/reparameterized/fourierft.ts';
import { glora } from '../../peft/reparameterized/glora.ts';
import { gralora } from '../../peft/reparameterized/gralora.ts';
import { hira } from '../../peft/reparameterized/hira.ts';
import { hra } from '../../peft/reparameterized/hra.ts';
import { kasa } from '../../peft/reparameterized/kasa.ts';
import { lily } from '../../peft/reparameterized/lily.ts';
import { loha } from '../../peft/reparameterized/loha.ts';
import { lokr } from '../../peft/reparameterized/lokr.ts';
import { lora } from '../../peft/reparameterized/lora.ts';
import { loraDrop } from '../../peft/reparameterized/loraDrop.ts';
import { loraDropout } from '../../peft/reparameterized/loraDropout.ts';
import { loraEmbedding } from '../../peft/reparameterized/loraEmbedding.ts';
import { loraFa } from '../../peft/reparameterized/loraFa.ts';
import { loraGa } from '../../peft/reparameterized/loraGa.ts';
import { loraOrthogonal } from '../../peft/reparameterized/loraOrthogonal.ts';
import { loraPlus } from '../../peft/reparameterized/loraPlus.ts';
import { loraXs } from '../../peft/reparameterized/loraXs.ts';
import { mica } from '../../peft/reparameterized/mica.ts';
import { miss } from '../../peft/reparameterized/miss.ts';
import { monteclora } from '../../peft/reparameterized/monteclora.ts';
import { moslora } from '../../peft/reparameterized/moslora.ts';
import { oft } from '../../peft/reparameterized/oft.ts';
import { olora } from '../../peft/reparameterized/olora.ts';
import { osf } from '../../peft/reparameterized/osf.ts';
import { peanut } from '../../peft/reparameterized/peanut.ts';
import { pissa } from '../../peft/reparameterized/pissa.ts';
import { poly } from '../../peft/reparameterized/poly.ts';
import { psoft } from '../../peft/reparameterized/psoft.ts';
import { pvera } from '../../peft/reparameterized/pvera.ts';
import { randlora } from '../../peft/reparameterized/randlora.ts';
import { road } from '../../peft/reparameterized/road.ts';
import { sora } from '../../peft/reparameterized/sora.ts';
import { tinyLora } from '../../peft/reparameterized/tinyLora.ts';
import { uniLora } from '../../peft/reparameterized/uniLora.ts';
import { vblora } from '../../peft/reparameterized/vblora.ts';
import { velora } from '../../peft/reparameterized/velora.ts';
import { vera } from '../../peft/reparameterized/vera.ts';
import { waveft } from '../../peft/reparameterized/waveft.ts';
import { beft } from '../../peft/selective/beft.ts';
import { bitfit } from '../../peft/selective/bitfit.ts';
import { shira } from '../../peft/selective/shira.ts';
import { supertuning } from '../../peft/selective/supertuning.ts';
import { trainableTokens } from '../../peft/selective/trainableTokens.ts';
import { atHand } from '../../peft/site.ts';
import { feedOf, logitsOf, networkOf } from './hfFiles.ts';
import { networks } from './networks.ts';

const AT = ['v', 'down'];
const FUSED = ['qkv', 'down'];
const DENSE = ['q', 'o', 'up'];
const W = (where: readonly string[]): string[] => where.map((w) => `${w}.weight`);
const r2 = { rank: 2, alpha: 3 };
type Make = (base: Model) => Model | Promise<Model>;

/** The tiny GPT-2 with query, key and value as three layers. */
export function splitGpt2(): Model {
  const fused = new Map([...tensors(networks.gpt2.base)].map(({ path, tensor }) => [path, tensor]));
  const sizes = { vocabulary: 13, width: 16, layers: 2, heads: 4, inner: 24, positions: 12 };
  return mapTensors(freeze(decoder(gpt2(sizes), rng(0))), (t, path) => {
    const part = 'qkv'.indexOf(/\.attn\.([qkv])\.(weight|bias)$/.exec(path)?.[1] ?? '?');
    const whole = fused.get(path.replace(/\.attn\.[qkv]\./, '.attn.qkv.'))!;
    const data = atHand(whole)!;
    return part < 0 ? whole : leaf(data.slice((part * data.length) / 3, ((part + 1) * data.length) / 3), t.shape);
  });
}
export const isSplit = (title: string): boolean => title.includes('-split-');
export const baseOf = (title: string): Model => (isSplit(title) ? splitGpt2() : networkOf(title).base);

/** A method that looks at data first: the batch of the LLaMA fixture. */
async function prepared(t: Transform, base: Model): Promise<Model> {
  const { batch, targets, tokens } = networks.llama;
  const loss = (m: Model): Tensor => crossEntropy(m(batch, context(tokens)), targets);
  return (await t.prepare(base, { engine: float64(), batches: [batch], loss }))(base);
}

/** By title, of which the last part is the network. */
export const ours: Readonly<Record<string, Make>> = {
  'lora-llama': lora({ ...r2, where: AT }),
  'lora-gpt2': lora({ ...r2, where: FUSED }),
  'lora-bert': lora({ ...r2, where: DENSE }),
  'lora-roberta': lora({ ...r2, where: DENSE }),
  'lora-split-gpt2': lora({ ...r2, where: ['q', 'v', 'up'] }),
  'lora-head-bert': (base) => lora({ ...r2, where: DENSE })(unfreeze(base, (p) => p.startsWith('head'))),
  'lora-saved-gpt2': (base) => lora({ ...r2, where: 'up' })(unfreeze(base, (p) => p.includes('norm2') || p.includes('attn.o'))),
  'lora-biases-gpt2': (base) => lora({ ...r2, where: ['up', 'o'] })(unfreeze(base, (p) => /(up|o)\.bias$/.test(p))),
  'rslora-llama': lora({ ...r2, rankStabilized: true, where: ['blocks.1.attn.q', 'gate'] }),
  'lora-ranks-llama': (base) => lora({ rank: 3, alpha: 1, where: 'o' })(lora({ ...r2, where: ['q', 'up', 'down'] })(base)),
  'lora-words-llama': stack(lora({ ...r2, where: AT }), loraEmbedding({ rank: 3, alpha: 1 })),
  'lora-words-gpt2': stack(lora({ ...r2, where: FUSED }), loraEmbedding({ ...r2, where: ['embed', 'positions'] })),
  'lora-words-roberta': stack(lora({ ...r2, where: DENSE }), loraEmbedding({ ...r2, where: ['embed', 'positions'] })),
  'lora-words-head-llama': stack(lora({ ...r2, where: 'head' }), loraEmbedding(r2)),
  'words-bert': loraEmbedding({ rank: 2, alpha: 3, rankStabilized: true, where: ['embed', 'types'] }),
  'words-gpt2': loraEmbedding(r2),
  'lora-tokens-llama': stack(lora({ ...r2, where: AT }), trainableTokens({ tokens: [3, 5, 1] })),
  'lora-tokens-gpt2': stack(lora({ ...r2, where: FUSED }), trainableTokens({ tokens: [2, 7], init: 'normal' })),
  'lora-tokens-split-gpt2': stack(lora({ ...r2, where: ['q', 'v'] }), trainableTokens({ tokens: [4] })),
  'dora-tokens-llama': stack(dora({ ...r2, where: AT }), trainableTokens({ tokens: [3, 5], where: ['embed.weight', 'head.weight'] })),
  'words-tokens-gpt2': stack(loraEmbedding({ ...r2, where: 'positions' }), trainableTokens({ tokens: [2, 7] })),
  'supra-llama': supra({ ...r2, sparsity: 0.9, dropout: 0.25, where: AT }),
  'supra-bert': supra({ rank: 3, select: 'smallest', sparsity: 0.9, where: DENSE }),
  'loraPlus-llama': loraPlus({ ...r2, where: AT }),
  'loraFa-llama': loraFa({ ...r2, where: AT }),
  'pissa-llama': pissa({ ...r2, where: AT }),
  'pissa-gpt2': pissa({ ...r2, rankStabilized: true, where: FUSED }),
  'olora-llama': olora({ ...r2, where: AT }),
  'eva-llama': (base) => prepared(eva({ ...r2, ranks: { 'trunk.blocks.1.mlp.down': 3 }, where: AT }), base),
  'corda-llama': (base) => prepared(corda({ ...r2, where: AT }), base),
  'loraGa-llama': (base) => prepared(loraGa({ ...r2, where: AT }), base),
  'loraDrop-llama': loraDrop({ ...r2, keep: 'blocks.1.attn.v', where: AT }),
  'loraDropout-llama': loraDropout({ ...r2, where: AT }),
  'moslora-llama': moslora({ ...r2, where: AT }),
  'loraXs-gpt2': loraXs({ ...r2, sigma: 0.3, where: FUSED }),
  'sora-bert': sora({ ...r2, rankStabilized: true, where: DENSE }),
  'dylora-llama': dylora({ rank: 3, alpha: 3, inferenceRank: 2, where: AT }),
  'dora-llama': dora({ ...r2, where: AT }),
  'dora-gpt2': dora({ ...r2, where: FUSED }),
  'dora-bert': dora({ ...r2, where: DENSE }),
  'adalora-llama': adalora({ rank: 3, targetRank: 2, alpha: 3, where: AT }),
  'dora-roberta': dora({ ...r2, where: DENSE }),
  'adalora-gpt2': adalora({ rank: 3, targetRank: 2, alpha: 3, where: FUSED }),
  'ia3-llama': ia3(),
  'ia3-gpt2': ia3({ where: FUSED }),
  'ia3-bert': ia3({ where: ['k', 'v', 'o', 'down'], feedforward: 'down' }),
  'ia3-roberta': ia3({ where: ['k', 'v', 'o', 'down'], feedforward: ['o', 'down'] }),
  'ia3-split-gpt2': ia3(),
  'ln-llama': lnTuning(),
  'ln-gpt2': lnTuning(),
  'ln-some-gpt2': lnTuning({ where: 'norm1.weight' }),
  'ln-bert': lnTuning(),
  'ln-roberta': lnTuning(),
  'beft-bert': bitfit({ where: 'v.bias' }),
  'vera-llama': vera({ rank: 3, where: AT }),
  'vera-gpt2': vera({ rank: 3, where: FUSED }),
  'vblora-llama': vblora({ rank: 2, vectors: 6, vectorLength: 4, topK: 2, where: AT }),
  'vblora-gpt2': vblora({ rank: 2, vectors: 6, vectorLength: 8, topK: 3, where: FUSED }),
  'loha-llama': loha({ ...r2, where: AT }),
  'loha-bert': loha({ ...r2, where: DENSE }),
  'lokr-llama': lokr({ rank: 1, alpha: 3, decomposeBoth: true, where: AT }),
  'lokr-bert': lokr({ rank: 5, alpha: 3, factor: 2, where: DENSE }),
  'hira-llama': hira({ rank: 2, where: W(AT) }),
  'hira-gpt2': hira({ rank: 2, where: W(FUSED) }),
  'hira-split-gpt2': hira({ rank: 2, where: W(['k', 'v']) }),
  'mica-llama': mica({ ...r2, where: AT }),
  'orthogonal-llama': loraOrthogonal({ ...r2, where: AT }),
  'kasa-llama': kasa({ ...r2, beta: 0.25, where: AT }),
  'bdlora-llama': bdLora({ ...r2, blocks: 2, where: AT }),
  'psoft-llama': psoft({ rank: 3, alpha: 2, where: AT }),
  'psoft-neumann-gpt2': psoft({ rank: 3, alpha: 2, split: 'both', neumann: 5, where: FUSED }),
  'pvera-llama': pvera({ rank: 3, where: AT }),
  'pvera-gpt2': pvera({ rank: 3, where: FUSED }),
  'randlora-llama': randlora({ rank: 3, alpha: 6, where: AT }),
  'randlora-gpt2': randlora({ rank: 5, alpha: 6, bases: 'sparse', where: FUSED }),
  'unilora-llama': uniLora({ rank: 2, size: 7, where: AT }),
  'unilora-gpt2': uniLora({ rank: 2, size: 9, where: FUSED }),
  'tinylora-llama': tinyLora({ rank: 2, size: 5, where: AT }),
  'tinylora-tied-gpt2': tinyLora({ rank: 2, size: 5, tying: 0.5, where: FUSED }),
  'c3a-llama': c3a({ blockSize: 4, where: AT }),
  'gralora-llama': gralora({ rank: 4, alpha: 3, hybrid: 1, where: AT }),
  'gralora-gpt2': gralora({ rank: 4, alpha: 3, where: FUSED }),
  'delora-llama': (base) => delora({ rank: 3, lambda: 5, where: 'down' })(delora({ rank: 2, lambda: 2, where: 'v' })(base)),
  'road-bert': road({ groupSize: 8, where: DENSE }),
  'road-four-llama': road({ variant: 4, groupSize: 4, where: AT }),
  'deft-llama': deft({ ...r2, where: W(AT) }),
  'deft-qr-llama': deft({ rank: 3, alpha: 2, decomposition: 'qr', where: W(AT) }),
  'deft-qr-gpt2': deft({ rank: 2, removal: true, decomposition: 'qr', where: W(FUSED) }),
  'deft-para-gpt2': deft({ rank: 2, removal: true, where: W(FUSED) }),
  'peanut-llama': peanut({ rank: 3, depth: 2, scale: 0.5, where: W(AT) }),
  'glora-bert': glora({ rank: 2, where: DENSE }),
  'glora-vector-llama': glora({ rank: 2, A: 'vector', B: 'vector', where: AT }),
  'waveft-llama': (base) => withTorchPlaces(waveft({ coefficients: 9, scaling: 4, where: AT })(base)),
  'waveft-plain-gpt2': (base) => withTorchPlaces(waveft({ coefficients: 9, scaling: 4, haar: false, where: FUSED })(base)),
  'supertuning-llama': supertuning({ sparsity: 0.9, where: W(AT) }),
  'osf-llama': osf({ kept: 5, where: AT }),
  'osf-half-llama': osf({ where: AT }),
  'lily-llama': lily({ rank: 2, stride: 2, experts: 2, scale: 2, where: AT }),
  'values-llama': beft({}),
  'alora-llama': alora({ ...r2, invocation: [9], where: AT }),
  'velora-llama': velora({ ...r2, groups: 4, where: AT }),
  'velora-random-llama': velora({ ...r2, groups: 4, direction: 'random', where: AT }),
  'monteclora-llama': monteclora({ ...r2, samples: 3, where: AT }),
  'adamss-llama': async (base) => (await adamssAsPeft(base, { directions: 4, subspaces: 3, rank: 2, where: AT }, float64()))(base),
  'adamss-dynamic-bert': async (base) =>
    (await adamssAsPeft(base, { directions: 5, subspaces: 4, rank: 2, threshold: 0.3, where: DENSE }, float64()))(base),
  'tokens-llama': trainableTokens({ tokens: [3, 5, 1] }),
  'tokens-gpt2': trainableTokens({ tokens: [2, 7] }),
  'cartridge-llama': cartridge({ length: 3 }),
  'cartridge-gpt2': cartridge({ length: 3, frozen: 0 }),
  'cpt-llama': (base) => prepared(cpt({ ids: [1, 5, 2, 7], types: [1, 2, 3, 4] }), base),
  'poly-llama': poly({ rank: 2, tasks: 3, skills: 3, splits: 2, where: AT }),
  'miss-llama': miss({ rank: 5, where: AT }),
  'miss-mini-bert': miss({ rank: 4, miniRank: 2, where: DENSE }),
  'bone-llama': bone({ rank: 4, where: W(AT) }),
  'bone-bert': bone({ rank: 4, where: W(DENSE) }),
  'oft-llama': oft({ blockSize: 4, epsilon: 9, where: AT }), // wide enough for where the tensors are moved to
  'oft-bert': oft({ blockSize: 4, neumann: 5, where: DENSE }),
  'oft-shared-bert': oft({ blockSize: 8, share: true, where: DENSE }),
  'boft-bert': boft({ blockSize: 4, where: DENSE }),
  'hra-llama': hra({ rank: 2, where: AT }),
  'hra-bert': hra({ rank: 3, where: DENSE }),
  'shira-llama': shira({ rank: 1, mask: 'struct', scale: 2, where: W(AT) }),
  'fourierft-llama': (base) => withTorchPlaces(fourierft({ coefficients: 9, scaling: 20, where: AT })(base)),
  'fourierft-gpt2': (base) => withTorchPlaces(fourierft({ coefficients: 9, scaling: 20, where: FUSED })(base)),
  'prompt-llama': promptTuning({ length: 3 }),
  'prompt-gpt2': promptTuning({ length: 3 }),
  'ptuning-llama': pTuning({ length: 3, hidden: 5 }),
  'ptuning-lstm-gpt2': pTuning({ length: 3, encoder: 'lstm', hidden: 3, layers: 2 }),
  'prefix-llama': prefixTuning({ length: 3, bottleneck: null }),
  'prefix-mlp-gpt2': prefixTuning({ length: 3, bottleneck: 4 }),
  'mpt-llama': mpt({ length: 3, tasks: 2, ranks: 2 }),
  'adaption-llama': llamaAdapter({ length: 3, gate: 'one', where: 'blocks.1.attn' }),
  'adaption-gpt2': llamaAdapter({ length: 3, gate: 'one', project: false }),
};

/** A method on the network that its title names, its tensors moved by 0.3 σ, as float32 numbers. */
export async function moved(title: string): Promise<Model> {
  const made = await ours[title]!(baseOf(title));
  const r = rng(7).split(title);
  const values = [...trainable(made)].map(([p, path]) => {
    const off = r.split(path).normal(p.value.length, 0.3);
    return [p, Float32Array.from(p.value, (v, k) => v + off[k]!)] as const;
  });
  return withValues(made, new Map(values));
}

/** Writes one to `folder`/title, and answers its logits. */
export async function written(title: string, folder: string): Promise<number[]> {
  const engine = float64();
  const model = await moved(title);
  await savePeft(model, join(folder, title), { engine });
  return Array.from(await logitsOf(engine, model, networkOf(title), feedOf(title)));
}
