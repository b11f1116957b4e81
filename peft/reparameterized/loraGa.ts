// LoRA-GA: LoRA that starts where its first step moves the weight as nearly as it can in the direction full fine-tuning would.
//   G = mean over batches of ∂L/∂W = U S Vᵀ;   A = c·V[:, :r]ᵀ,  B = c·U[:, r:2r],  c = out^{1/4}/√γ;   W_res = W − s·B A
// Wang et al. 2024, arXiv 2407.05000, §3; directions and `stable` scale as in the authors' code (ArB2r), the singular values unused.
import { grad } from '../../core/grad.ts';
import { type Param, stateOf } from '../../core/tensor.ts';
import { realize, unfreeze } from '../../nn/freeze.ts';
import { params } from '../../nn/tree.ts';
import { unpacked } from '../../quant/quantize.ts';
import { defineMethod } from '../attach.ts';
import { svd } from '../linalg.ts';
import type { Env } from '../method.ts';
import type { Site } from '../site.ts';
import { type Factors, type UpdateConfig, update } from './lora.ts';
import { checkTaken, takenOut } from './residual.ts';

export interface LoraGaConfig extends UpdateConfig {
  readonly gamma: number; // γ; a larger one starts with smaller factors
}

/** ∂L/∂W at each site, averaged over the batches. Packed weights are unpacked for it. */
async function weightGradients(sites: readonly Site<'linear'>[], { engine, batches, loss }: Env): Promise<Float64Array[]> {
  if (batches === undefined || batches.length === 0 || loss === undefined)
    throw new Error(
      'loraGa: it starts from gradients; give prepare(model, { engine, batches, loss }) some batches and the loss to be trained',
    );
  const wanted = new Set(sites.map((s) => `${s.path}.weight`));
  const plain = await realize(unpacked(sites[0]!.root), engine);
  const model = unfreeze(plain, (path) => wanted.has(path));
  const found = new Map<string, Param>([...params(model)].map(([p, path]) => [path, p]));
  const weights = sites.map((s) => stateOf(found.get(`${s.path}.weight`)!));
  const sums = weights.map((w) => new Float64Array(w.shape[0]! * w.shape[1]!));
  for (const batch of batches) {
    const grads = grad(loss(model, batch), weights);
    const store = engine.store();
    try {
      const got = await (await engine.compile(store, { outputs: Object.fromEntries(grads.map((g, k) => [`g${k}`, g])) })).run();
      for (const [k, sum] of sums.entries()) sums[k] = sum.map((v, i) => v + got[`g${k}`]![i]! / batches.length);
    } finally {
      store.close();
    }
  }
  return sums;
}

export const loraGa = defineMethod<'linear', LoraGaConfig, Factors, null, readonly Float64Array[]>({
  name: 'loraGa',
  family: 'reparameterized',
  paper: 'arXiv:2407.05000',
  at: 'linear',
  defaults: { rank: 8, alpha: 8, rankStabilized: false, dropout: 0, gamma: 16, where: ['q', 'v'] },
  readsWeight: true,
  check: (site, c) => {
    checkTaken('loraGa')(site, c);
    const most = Math.min(...site.shape);
    if (2 * c.rank > most)
      throw new RangeError(
        `loraGa: rank ${c.rank} at ${site.path} needs ${2 * c.rank} directions of a gradient that has ${most}; choose at most ${Math.floor(most / 2)}`,
      );
    if (!(c.gamma > 0)) throw new RangeError(`loraGa: gamma ${c.gamma} must be positive; the authors' is 16`);
  },
  prepare: (sites, _, env) => weightGradients(sites, env),
  init: (site, c, _, given) => {
    const [out, into] = site.shape as [number, number];
    const [twice, size] = [2 * c.rank, out ** 0.25 / Math.sqrt(c.gamma)];
    const { u, vt } = svd(given.prepared[site.index]!, out, into, twice);
    const a = vt.subarray(0, c.rank * into).map((v) => size * v);
    const b = Float64Array.from({ length: out * c.rank }, (_, k) => size * u[Math.floor(k / c.rank) * twice + c.rank + (k % c.rank)]!);
    return takenOut(given.weight(), a, b, site, c);
  },
  ...update,
  startsAsBase: () => 'close', // W_res + s·B A = W up to rounding
});
