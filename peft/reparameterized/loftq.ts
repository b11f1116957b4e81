// LoftQ: LoRA that starts as the best low-rank correction of what quantisation lost, found by turns with the quantised weight.
//   R₀ = W;  for t = 1 … T:  Q_t = quantised R_{t−1},  s·B_tA_t = best rank r of W − Q_t,  R_t = W − s·B_tA_t;  the t of least ‖W − Q − s·BA‖ is kept
//   y = Q x + b + s·B A drop(x),   Q stored packed;   B = U √(S/s), A = √(S/s) Vᵀ
// Li et al. 2023, arXiv 2310.08659, algorithm 1 (T = 5 in the paper). The authors do not divide by s and need α = r for it; the two agree there.
import { type Rng, rng } from '../../core/rng.ts';
import { type Data, param } from '../../core/tensor.ts';
import type { Layer, Model } from '../../nn/layer.ts';
import { substitute } from '../../nn/tree.ts';
import { nf4 } from '../../quant/nf4.ts';
import { inBlocks, type Scheme, type WeightChoice } from '../../quant/quantize.ts';
import { defineMethod } from '../attach.ts';
import { wholeNumber } from '../check.ts';
import { product, randomizedSvd, type Svd, svd } from '../linalg.ts';
import type { Options } from '../method.ts';
import { atHand, pick, type Site } from '../site.ts';
import { type Factors, type LoraConfig, scaling, type UpdateConfig, update } from './lora.ts';
import { checkTaken, halved, minus } from './residual.ts';
import { withFactors } from './withFactors.ts';

export interface LoftqConfig extends UpdateConfig {
  readonly scheme: Scheme; // how Q is packed
  readonly iterations: number; // T
  readonly power: number | null; // power iterations of a randomised factorisation; null: exact
}

export interface Split {
  /** What is packed: W without the correction found one turn earlier. */
  readonly kept: Data;
  /** The correction's singular triplets. */
  readonly change: Svd;
  /** ‖W − Q_t − s·B_tA_t‖ of every turn. */
  readonly errors: readonly number[];
}
/** W [out, in] as a quantised part and one of low rank: the better of T turns. Throws on NaN and infinities. */
export function alternate(
  w: Data,
  out: number,
  into: number,
  c: Pick<LoftqConfig, 'rank' | 'scheme' | 'iterations' | 'power'>,
  r: Rng,
): Split {
  const errors: number[] = [];
  const best: { split: Omit<Split, 'errors'> | null } = { split: null };
  let kept: Data = w;
  for (let t = 0; t < c.iterations; t++) {
    const lost = minus(w, c.scheme.round(kept, [out, into]));
    const change = c.power === null ? svd(lost, out, into, c.rank) : randomizedSvd(lost, out, into, c.rank, c.power, r);
    const low = product(
      change.u.map((v, k) => v * change.s[k % c.rank]!),
      change.vt,
      out,
      c.rank,
      into,
    );
    const error = Math.hypot(...blockNorms(minus(lost, low), into));
    if (errors.every((e) => error < e)) best.split = { kept, change };
    errors.push(error);
    kept = minus(w, low);
  }
  if (best.split === null) throw new RangeError('loftq: the weight holds NaN, so no turn is better than another');
  return { ...best.split, errors };
}
/** Norms of rows: Math.hypot takes its numbers as arguments, of which there may be too many. */
const blockNorms = (d: Float64Array, cols: number): number[] =>
  Array.from({ length: d.length / cols }, (_, i) => Math.sqrt(d.subarray(i * cols, (i + 1) * cols).reduce((s, v) => s + v * v, 0)));

function started({ shape }: Pick<Site<'linear'>, 'shape'>, w: Data, c: LoftqConfig, r: Rng): { own: Factors; packed: Layer<'weight'> } {
  const [out, into] = shape as [number, number];
  const { kept, change } = alternate(w, out, into, c, r);
  const { a, b } = halved(change.u, change.s, change.vt, scaling(c));
  return { own: { A: param(a, [c.rank, into]), B: param(b, [out, c.rank]) }, packed: c.scheme.pack(kept, shape) };
}

const DEFAULTS: LoftqConfig = { rank: 8, alpha: 8, rankStabilized: false, dropout: 0, scheme: nf4(), iterations: 5, power: null };

/** The weight it replaces stays reachable, for `detach`; `loftqModel` lets go of it. Count: r(in + out). */
export const loftq = defineMethod<'linear', LoftqConfig, Factors>({
  name: 'loftq',
  family: 'reparameterized',
  paper: 'arXiv:2310.08659',
  at: 'linear',
  defaults: { ...DEFAULTS, where: ['q', 'v'] },
  readsWeight: true,
  check: (site, c) => {
    checkTaken('loftq')(site, c);
    wholeNumber('loftq', 'iterations', c.iterations);
  },
  init: (site, c, r, given) => {
    const { own, packed } = started(site, given.weight(), c, r);
    return { train: own, base: packed };
  },
  ...update,
  startsAsBase: () => 'no', // W up to what quantisation and r directions leave
});

/**
 * The same as a packed network with LoRA on it, and nothing of the old weights kept: what is trained in little memory. The matrices
 * `where` picks (all in the blocks) must be frozen plain numbers.
 */
export function loftqModel(
  model: Model,
  {
    where = inBlocks,
    seed = 0,
    ...options
  }: Omit<Options<LoftqConfig>, 'where' | 'seed'> & { readonly where?: WeightChoice; readonly seed?: number } = {},
): Model {
  const c = { ...DEFAULTS, ...options };
  const factors = new Map<string, Factors>();
  const packed = new Map<string, Layer<'weight'>>();
  const r = rng(seed).split('loftq');
  for (const site of pick(model, 'linear', where, 'loftq')) {
    checkTaken('loftq')(site, c);
    const w = site.weight();
    const numbers = w.source.kind === 'leaf' ? atHand(w) : null;
    if (numbers === null)
      throw new Error(
        `loftqModel: the weight of ${site.path} is not frozen plain numbers; freeze(model), and await realize(model, engine)`,
      );
    const one = started(site, numbers, c, r.split(site.path));
    factors.set(site.path, one.own);
    packed.set(site.path, one.packed);
  }
  const base = substitute(model, 'linear', (l, path) => {
    const weight = packed.get(path);
    return weight === undefined ? null : l.with({ ...l.fields, weight });
  });
  const { rank, alpha, rankStabilized, dropout } = c;
  return withFactors(base, factors, { rank, alpha, rankStabilized, dropout } satisfies Partial<LoraConfig>);
}
