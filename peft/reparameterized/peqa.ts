// PEQA: of a weight in whole numbers, only the scales are trained; its codes are shared by all tasks.
//   W' = (s + Δs)·(q − z) by group,   q ∈ {0 … 2ᵇ − 1} and z as int4 or int2 have them;   Δs = 0 at the start
// Kim et al. 2023, arXiv 2305.14152. Merged, it is the same codes with other scales: still packed. The paper's scales are one for each row
// (`group: null`). How they start there could not be verified; here as rounding to nearest has them.
import { broadcastTo } from '../../core/ops/move.ts';
import { unpackAffine } from '../../core/ops/unpack.ts';
import { size } from '../../core/shape.ts';
import { leaf, param, type Tensor } from '../../core/tensor.ts';
import { affineParts, affineWeight, type Bits, int2, int4 } from '../../quant/affine.ts';
import { defineMethod } from '../attach.ts';
import { replaceable, wholeNumber } from '../check.ts';
import type { Site } from '../site.ts';

export interface PeqaConfig {
  readonly bits: Bits;
  readonly group: number | null; // consecutive weights of a row that share a scale; null: the whole row
}
const matrices = (sites: readonly Site<'weight'>[]): readonly Site<'weight'>[] => sites.filter((s) => s.shape.length === 2);
/** Groups of a row: those the weight has already, where it is packed in this way. */
const groups = (site: Site<'weight'>, { group }: PeqaConfig): number =>
  affineParts(site.weight())?.scales.shape[1] ?? Math.ceil(site.shape[1]! / (group ?? site.shape[1]!));

/** (s + Δs)·(q − z): the packed codes with other scales. */
function rescaled(w: Tensor, delta: Tensor, path: string): Tensor {
  const q = affineParts(w);
  if (q === null) throw new Error(`peqa: the weight of ${path} is no longer packed by scale and zero point, and it trains those scales`);
  const [rows, cols] = q.shape;
  const whole = unpackAffine(
    { ...q, scales: leaf(new Float32Array(size(delta.shape)).fill(1), delta.shape) },
    { ...q, block: q.group, along: 'rows' },
  );
  const each = broadcastTo(q.scales.add(delta).reshape(rows, delta.shape[1]!, 1), [rows, delta.shape[1]!, q.group]);
  return whole.mul(each.reshape(rows, delta.shape[1]! * q.group).slice(1, 0, cols));
}

/**
 * All matrices of the blocks, four bits, a scale for each row. A weight that is packed by scale and zero point already (`quantize` with int4 or
 * int2) keeps its codes and its groups; a plain one is packed as the method attaches, and stays reachable for `detach`.
 * Count: one for each group of each row.
 */
export const peqa = defineMethod<'weight', PeqaConfig, { delta: Tensor }>({
  name: 'peqa',
  family: 'reparameterized',
  paper: 'arXiv:2305.14152',
  at: 'weight',
  defaults: { bits: 4, group: null, where: /\bblocks\.\d+\..*\.weight$/ },
  takes: { bits: [2, 4], group: [null, Number] },
  readsWeight: true,
  check: (site, { group }) => {
    if (group !== null) wholeNumber('peqa', 'group', group);
    if (site.shape.length === 2) replaceable(site.layer);
  },
  init: (site, c, _r, { weight }) => {
    if (site.shape.length !== 2) return null; // gains of norms
    const train = { delta: param(new Float32Array(site.shape[0]! * groups(site, c)), [site.shape[0]!, groups(site, c)]) };
    if (affineParts(site.weight()) !== null) return { train };
    const scheme = (c.bits === 4 ? int4 : int2)({ group: c.group ?? site.shape[1]! });
    return { train, base: scheme.pack(weight(), site.shape) };
  },
  around:
    (call, { delta }, _c, { path }) =>
    (ctx) =>
      rescaled(call(ctx), delta, path),
  fold: ({ weight, bias }, { delta }, _c, { path }) => {
    const q = affineParts(weight);
    return { weight: q === null ? rescaled(weight, delta, path) : affineWeight({ ...q, scales: q.scales.add(delta) }, q)(), bias };
  },
  count: (sites, c) => {
    const train = matrices(sites).reduce((n, s) => n + s.shape[0]! * groups(s, c), 0);
    return { train, stored: train };
  },
  startsAsBase: () => 'no', // the base up to rounding, unless it was packed before
});
