// A short full fine-tuning that shows which entries of some weights a task would move: the first phase of LT-SFT and of FAR.
import { size } from '../../core/shape.ts';
import { param, paramOf } from '../../core/tensor.ts';
import { layers, tensors } from '../../nn/tree.ts';
import type { Env } from '../method.ts';
import { shifted } from '../sensitivity.ts';
import type { Site } from '../site.ts';

/** θ₁ − θ₀ of every site, after `train` of the environment has trained all of them together. The model is as it was. */
export async function drift(method: string, sites: readonly Site<'weight'>[], { train }: Env): Promise<Float64Array[]> {
  if (train === undefined)
    throw new Error(
      `${method}: its first phase is full fine-tuning; give prepare(model, { engine, train }) a function that trains a model and answers it`,
    );
  const start = sites.map((s) => param(new Float32Array(size(s.shape)), s.shape, { decay: false }));
  const after = new Map([...tensors(await train(shifted(sites, start)))].map(({ path, tensor }) => [path, tensor]));
  const moves = sites.map(({ path }) => {
    const moved = after.get(`${path}.shift`);
    const p = moved === undefined ? null : paramOf(moved);
    if (p === null) throw new Error(`${method}: the model that train answered is not the one it was given with other values (${path})`);
    return Float64Array.from(p.value);
  });
  if (moves.every((m) => m.every((v) => v === 0))) {
    const beneath = new Set([...layers(sites[0]!.root)].flatMap(({ layer: l }) => l.attached?.method ?? []));
    throw new Error(
      `${method}: training moved none of its weights, so nothing tells which matter: no gradient enters them${beneath.size === 0 ? '' : ` (attached: ${[...beneath].join(', ')})`}; attach it where the loss depends on these weights`,
    );
  }
  return moves;
}
