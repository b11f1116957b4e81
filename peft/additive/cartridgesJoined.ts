// Cartridges of several texts as one, side by side: what was trained apart is read together, without training again.
//   P = [P¹; P²; …]
// Eyuboglu et al. 2025, arXiv 2506.06266, §5.4. As in PEFT the first one's frozen rows stay frozen, and all others may be trained on.
import { leaf, param, type Tensor } from '../../core/tensor.ts';
import type { Model } from '../../nn/layer.ts';
import { layers, rewrite } from '../../nn/tree.ts';
import { atHand } from '../site.ts';
import { type Cartridge, type CartridgeConfig, cartridge } from './cartridge.ts';

/** The network with one cartridge whose rows are those of the models' cartridges, in order. */
export function cartridgesJoined(base: Model, models: readonly Model[]): Model {
  const each = models.map((model, k) => {
    for (const { layer } of layers(model))
      if (layer.attached?.method === 'cartridge')
        return {
          config: layer.attached.application.config as CartridgeConfig, // a seam: cartridge's own configuration and tensors
          own: layer.fields[layer.attached.field] as Cartridge,
        };
    throw new Error(`cartridgesJoined: model ${k} has no cartridge; attach and train one first: cartridge({ … })(base)`);
  });
  const [first] = each;
  if (first === undefined) throw new RangeError('cartridgesJoined: no models given; give one or more with a cartridge');
  const { frozen, attend } = first.config;
  const rows = (t: Tensor | undefined): number[] => (t === undefined ? [] : Array.from(atHand(t)!));
  const table = first.own.table.map((t, i) => {
    const [w, all] = [t.shape[1]!, each.flatMap(({ own }, k) => [...(k === 0 ? [] : rows(own.frozen[i])), ...rows(own.table[i])])];
    return param(Float64Array.from(all), [all.length / w, w]);
  });
  const length = each.reduce((n, { config }) => n + config.length, 0);
  const fixed = first.own.frozen.map((t) => leaf(atHand(t)!, t.shape));
  return rewrite(cartridge({ length, frozen, attend })(base), (l) =>
    l.attached?.method === 'cartridge' ? l.with({ ...l.fields, [l.attached.field]: { table, frozen: fixed } }) : null,
  );
}
