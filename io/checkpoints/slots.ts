// Which tensor of a checkpoint belongs where in a model: names, shapes and orientation, for reading and for writing.
import type { Shape } from '../../core/shape.ts';
import type { Data, Tensor } from '../../core/tensor.ts';
import { isLayer, type Kind, type Model } from '../../nn/layer.ts';
import { join, tensors } from '../../nn/tree.ts';
import { bare } from '../../peft/site.ts';
import { namesOf, type Rows } from '../names.ts';
import { namingOf } from './architectures.ts';
import type { CheckpointConfig } from './config.ts';

/** A tensor of ours and the tensor of theirs it is, or is some rows of. */
export interface Slot {
  readonly name: string; // model.layers.0.self_attn.q_proj.weight
  readonly path: string; // trunk.blocks.0.attn.q.weight
  readonly tensor: Tensor;
  readonly kind: Kind; // of the layer it is in
  readonly shape: Shape; // of theirs, whole
  readonly turned: boolean; // theirs is [in, out], ours [out, in]
  readonly rows: Rows | null; // of theirs, once it is turned to [out, in]
}
export interface Slots {
  /** What names of the network proper may begin with: `model.`; a file may leave it out. */
  readonly prefix: string;
  readonly slots: readonly Slot[]; // each tensor once: a head that is the embedding's table has none of its own
  /** Paths of tensors that a checkpoint of this architecture has no name for. */
  readonly homeless: readonly string[];
}

export function slotsOf(model: Model, c: CheckpointConfig): Slots {
  const { family, prefix } = namingOf(c.architecture);
  const names = namesOf(model, family);
  const slots: Slot[] = [];
  const seen = new Set<Tensor>();
  for (const { path, module, kind, layer, rows, turned } of names.places) {
    for (const part of ['weight', 'bias']) {
      const w = layer.fields[part];
      if (!isLayer(w)) continue;
      const [held] = tensors(bare(w));
      const tensor = held?.tensor;
      if (tensor === undefined || seen.has(tensor)) continue;
      seen.add(tensor);
      const [first = 1, ...rest] = tensor.shape;
      const whole = [rows?.of ?? first, ...rest];
      slots.push({
        ...{ name: `${module}.${part}`, path: join(path, part), tensor, kind, rows },
        shape: turned ? whole.toReversed() : whole,
        turned: turned && whole.length === 2,
      });
    }
  }
  const homeless = [...tensors(model)].filter(({ tensor }) => !seen.has(tensor)).map(({ path }) => path);
  return { prefix, slots, homeless };
}

/** [n, m] as [m, n], in blocks that stay in the cache. */
export function transposed<D extends Data | Uint16Array>(data: D, n: number, m: number): D {
  const out = data.slice() as D; // the same type and length
  const block = 32;
  for (let r = 0; r < n; r += block)
    for (let c = 0; c < m; c += block)
      for (let i = r; i < Math.min(n, r + block); i++) for (let j = c; j < Math.min(m, c + block); j++) out[j * n + i] = data[i * m + j]!;
  return out;
}
