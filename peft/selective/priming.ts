// A short full fine-tuning that shows which entries of some weights a task would move: the first phase of LT-SFT and of FAR.
import { size } from '../../core/shape.ts';
import { type Data, param, paramOf, Tensor } from '../../core/tensor.ts';
import type { Batch, Model } from '../../nn/layer.ts';
import { adamw } from '../../optim/adamw.ts';
import { type Fed, type Batch as FedBatch, trainer } from '../../optim/trainer.ts';
import { wholeNumber } from '../check.ts';
import type { Env } from '../method.ts';
import { dataOf, shifted } from '../sensitivity.ts';
import type { Site } from '../site.ts';

export interface PrimingConfig {
  readonly steps: number; // of AdamW on the batches in turn
  readonly lr: number;
}
export function checkPriming(method: string, { steps, lr }: PrimingConfig): void {
  wholeNumber(method, 'steps', steps);
  if (!(lr > 0)) throw new RangeError(`${method}: lr ${lr} must be positive`);
}

/** θ₁ − θ₀ of every site after training all of them together. The model is as it was. */
export async function drift(
  method: string,
  sites: readonly Site<'weight'>[],
  { steps, lr }: PrimingConfig,
  env: Env,
): Promise<Float64Array[]> {
  const { batches, loss } = dataOf(method, env);
  const deltas = sites.map((s) => param(new Float32Array(size(s.shape)), s.shape, { decay: false }));
  await using t = await trainer<Model, Batch>(shifted(sites, deltas), {
    engine: env.engine,
    loss: (m, b) => loss(m, b),
    optimizer: adamw({ lr }),
    total: steps,
    seed: env.seed ?? 0,
  });
  const fed = batches.map((b) => asNumbers(method, b));
  for (let k = 0; k < steps; k++) await t.step(fed[k % fed.length]!);
  const after = await t.model(deltas);
  return after.map((d) => Float64Array.from(paramOf(d)!.value));
}

/** A batch as numbers to feed. What is null in it stays out. */
function asNumbers(method: string, batch: Batch): FedBatch<Batch> {
  const numbers = (name: string, t: Tensor): Fed => {
    if (t.source.kind !== 'leaf') throw new Error(`${method}: ${name} of a batch must be numbers (a leaf), not a recipe`);
    const data: Data = t.source.data;
    return { data, shape: t.shape };
  };
  return Object.fromEntries(
    Object.entries(batch).flatMap(([name, v]) => (v instanceof Tensor ? [[name, numbers(name, v)]] : [])),
  ) as unknown as FedBatch<Batch>;
}
