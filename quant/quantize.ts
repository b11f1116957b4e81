// Quantisation as a transform of models: frozen weights replaced by packed ones, which are unpacked where they are used.
import { halvesAtHand, isHalves } from '../core/halves.ts';
import { within } from '../core/scope.ts';
import type { Shape } from '../core/shape.ts';
import type { Data } from '../core/tensor.ts';
import { type AnyLayer, type Field, type Layer, ofKind } from '../nn/layer.ts';
import { isPacked, weight } from '../nn/linear.ts';
import { layers, rewrite, substitute, tensors } from '../nn/tree.ts';

/** A way to pack a weight. */
export interface Scheme {
  readonly name: string;
  /** A weight layer over packed fields, whose call unpacks. It must have no derivative in what is packed. */
  readonly pack: (data: Data, shape: Shape) => Layer<'weight'>;
  /** The numbers that are left of these when they have been packed and unpacked, computed on the host. */
  readonly round: (data: Data, shape: Shape) => Float32Array;
}

/** Which weights, by the path of the weight (`trunk.blocks.0.attn.q.weight`). */
export type WeightChoice = (path: string) => boolean;

/** Weights of the blocks, as QLoRA has it: embeddings and the head stay as they are. */
export const inBlocks: WeightChoice = (path) => /(^|\.)blocks\.\d+\./.test(path);

/**
 * A model whose frozen matrices (weights of two dimensions, halves too; biases and norms stay) where `where` holds are packed by `scheme`.
 * Gradients flow through them to what is below, never to them. Tied weights stay tied. Quantise after `freeze`; methods may be
 * attached before or after, but not on the weight itself. Throws when a chosen matrix is trainable, attached to or packed
 * already, and when none is chosen.
 */
export function quantize<T extends Field>(model: T, where: WeightChoice, scheme: Scheme): T {
  const matrices: string[] = [];
  let packed = 0;
  const done = new Map<AnyLayer, AnyLayer<'weight'>>();
  const result = substitute(model, 'weight', (l, path) => {
    const refuse = (what: string): never => {
      throw new Error(`quantize: ${path} ${what}`);
    };
    const w = within({ path }, l);
    if (isPacked(l) && !isHalves(w)) return where(path) ? refuse('is packed already') : null;
    if (w.shape.length !== 2) return null;
    matrices.push(path);
    if (!where(path)) return null;
    if (l.attached !== null) return refuse(`has ${l.attached.method} attached to the weight itself; quantise first, then attach`);
    const s = w.source;
    if (s.kind === 'state') return refuse('is trainable; freeze(model) first, and attach methods that train other tensors');
    const numbers = s.kind === 'leaf' && w === l.fields.value ? s.data : halvesAtHand(w);
    if (numbers === null) return refuse('is a recipe, not numbers; await realize(model, engine) first');
    const p = done.get(l) ?? scheme.pack(numbers, w.shape);
    done.set(l, p);
    packed++;
    return p;
  });
  if (packed === 0)
    throw new Error(
      `quantize: chose none of this model's matrices: ${matrices.slice(0, 8).join(', ') || 'it has none'}${matrices.length > 8 ? ', …' : ''}`,
    );
  return result;
}

/** Packed weights as recipes of plain ones; `await realize(unpacked(model), engine)` turns them into numbers. */
export const unpacked = <T extends Field>(model: T): T =>
  rewrite(model, (l, path) => (isPacked(l) ? weight(within({ path }, ofKind(l, 'weight'))) : null));

/** Paths of packed weights. */
export const packedPaths = (model: Field): string[] => [...layers(model)].filter(({ layer: l }) => isPacked(l)).map(({ path }) => path);

/** Bytes of the numbers a tree holds on the host, each array once. */
export function residentBytes(tree: Field): number {
  const arrays = new Set<Data>();
  for (const { tensor } of tensors(tree)) {
    const s = tensor.source;
    if (s.kind === 'leaf') arrays.add(s.data);
    else if (s.kind === 'state') arrays.add(s.param.value);
  }
  return [...arrays].reduce((n, d) => n + d.byteLength, 0);
}
