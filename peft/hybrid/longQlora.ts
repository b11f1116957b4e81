// LongQLoRA: longer texts on little memory: positions interpolated, the network in four bits, LoRA on every linear layer, S²-Attn while training.
//   position m → m/κ;   y = x·deq(W)ᵀ + b + s·B A drop(x);   attention in shifted groups for training, full afterwards
// Yang 2023, arXiv 2311.04879, and the author's code: rank 64, α = 16, dropout 0.05; embedding and norms, which LongLoRA trains, stay frozen unless
// asked for. The parts that bring no parameters change the model:
//   const long = longQlora()(interpolatePositions(base, 8192));
//   await using t = await trainer(shiftedAttention()(long), …);   const trained = await t.model(long);
// trained as `qloraRecipe` does it (lr 2e-4, gradients clipped at 0.3, paged AdamW), the rate kept after 20 steps of warm-up.
import type { Model } from '../../nn/layer.ts';
import { layers } from '../../nn/tree.ts';
import { inBlocks, type Scheme } from '../../quant/quantize.ts';
import { guarded, hybrid } from '../combine.ts';
import type { Options, Transform } from '../method.ts';
import { type LoraConfig, lora } from '../reparameterized/lora.ts';
import { packed } from '../reparameterized/packed.ts';
import { embedAndNorm } from './longlora.ts';

export interface LongQloraOptions extends Omit<Options<LoraConfig>, 'where'> {
  /** How weights are packed: NF4 in blocks of 64 with double quantisation. */
  readonly scheme?: Scheme;
  /** Embedding table and norms trained whole besides, as LongLoRA has it: the author's `train_embedding` and `train_norm`, both off. */
  readonly embedAndNorm?: boolean;
}

/**
 * The old weights stay reachable, for `detach`; `lora({ … })(quantize(model, inBlocks, scheme))` is the same network without them.
 * Count: r(in + out) at each linear layer of the blocks; with `embedAndNorm` then Vd and the norms.
 */
export function longQlora({
  scheme,
  embedAndNorm: whole = false,
  rank = 64,
  alpha = 16,
  dropout = 0.05,
  ...options
}: LongQloraOptions = {}): Transform {
  const parts = [packed({ ...(scheme && { scheme }), where: inBlocks }), lora({ rank, alpha, dropout, ...options, where: inBlocks })];
  return guarded(hybrid('longQlora', ...parts, ...(whole ? [embedAndNorm()] : [])), (model: Model) => {
    if (![...layers(model)].some(({ layer }) => layer.kind === 'branch' && (layer.fields.rope ?? null) !== null))
      throw new Error(
        'longQlora: this model has no rotary positions, so its context cannot be extended by interpolation; use a model with rope, or qlora() alone',
      );
  });
}
