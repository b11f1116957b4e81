// AdaMSS: the rows of a weight are sorted into clusters, and each cluster has a small LoRA inside the weight's own principal directions.
//   [W | b] ≈ U S V (R directions),   rows of U in K clusters (k-means),   y_o = (W x + b)_o + (B_k A_k V [x; 1])_o for o in cluster k
//   A_k ∈ ℝ^{r×R}: the first right singular vectors of the cluster's rows of U,   B_k ∈ ℝ^{rows×r} = 0,   V fixed;   r ≤ rows of the cluster
// Zheng et al., NeurIPS 2025 (openreview 8ZdWmpYxT0), as built in PEFT. With a budget, clusters of least importance stop being trained on the way
// (adamssBudget.ts). Which rows are together depends on the k-means (PEFT's own: io/peft/adamss.ts); V, and where rows went, are stored. Merges into weight and bias.
import { gather } from '../../core/ops/index.ts';
import { concat } from '../../core/ops/move.ts';
import { leaf, param, type Tensor } from '../../core/tensor.ts';
import { type Configurable, defineMethod } from '../attach.ts';
import { between, wholeNumber } from '../check.ts';
import { type AdamssBudget, checkBudget, sharedSubspaces } from './adamssBudget.ts';
import { countOf } from './adamssCount.ts';
import { importance, tallies } from './adamssImportance.ts';
import { placesOf, type Start, startsOf } from './adamssStart.ts';

export interface AdamssConfig {
  readonly directions: number; // R, at most the smaller side
  readonly subspaces: number; // K
  readonly rank: number; // r of each
  readonly threshold: number | null; // fewer than r where singular values, squared, are below this share of the first; null: r
  readonly budget: AdamssBudget | null;
}
/** A and B by cluster; V [R, in], its column for the bias [R], where each output's row went [out]. Buffers: Ī and Ū of A, then of B; 1 for clusters that go on. */
export type Adamss = Record<'A' | 'B' | 'average' | 'spread', readonly Tensor[]> & Record<'V' | 'shift' | 'place' | 'on', Tensor>;
/** B_k A_k one cluster after the other, in the order of the outputs: [out, R]. */
function inOrder({ A, B, place }: Adamss): Tensor {
  const changes = B.map((b, k) => b.matmul(A[k]!));
  return gather(concat(changes, 0), place);
}

/** The method over given starts by path; without them `prepare` makes them. */
export const adamssOver = (known: ReadonlyMap<string, Start> | null): Configurable<AdamssConfig> =>
  defineMethod<'linear', AdamssConfig, Adamss, null, readonly Start[] | null>({
    name: 'adamss',
    family: 'reparameterized',
    paper: 'https://openreview.net/forum?id=8ZdWmpYxT0',
    at: 'linear',
    defaults: { directions: 100, subspaces: 5, rank: 1, threshold: null, budget: null, where: ['q', 'v'] },
    takes: { threshold: [null, Number], budget: [null, Object] },
    check: (_, c) => {
      for (const name of ['directions', 'subspaces', 'rank'] as const) wholeNumber('adamss', name, c[name]);
      if (c.threshold !== null) between('adamss', 'threshold', c.threshold, 0, 1);
      if (c.budget !== null) checkBudget(c.budget);
    },
    prepare: startsOf,
    prepareIf: () => known === null,
    init: ({ path, index, shape: [out, into] }, c, _, { prepared }) => {
      const { directions: R, V, shift, clusters } = known?.get(path) ?? prepared![index]!;
      const place = placesOf(clusters.map(({ rows }) => rows));
      const A = clusters.map(({ A: a, rank }) => param(a, [rank, R]));
      const B = clusters.map(({ rows, rank }) => param(new Float32Array(rows.length * rank), [rows.length, rank]));
      return {
        train: { A, B },
        fixed: { V: leaf(V, [R, into!]), place: leaf(place, [out!]), ...(shift === null ? {} : { shift: leaf(shift, [R]) }) },
        ...(c.budget === null ? {} : { buffer: tallies(A, B) }),
      };
    },
    around:
      (call, { A, B, V, shift, place }, _, { shape: [out] }) =>
      (x, ctx) => {
        const inner = x.matmul(V.T); // [.., R]
        const z = shift === undefined ? inner : inner.add(shift);
        const changes = B.map((b, k) => z.matmul(A[k]!.T).matmul(b.T)); // [.., rows_k], cluster by cluster
        const sorted = gather(concat(changes, -1).reshape(-1, out!).T, place).T;
        return call(x, ctx).add(sorted.reshape(...x.shape.slice(0, -1), out!));
      },
    fold: ({ weight, bias }, p) => {
      const d = inOrder(p);
      const moved = p.shift === undefined || bias === null ? bias : bias.add(d.matmul(p.shift.reshape(-1, 1)).reshape(-1));
      return { weight: weight.add(d.matmul(p.V)), bias: moved };
    },
    hooks: (p, c) => (c.budget === null ? {} : { afterStep: (step) => importance(p, c.budget!, step) }),
    control: (at, c) => (c.budget === null ? { after: async () => null } : sharedSubspaces(at, c.budget)),
    finish: ({ A, B, V, shift, place }) => ({ A, B, V, place, ...(shift === undefined ? {} : { shift }) }),
    count: (sites, c, prepared) => countOf(sites, c, known === null ? prepared : sites.map((s) => known.get(s.path)!)),
    startsAsBase: () => 'close', // adds an exact zero
  });

/** Needs `prepare`. Defaults as PEFT's, on q and v. Count: Σ_k r_k(R + rows_k), which is KrR + r·out where all clusters have r rows. */
export const adamss = adamssOver(null);
