// LoftQ as a packed network with LoRA on it: what is trained in little memory, without the old weights.
import { rng } from '../../core/rng.ts';
import { paramOf } from '../../core/tensor.ts';
import type { Layer, Model } from '../../nn/layer.ts';
import { substitute } from '../../nn/tree.ts';
import { inBlocks, type WeightChoice } from '../../quant/quantize.ts';
import type { Options } from '../method.ts';
import { atHand, pick } from '../site.ts';
import { DEFAULTS, type LoftqConfig, started } from './loftq.ts';
import type { Factors, LoraConfig } from './lora.ts';
import { checkTaken } from './residual.ts';
import { withFactors } from './withFactors.ts';

/**
 * The same as a packed network with LoRA on it, and nothing of the old weights kept: what is trained in little memory. The matrices
 * `where` picks (all in the blocks) must be frozen plain numbers.
 */
export function loftqModel(
  model: Model,
  {
    where = inBlocks,
    seed = 0,
    ...options
  }: Omit<Options<LoftqConfig>, 'where' | 'seed'> & { readonly where?: WeightChoice; readonly seed?: number } = {},
): Model {
  const c = { ...DEFAULTS, ...options };
  const factors = new Map<string, Factors>();
  const packed = new Map<string, Layer<'weight'>>();
  const r = rng(seed).split('loftq');
  for (const site of pick(model, 'linear', where, 'loftq')) {
    checkTaken('loftq')(site, c);
    const w = site.weight();
    const numbers = paramOf(w) === null ? atHand(w) : null;
    if (numbers === null)
      throw new Error(
        `loftqModel: the weight of ${site.path} is not frozen plain numbers; freeze(model), and await realize(model, engine)`,
      );
    const one = started(site, numbers, c, r.split(site.path));
    factors.set(site.path, one.own);
    packed.set(site.path, one.packed);
  }
  const base = substitute(model, 'linear', (l, path) => {
    const weight = packed.get(path);
    return weight === undefined ? null : l.with({ ...l.fields, weight });
  });
  const { rank, alpha, rankStabilized, dropout } = c;
  return withFactors(base, factors, { rank, alpha, rankStabilized, dropout } satisfies Partial<LoraConfig>);
}
