// Arithmetic on trained LoRA adapters: several of them, each with a weight, become one. Numbers on the host, in double precision.
//   ΔW_i = s_i·B_i A_i.   The rules are those of Hugging Face PEFT's `add_weighted_adapter`, which also fixes what the papers leave open.
import { type Rng, rng } from '../core/rng.ts';
import { param } from '../core/tensor.ts';
import type { Model } from '../nn/layer.ts';
import { layers } from '../nn/tree.ts';
import { between } from './check.ts';
import { product, svd, transposed } from './linalg.ts';
import { type Factors, type LoraConfig, scaling } from './reparameterized/lora.ts';
import { withFactors } from './reparameterized/withFactors.ts';
import { atHand } from './site.ts';

/** The factors of one place: a [rank, in], b [out, rank], and s. */
export interface Pair {
  readonly a: Float64Array;
  readonly b: Float64Array;
  readonly rank: number;
  readonly scale: number;
}
/** A trained LoRA without its network, by path. */
export type Adapter = ReadonlyMap<string, Pair>;
export const widthOf = ({ a, rank }: Pair): number => a.length / rank;
export const heightOf = ({ b, rank }: Pair): number => b.length / rank;
/** s·B A: [out, in] */
export const changeOf = (p: Pair): Float64Array => product(p.b, p.a, heightOf(p), p.rank, widthOf(p)).map((v) => p.scale * v);

/** The LoRA of a model. Throws where there is none, or two on one layer, or where its factors are recipes. */
export function adapterOf(model: Model): Adapter {
  const found = new Map<string, Pair>();
  for (const { path, layer } of layers(model)) {
    if (layer.attached?.method !== 'lora') continue;
    if (found.has(path)) throw new Error(`adapterOf: ${path} has two LoRAs; take them from two models`);
    const { A, B } = layer.fields[layer.attached.field] as Factors; // a seam: a layer does not know its method's types
    const [a, b] = [atHand(A), atHand(B)];
    if (a === null || b === null) throw new Error(`adapterOf: the LoRA of ${path} is a recipe; await realize(model, engine) first`);
    found.set(path, {
      a: Float64Array.from(a),
      b: Float64Array.from(b),
      rank: A.shape[0]!,
      scale: scaling(layer.attached.application.config as LoraConfig),
    });
  }
  if (found.size === 0) throw new Error('adapterOf: no layer of this model has LoRA attached');
  return found;
}

/** A model with LoRA holding an adapter's factors, to use, train or save. One application per rank and scale; refused as LoRA refuses ranks. */
export function attachAdapter(model: Model, adapter: Adapter): Model {
  const groups = new Map<string, string[]>();
  for (const [path, { rank, scale }] of adapter) groups.set(`${rank} ${scale}`, [...(groups.get(`${rank} ${scale}`) ?? []), path]);
  return [...groups.values()].reduce((m, paths) => {
    const { rank, scale } = adapter.get(paths[0]!)!;
    const factors = paths.map((path) => {
      const p = adapter.get(path)!;
      return [path, { A: param(p.a, [rank, widthOf(p)]), B: param(p.b, [heightOf(p), rank]) }] as const;
    });
    return withFactors(m, new Map(factors), { rank, alpha: rank * scale });
  }, model);
}

/** One tensor from the same tensor of several tasks and their weights. */
export type Merge = (tasks: readonly Float64Array[], weights: readonly number[], r: Rng) => Float64Array;

/** Σ w_i t_i */
export const weightedSum: Merge = (tasks, weights) => tasks[0]!.map((_, k) => tasks.reduce((sum, t, i) => sum + weights[i]! * t[k]!, 0));

/** The ⌊ρN⌋ largest numbers by magnitude, the others 0. Equal magnitudes: the earlier stays. */
export function pruned(t: Float64Array, density: number): Float64Array {
  const kept = new Set([...t.keys()].sort((i, j) => Math.abs(t[j]!) - Math.abs(t[i]!) || i - j).slice(0, Math.floor(density * t.length)));
  return t.map((v, k) => (kept.has(k) ? v : 0));
}
/** Each number with probability ρ, divided by ρ, else 0: its expectation is the number (Yu et al. 2023, arXiv 2311.03099). */
export const thinned = (t: Float64Array, density: number, r: Rng): Float64Array => t.map((v) => (r.next() < density ? v / density : 0));

