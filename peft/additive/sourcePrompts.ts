// What methods share that start from prompts trained before: those prompts as numbers, and their place among a method's fixed tensors.
import { same, show } from '../../core/shape.ts';
import { leaf, type Tensor } from '../../core/tensor.ts';
import type { Fields, Model } from '../../nn/layer.ts';
import { layers, rewrite } from '../../nn/tree.ts';
import { promptOf } from './spot.ts';

/** The prompts of models with prompt tuning on them, all of one shape: [N, p, d]. */
export function promptsOf(method: string, sources: readonly Model[]): Tensor {
  if (sources.length === 0)
    throw new RangeError(`${method}: no source model given; give one for each source task, with prompt tuning on it`);
  const prompts = sources.map(promptOf);
  const { shape } = prompts[0]!;
  const [p, d] = shape as readonly [number, number];
  const exact = prompts.some((prompt) => prompt.value instanceof Float64Array);
  const all = new (exact ? Float64Array : Float32Array)(sources.length * p * d);
  for (const [n, prompt] of prompts.entries()) {
    if (!same(prompt.shape, shape))
      throw new RangeError(
        `${method}: the prompt of source ${n} is ${show(prompt.shape)}, that of source 0 ${show(shape)}; train all with one length, on one network`,
      );
    all.set(prompt.value, n * p * d);
  }
  return leaf(all, [sources.length, p, d]);
}

/** The tensors of a method, at the first place where it is attached, and its options. */
export function ownOf<T, C>(model: Model, method: string): { readonly own: T; readonly config: C } {
  for (const { layer } of layers(model))
    if (layer.attached?.method === method)
      return { own: layer.fields[layer.attached.field], config: layer.attached.application.config } as { own: T; config: C }; // a seam: the method's name says which
  throw new Error(`${method}: this model has no ${method} on it; attach ${method}({ … }) first`);
}

/** The model with these tensors in the place of a method's fixed ones of the same names. Shapes must agree. */
export function withFixed(model: Model, method: string, fixed: Readonly<Record<string, Tensor>>): Model {
  const { own } = ownOf<Readonly<Record<string, Tensor>>, unknown>(model, method);
  for (const [name, t] of Object.entries(fixed)) {
    const there = own[name];
    if (there === undefined) throw new Error(`${method}: there is no tensor ${name} in this attachment; was it finished?`);
    if (!same(there.shape, t.shape))
      throw new RangeError(
        `${method}: ${name} is ${show(there.shape)} as attached, but ${show(t.shape)} was given; attach it with these sizes`,
      );
  }
  return rewrite(model, (l) =>
    l.attached?.method === method
      ? l.with({ ...l.fields, [l.attached.field]: { ...(l.fields[l.attached.field] as Fields), ...fixed } })
      : null,
  );
}
