// FAR, freeze and reconfigure: of each feed-forward layer only the hidden units that a task moves most are trained.
//   score of unit u: Σ |θ₁ − θ₀| over its weights after a short fine-tuning;   the top share of every layer learns, the rest is frozen
//   W_up' = W_up + rows δ, b_up' = b_up + δ, W_down' = W_down + columns δ, at the learners
// Vucetic et al. 2022, arXiv 2205.01541, §3. A feed-forward layer does not depend on the order of its units, so the authors move the
// learners to the front and train one block, which spares memory on a device; here they stay where they are: the same numbers.
import { scatterAdd } from '../../core/ops/index.ts';
import { size } from '../../core/shape.ts';
import { leaf, param, type Tensor } from '../../core/tensor.ts';
import { defineMethod } from '../attach.ts';
import { between } from '../check.ts';
import { largest } from '../select.ts';
import type { Site } from '../site.ts';
import { drift } from './priming.ts';

export interface FarConfig {
  readonly share: number; // of the units of each layer, rounded, at least one; 0.1 is our default
}
type Far = { delta: Tensor; units: Tensor }; // [n, numbers of a unit], [n]
type Place = Pick<Site<'weight'>, 'path' | 'shape'>;

const columns = ({ path }: Place): boolean => path.endsWith('down.weight');
/** Units of a feed-forward weight, and how many of its numbers each of them has. */
const sizes = (s: Place): readonly [units: number, each: number] => {
  const [rows, cols = 1] = s.shape as readonly number[];
  return columns(s) ? [cols, rows!] : [rows!, cols];
};
const layerOf = (path: string): string => path.replace(/\.(up|gate|down)\.(weight|bias)$/, '');
const learners = (s: Place, { share }: FarConfig): number => Math.max(1, Math.round(share * sizes(s)[0]));

/** δ in the shape of the weight, zero outside the learners. */
function placed({ delta, units }: Far, s: Place): Tensor {
  const [n, each] = sizes(s);
  const rows = scatterAdd(units, delta, n); // [units, each]
  return columns(s) ? rows.T : rows.reshape(...(s.shape.length === 1 ? [n] : [n, each]));
}

/** Needs `prepare(model, { engine, train })`. Count: a share of the units times 2d (3d gated), and their biases; stored besides, their numbers. */
export const far = defineMethod<'weight', FarConfig, Far, null, ReadonlyMap<string, readonly number[]>>({
  name: 'far',
  family: 'selective',
  paper: 'arXiv:2205.01541',
  at: 'weight',
  defaults: { share: 0.1, where: /\bmlp\.((up|gate)\.(weight|bias)|down\.weight)$/ },
  check: ({ path }, { share }) => {
    between('far', 'share', share, Number.MIN_VALUE, 1, true);
    if (!/\bmlp\.((up|gate)\.(weight|bias)|down\.weight)$/.test(path))
      throw new Error(`far: ${path} does not belong to a hidden unit; choose among mlp.up, mlp.gate and mlp.down.weight`);
  },
  prepare: async (sites, c, env) => {
    const moved = await drift('far', sites, env);
    const scores = new Map<string, Float64Array>();
    for (const [k, s] of sites.entries()) {
      const [n, each] = sizes(s);
      const sum = scores.get(layerOf(s.path)) ?? new Float64Array(n);
      for (const [i, v] of moved[k]!.entries()) sum[columns(s) ? i % n : Math.floor(i / each)]! += Math.abs(v);
      scores.set(layerOf(s.path), sum);
    }
    return new Map(sites.map((s) => [s.path, largest([scores.get(layerOf(s.path))!], learners(s, c))[0]!]));
  },
  init: (site, _c, _r, { prepared }) => {
    const units = prepared.get(site.path)!;
    const shape = [units.length, sizes(site)[1]];
    return {
      train: { delta: param(new Float32Array(size(shape)), shape) },
      fixed: { units: leaf(Int32Array.from(units), [units.length]) },
    };
  },
  around:
    (call, p, _, { path }) =>
    (ctx) => {
      const w = call(ctx);
      return w.add(placed(p, { path, shape: w.shape }));
    },
  fold: ({ weight, bias }, p, _, { path }) => ({ weight: weight.add(placed(p, { path, shape: weight.shape })), bias }),
  count: (sites, c) => {
    const train = sites.reduce((n, s) => n + learners(s, c) * sizes(s)[1], 0);
    return { train, stored: train + sites.reduce((n, s) => n + learners(s, c), 0) };
  },
  startsAsBase: () => 'close', // adds an exact zero
});
