// LoRA-drop as a recipe: a short training, the importance of every layer's update, and the layers that keep a LoRA of their own.
import type { Model } from '../../nn/layer.ts';
import { layers } from '../../nn/tree.ts';
import { between } from '../check.ts';
import type { Env, Options } from '../method.ts';
import { observe } from '../observe.ts';
import { pick, type Site } from '../site.ts';
import { type Factors, type LoraConfig, lora, scaling } from './lora.ts';
import { type LoraDropConfig, loraDrop } from './loraDrop.ts';

/** g_i of every layer that carries `lora`, by path; they sum to 1. The updates must not all be zero: train them a little first. */
export async function importance(model: Model, env: Env): Promise<ReadonlyMap<string, number>> {
  const carrying = new Map(
    [...layers(model)].flatMap(({ path, layer }) => (layer.attached?.method === 'lora' ? [[path, layer] as const] : [])),
  );
  if (carrying.size === 0) throw new Error('importance: no layer of this model has LoRA attached');
  const sites = pick(model, 'linear', (path) => carrying.has(path), 'importance');
  const sums = new Map<string, number>(sites.map((s) => [s.path, 0]));
  const norms = sites.map(({ path }) => {
    const l = carrying.get(path)!;
    const { A, B } = l.fields[l.attached!.field] as Factors; // a seam: a layer does not know its method's types
    return { A, B, s: scaling(l.attached!.application.config as LoraConfig) };
  });
  for (const site of sites) {
    const { A, B, s } = norms[site.index]!;
    const own = [Object.create(site, { index: { value: 0 } }) as Site<'linear'>];
    for await (const { calls } of observe('importance', own, env, (x) => {
      const change = x.matmul(A.T).matmul(B.T).mul(s);
      return change.mul(change).sum();
    }))
      sums.set(
        site.path,
        calls.reduce((n, c) => n + c[0]!, sums.get(site.path)!),
      );
  }
  const total = [...sums.values()].reduce((a, b) => a + b, 0);
  if (!(total > 0)) throw new Error('importance: every update is zero on these batches; train the LoRA for some steps first');
  return new Map([...sums].map(([path, g]) => [path, g / total]));
}

/** The most important layers, until their shares reach `threshold` (T, 0.9): what `keep` should be. */
export function mostImportant(shares: ReadonlyMap<string, number>, threshold = 0.9): string[] {
  between('mostImportant', 'threshold', threshold, 0, 1, true);
  const kept: string[] = [];
  let sum = 0;
  for (const [path, share] of [...shares].sort((a, b) => b[1] - a[1])) {
    if (sum >= threshold) break;
    kept.push(path);
    sum += share;
  }
  return kept;
}

/**
 * The whole recipe: LoRA trained briefly by `env.train`, importance on `env.batches`, and the base with LoRA-drop attached, fresh, to be
 * trained in earnest. Layers whose shares reach `threshold` (T, 0.9) keep a LoRA of their own.
 */
export async function dropLora(
  base: Model,
  env: Env,
  { threshold = 0.9, ...options }: Options<Omit<LoraDropConfig, 'keep'>> & { readonly threshold?: number } = {},
): Promise<Model> {
  if (env.train === undefined)
    throw new Error(
      'dropLora: it starts with a short training; give it train: (model) => the model after some steps, beside engine and batches',
    );
  const shares = await importance(await env.train(lora(options)(base)), env);
  return loraDrop({ ...options, keep: mostImportant(shares, threshold) })(base);
}