const share = (method: string, density: number): void => {
  if (!(density > 0)) throw new RangeError(`${method}: density ${density} must be above 0 and at most 1`);
  between(method, 'density', density, 0, 1, true);
};
/** Pruned by magnitude, then summed. */
export const magnitudePrune = (density: number): Merge => {
  share('magnitudePrune', density);
  return (tasks, weights, r) =>
    weightedSum(
      tasks.map((t) => pruned(t, density)),
      weights,
      r,
    );
};
/** Sums over those tasks alone whose sign is the elected one, divided by their number. Zero agrees with nobody, and a tie elects plus. */
const agreeing = (tasks: readonly Float64Array[], weights: readonly number[], elect: 'total' | 'frequency'): Float64Array =>
  tasks[0]!.map((_, k) => {
    const vote = tasks.reduce((sum, t) => sum + (elect === 'total' ? t[k]! : Math.sign(t[k]!)), 0) >= 0 ? 1 : -1;
    const [sum, n] = tasks.reduce(([s, m], t, i) => (Math.sign(t[k]!) === vote ? [s + weights[i]! * t[k]!, m + 1] : [s, m]), [
      0, 0,
    ] as const as [number, number]);
    return sum / Math.max(n, 1);
  });
/** TIES (Yadav et al. 2023, arXiv 2306.01708): prune by magnitude, elect a sign per number from the unweighted tasks, merge those that agree. */
export const ties = (density: number, elect: 'total' | 'frequency' = 'total'): Merge => {
  share('ties', density);
  return (tasks, weights) =>
    agreeing(
      tasks.map((t) => pruned(t, density)),
      weights,
      elect,
    );
};
/** DARE: thin at random, then sum, or elect signs as TIES does. */
export const dare = (density: number, elect: 'total' | 'frequency' | null = null): Merge => {
  share('dare', density);
  return (tasks, weights, r) => {
    const thin = tasks.map((t, i) => thinned(t, density, r.split(i)));
    return elect === null ? weightedSum(thin, weights, r) : agreeing(thin, weights, elect);
  };
};

/** For every place that any of the adapters has: those that have it, with their weights. */
function places(name: string, adapters: readonly Adapter[], weights: readonly number[]): Map<string, { pairs: Pair[]; weights: number[] }> {
  if (adapters.length === 0 || adapters.length !== weights.length || !weights.every(Number.isFinite))
    throw new RangeError(`${name}: ${adapters.length} adapters need as many weights, and got ${weights.join(', ') || 'none'}`);
  const at = new Map<string, { pairs: Pair[]; weights: number[] }>();
  for (const [i, adapter] of adapters.entries())
    for (const [path, pair] of adapter) {
      const here = at.get(path) ?? { pairs: [], weights: [] };
      at.set(path, here);
      const first = here.pairs[0] ?? pair;
      if (widthOf(first) !== widthOf(pair) || heightOf(first) !== heightOf(pair))
        throw new RangeError(
          `${name}: the adapters are of different networks: at ${path} one is for [${heightOf(first)}, ${widthOf(first)}], another for [${heightOf(pair)}, ${widthOf(pair)}]`,
        );
      here.pairs.push(pair);
      here.weights.push(weights[i]!);
    }
  return at;
}

/**
 * A and B apart: A' = merge(A_i; sgn(w_i) √|w_i s_i|), B' = merge(B_i; √|w_i s_i|), scale 1. Ranks must be equal. With `weightedSum` (PEFT's `linear`)
 * B' A' has the cross terms B_i A_j, so it is not the weighted sum of the changes: for that take `cat` or `onChange`. `seed` is for DARE.
 */
