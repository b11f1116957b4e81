// Gradients of a small model's weights found without the code that chooses by them, and where a sparse method has its values.
import type { Engine } from '../../core/engine.ts';
import { grad } from '../../core/grad.ts';
import { leaf, type Tensor } from '../../core/tensor.ts';
import { context } from '../../nn/context.ts';
import { unfreeze } from '../../nn/freeze.ts';
import type { Batch, Model } from '../../nn/layer.ts';
import { nextToken } from '../../nn/losses.ts';
import { tensors } from '../../nn/tree.ts';
import { adamw } from '../../optim/adamw.ts';
import { trainer } from '../../optim/trainer.ts';
import { counting, type Text } from '../optim/tiny.ts';

type Texts = Batch & { readonly targets: Tensor };
/** Texts as tensors, with their targets. */
export const texts = (seeds: readonly number[], rows = 2): Texts[] =>
  seeds.map((s) => {
    const { ids, targets } = counting(s, rows);
    return { ids: leaf(Float32Array.from(ids.data), ids.shape), targets: leaf(Float32Array.from(targets.data), targets.shape) };
  });
export const lossOf = (m: Model, b: Batch): Tensor => nextToken(m, b as Texts, context(b.ids.shape[1]!));

/** ∂loss/∂w of the weights at `paths`, one list of numbers for each. */
export async function gradientsAt(engine: Engine, model: Model, paths: readonly string[], loss: (m: Model) => Tensor): Promise<number[][]> {
  const open = unfreeze(model, (p) => paths.includes(p));
  const at = new Map([...tensors(open)].map(({ path, tensor }) => [path, tensor]));
  const grads = grad(
    loss(open),
    paths.map((p) => at.get(p)!),
  );
  const store = engine.store();
  const got = await (await engine.compile(store, { outputs: Object.fromEntries(grads.map((g, k) => [`g${k}`, g])) })).run();
  store.close();
  return grads.map((_, k) => Array.from(got[`g${k}`]!));
}

/** The k best of several lists together as [list, place], sorted. */
export const best = (scores: readonly (readonly number[])[], k: number): string[] =>
  scores
    .flatMap((s, l) => s.map((v, j) => ({ v, l, j })))
    .sort((a, b) => b.v - a.v || a.l - b.l || a.j - b.j)
    .slice(0, k)
    .map(({ l, j }) => `${l} ${j}`)
    .sort();

/** Where a method has its sparse values in the weights at `paths`, in the form of `best`. */
export async function placesOf(engine: Engine, model: Model, method: string, paths: readonly string[]): Promise<string[]> {
  const at = new Map([...tensors(model)].map(({ path, tensor }) => [path, tensor]));
  const found: string[] = [];
  for (const [l, path] of paths.entries()) {
    const start = at.get(`${path}.${method}.start`);
    if (start === undefined) continue;
    const [s, c] = [await engine.read(start), await engine.read(at.get(`${path}.${method}.col`)!)];
    const cols = at.get(path)!.shape.at(-1)!;
    for (let r = 0; r + 1 < s.length; r++) for (let j = s[r]!; j < s[r + 1]!; j++) found.push(`${l} ${r * cols + c[j]!}`);
  }
  return found.sort();
}

/** A few steps of AdamW on counting texts. */
export async function trainedOn(engine: Engine, model: Model, steps: number, seed = 0, weightDecay = 0.1): Promise<Model> {
  await using t = await trainer<Model, Text>(model, { engine, loss: nextToken, optimizer: adamw({ lr: 1e-2, weightDecay }), total: steps });
  for (let k = 0; k < steps; k++) await t.step(counting(seed + k));
  return t.model();
}

/** Every number of a plain model, by path. */
export async function weightsOf(engine: Engine, model: Model): Promise<Map<string, number[]>> {
  const found = new Map<string, number[]>();
  for (const { path, tensor } of tensors(model)) found.set(path, Array.from(await engine.read(tensor)));
  return found;
}
/** Places where two plain models differ, by path of the tensor. */
export function differing(a: ReadonlyMap<string, number[]>, b: ReadonlyMap<string, number[]>): Map<string, number[]> {
  const places = [...a].map(([path, v]) => [path, v.flatMap((x, k) => (Object.is(x, b.get(path)![k]) ? [] : [k]))] as const);
  return new Map(places.filter(([, p]) => p.length > 0));
}
