// FISH-DIP: a FISH mask that is chosen again while training goes on, by the examples on which the model does worst at the time.
//   every τ steps: H = the n examples of the largest loss,  F_i = Σ_{x ∈ H} (∂L(x)/∂θ_i)²,  M = the share ρ of all entries with the largest F;
//   g ← g ⊙ M;   n = a tenth of the examples, at least 3, at most 25
// Das et al. 2023, arXiv 2311.03748, §3; numbers as in the authors' code (which takes a tenth of the number of batches). What has left the mask keeps
// the value it has got, so in the end more entries than ρN may have moved.
import { size } from '../../core/shape.ts';
import { param, paramOf, type Tensor } from '../../core/tensor.ts';
import { withValues } from '../../nn/freeze.ts';
import { params } from '../../nn/tree.ts';
import { defineMethod } from '../attach.ts';
import { between, wholeNumber } from '../check.ts';
import type { Env } from '../method.ts';
import type { Site } from '../site.ts';
import { change, type Dense, dense } from './dense.ts';
import { chosenByHardest, type FishDipConfig } from './fishDipChoice.ts';
import { type Chosen, sparse } from './sparse.ts';

type Sites = readonly Site<'weight'>[];
const maskOf = (places: readonly number[], n: number): Float32Array => {
  const mask = new Float32Array(n);
  for (const p of places) mask[p] = 1;
  return mask;
};

/**
 * One percent of all weights of the blocks, chosen every 100 steps. Needs `prepare(model, { engine, batches, loss })`; the same batches serve to
 * choose again, and what methods beneath have learned counts. Count: all entries, of which a share moves at a time.
 */
export const fishDip = defineMethod<'weight', FishDipConfig, Dense & { mask?: Tensor }, null, { first: Chosen; sites: Sites; env: Env }>({
  name: 'fishDip',
  family: 'selective',
  paper: 'arXiv:2311.03748',
  at: 'weight',
  defaults: { density: 0.01, reserved: 0, every: 100, hardest: 0.1, least: 3, most: 25, where: /\bblocks\./ },
  check: (site, c) => {
    sparse('fishDip').check(site, c);
    for (const name of ['every', 'least', 'most'] as const) wholeNumber('fishDip', name, c[name]);
    between('fishDip', 'hardest', c.hardest, 0, 1, true);
  },
  prepare: async (sites, c, env) => ({ first: await chosenByHardest(sites, c, env), sites, env }),
  init: (site, _c, _r, { prepared }) => ({
    train: dense(site),
    buffer: { mask: param(maskOf(prepared.first.get(site.path) ?? [], size(site.shape)), site.shape, { active: false }) },
  }),
  ...change,
  hooks: ({ delta, mask }) => ({
    afterGrad: (grads) => {
      const p = paramOf(delta)!;
      const g = grads.get(p);
      return g === undefined ? new Map() : new Map([[p, g.mul(mask!)]]);
    },
  }),
  control: (at, c, { sites, env }) => ({
    after: async ({ step, total }, read) => {
      if (step % c.every !== 0 || step === total || at.length === 0) return null;
      const own = new Map(at.map((a) => [a.path, a.own]));
      const live = sites.filter((s) => own.has(s.path));
      const deltas = live.map((s) => paramOf(own.get(s.path)!.delta)!);
      const now = await read([...deltas, ...params(live[0]!.root).keys()]);
      const root = withValues(live[0]!.root, now);
      const here = live.map((s) => Object.create(s, { root: { value: root, enumerable: true } }) as Site<'weight'>);
      const places = await chosenByHardest(
        here,
        c,
        env,
        deltas.map((p) => Float64Array.from(now.get(p)!)),
      );
      return new Map(live.map((s) => [paramOf(own.get(s.path)!.mask!)!, maskOf(places.get(s.path) ?? [], size(s.shape))]));
    },
  }),
  finish: ({ delta }) => ({ delta }),
});