export function onFactors(merge: Merge, adapters: readonly Adapter[], weights: readonly number[], seed = 0): Adapter {
  const at = places('onFactors', adapters, weights);
  return new Map(
    [...at].map(([path, { pairs, weights: w }]) => {
      const rank = pairs[0]!.rank;
      if (pairs.some((p) => p.rank !== rank))
        throw new RangeError(
          `onFactors: at ${path} the ranks ${pairs.map((p) => p.rank).join(', ')} differ; combine them with cat or onChange`,
        );
      const root = pairs.map((p, i) => Math.sqrt(Math.abs(w[i]! * p.scale)));
      const r = rng(seed).split(path);
      const a = merge(
        pairs.map((p) => p.a),
        root.map((v, i) => (w[i]! * pairs[i]!.scale < 0 ? -v : v)),
        r.split('A'),
      );
      return [
        path,
        {
          a,
          b: merge(
            pairs.map((p) => p.b),
            root,
            r.split('B'),
          ),
          rank,
          scale: 1,
        },
      ] as const;
    }),
  );
}
/** PEFT's `linear`. */
export const linear = (adapters: readonly Adapter[], weights: readonly number[]): Adapter => onFactors(weightedSum, adapters, weights);

/** A' = [w_i s_i A_i] stacked, B' = [B_i] side by side, scale 1, rank Σ r_i: exactly Σ w_i ΔW_i. */
export function cat(adapters: readonly Adapter[], weights: readonly number[]): Adapter {
  return new Map(
    [...places('cat', adapters, weights)].map(([path, { pairs, weights: w }]) => {
      const [rank, out] = [pairs.reduce((n, p) => n + p.rank, 0), heightOf(pairs[0]!)];
      const a = Float64Array.from(pairs.flatMap((p, i) => [...p.a].map((v) => w[i]! * p.scale * v)));
      const columns = Float64Array.from(pairs.flatMap((p) => [...transposed(p.b, out, p.rank)])); // [rank, out]
      return [path, { a, b: transposed(columns, rank, out), rank, scale: 1 }] as const;
    }),
  );
}

/**
 * The changes themselves: merge(ΔW_i; w_i) = U S Vᵀ, B' = U_r S_r, A' = V_rᵀ, scale 1 (PEFT's combinations that end in `svd`, with each s_i applied
 * once; PEFT 0.20 applied it twice). `rank` is that of the largest adapter unless given; `clamp` cuts B' and A' at that quantile of their numbers,
 * which depends, as in PEFT, on the signs that the factorisation happens to give its vectors.
 */
export function onChange(
  merge: Merge,
  adapters: readonly Adapter[],
  weights: readonly number[],
  { rank: wanted, clamp = null, seed = 0 }: { readonly rank?: number; readonly clamp?: number | null; readonly seed?: number } = {},
): Adapter {
  return new Map(
    [...places('onChange', adapters, weights)].map(([path, { pairs, weights: w }]) => {
      const [out, into] = [heightOf(pairs[0]!), widthOf(pairs[0]!)];
      const rank = wanted ?? Math.max(...pairs.map((p) => p.rank));
      if (!Number.isInteger(rank) || rank < 1 || rank > Math.min(out, into))
        throw new RangeError(
          `onChange: rank ${rank} at ${path} must be a whole number from 1 to ${Math.min(out, into)}, the smaller side of [${out}, ${into}]`,
        );
      const { u, s, vt } = svd(merge(pairs.map(changeOf), w, rng(seed).split(path)), out, into, rank);
      const b = u.map((v, k) => v * s[k % rank]!);
      if (clamp === null) return [path, { a: vt, b, rank, scale: 1 }] as const;
      between('onChange', 'clamp', clamp, 0, 1, true);
      const high = quantile([...b, ...vt], clamp);
      const cut = (t: Float64Array): Float64Array => t.map((v) => Math.min(Math.max(v, -high), high));
      return [path, { a: cut(vt), b: cut(b), rank, scale: 1 }] as const;
    }),
  );
}
/** Linear interpolation between the two nearest of the sorted numbers, as torch.quantile. */
function quantile(numbers: number[], q: number): number {
  const sorted = numbers.sort((x, y) => x - y);
  const at = q * (sorted.length - 1);
  const [low, high] = [sorted[Math.floor(at)]!, sorted[Math.ceil(at)]!];
  return low + (high - low) * (at - Math.floor(at));
}
