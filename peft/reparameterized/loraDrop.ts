// LoRA-drop: layers whose update hardly changes their output share one LoRA; the others keep their own.
//   importance of layer i: g_i = Σ_x ‖ΔW_i x‖² after a short training on a part of the data, divided by the sum over all layers
//   the largest keep their own until their sum reaches T; the rest share one pair (A, B) per kind of projection
// Zhou et al. 2024, arXiv 2402.07721, §3. Count: (n_own + the projections that share)·r(in + out).
import type { Rng } from '../../core/rng.ts';
import type { Model } from '../../nn/layer.ts';
import { layers } from '../../nn/tree.ts';
import { defineMethod } from '../attach.ts';
import { between } from '../check.ts';
import type { Env, Options } from '../method.ts';
import { observe } from '../observe.ts';
import { matches, pick, type Site, type Where } from '../site.ts';
import { checkUpdate, type Factors, factors, type LoraConfig, lora, scaling, update } from './lora.ts';

export interface LoraDropConfig extends LoraConfig {
  readonly keep: Where; // layers with a LoRA of their own; it need not match any
}
const role = (path: string): string => path.split('.').at(-1)!;
const owns = ({ keep }: LoraDropConfig, { path }: { readonly path: string }): boolean => matches(keep, path);

/** The first site of every projection type that shares. */
function sharing(sites: readonly Site<'linear'>[], c: LoraDropConfig): Map<string, Site<'linear'>> {
  const first = new Map<string, Site<'linear'>>();
  for (const s of sites) {
    if (owns(c, s)) continue;
    const one = first.get(role(s.path)) ?? s;
    first.set(role(s.path), one);
    if (one.shape.join() !== s.shape.join())
      throw new RangeError(
        `loraDrop: ${s.path} [${s.shape}] cannot share a LoRA with ${one.path} [${one.shape}]: their sizes differ; keep one of them`,
      );
  }
  return first;
}

export const loraDrop = defineMethod<'linear', LoraDropConfig, Factors, ReadonlyMap<string, Factors>>({
  name: 'loraDrop',
  family: 'reparameterized',
  paper: 'arXiv:2402.07721',
  at: 'linear',
  defaults: { rank: 8, alpha: 8, rankStabilized: false, dropout: 0, init: 'kaiming', keep: [], where: ['q', 'v'] },
  check: checkUpdate('loraDrop'),
  shared: (sites, c, r: Rng) => new Map([...sharing(sites, c)].map(([name, site]) => [name, factors(site, c, r.split(name))])),
  init: (site, c, r, { shared }) => ({ train: owns(c, site) ? factors(site, c, r) : shared.get(role(site.path))! }),
  ...update,
  count: (sites, c) => update.count([...sites.filter((s) => owns(c, s)), ...sharing(sites, c).values()], c),
  startsAsBase: () => 'close', // adds an exact zero
});

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
 * The whole recipe: LoRA trained briefly by `train` (which answers the trained model), importance on `env.batches`, and the base with
 * LoRA-drop attached, fresh, to be trained in earnest.
 */
export async function dropLora(
  base: Model,
  { train, threshold = 0.9, ...env }: Env & { readonly train: (model: Model) => Promise<Model>; readonly threshold?: number },
  options: Options<Omit<LoraDropConfig, 'keep'>> = {},
): Promise<Model> {
  const shares = await importance(await train(lora(options)(base)), env);
  return loraDrop({ ...options, keep: mostImportant(shares, threshold) })(base);
}
