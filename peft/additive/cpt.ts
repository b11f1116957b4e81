// CPT (context-aware prompt tuning): a prompt of worked examples, whose embeddings are moved a little, and never far.
//   h = trunk([E(ids) + δ; embed(x)])[p:],   δ ∈ ℝ^{p×d},   after each step δ_i ← δ_i·ε_i/max(‖δ_i‖₂, ε_i)
//   types mod 4: 1 template of the input, 2 input, 3 template of the answer, 0 answer (0 itself: nothing);   ε_i = ε√(d/2048) for 2,
//   ε_format·√(d/2048) for 1 and 3, 1e-10 else;   answers have no gradient, so that the examples' labels stay what they are
// Blau et al. 2024, arXiv 2410.17222, as built in PEFT (where δ is put back before each forward pass, here after each step). Its loss, over the
// examples' answers too: cptLoss (cptLoss.ts).
import { max, sqrt, square } from '../../core/ops/map.ts';
import type { Numbers } from '../../core/plan.ts';
import { leaf, type Param, param, paramOf, type Tensor } from '../../core/tensor.ts';
import { defineMethod } from '../attach.ts';
import { between, idsFit, lengthFits } from '../check.ts';
import { embedded, promptInFront } from './promptRows.ts';

export interface CptConfig {
  readonly ids: readonly number[]; // the examples, as the tokenizer has them
  readonly types: readonly number[]; // of each id; examples count on: 1 2 3 4, then 5 6 7 8, …
  readonly epsilon: number; // ε
  readonly formatEpsilon: number; // ε_format
}
type Cpt = { readonly P: Tensor; readonly delta: Tensor }; // [p, d] each

/** Whether a token is part of an answer. */
export const isAnswer = (type: number): boolean => type > 0 && type % 4 === 0;
const column = (types: readonly number[], f: (type: number) => number): Tensor => leaf(types.map(f), [types.length, 1]);

/** Needs `prepare`. Starts as the network that reads the examples in front of the text. Defaults as PEFT's. Count: p·d; stored 2p·d. */
export const cpt = defineMethod<'trunk', CptConfig, Cpt, null, readonly Numbers[]>({
  name: 'cpt',
  family: 'additive',
  paper: 'arXiv:2410.17222',
  at: 'trunk',
  defaults: { ids: [0], types: [1], epsilon: 0.1, formatEpsilon: 0.1, where: 'trunk' },
  check: (site, { ids, types, epsilon, formatEpsilon }) => {
    lengthFits('cpt', site, ids.length);
    idsFit('cpt', site, ids);
    if (types.length !== ids.length || !types.every((t) => Number.isInteger(t) && t >= 0))
      throw new RangeError(
        `cpt: ${ids.length} ids need as many types, whole numbers from 0; got ${types.length}: ${types.slice(0, 8).join(' ')}`,
      );
    for (const [name, e] of [['epsilon', epsilon] as const, ['formatEpsilon', formatEpsilon] as const])
      between('cpt', name, e, Number.MIN_VALUE, Number.MAX_VALUE);
  },
  prepare: async (sites, { ids }, { engine }) => {
    const numbers: Numbers[] = [];
    for (const s of sites) numbers.push((await engine.read(embedded(s, ids))).slice());
    return numbers;
  },
  init: (site, { ids }, _, { prepared }) => {
    const shape = [ids.length, site.dim('width')] as const;
    return {
      train: { delta: param(new Float32Array(shape[0] * shape[1]), shape) },
      fixed: { P: leaf(prepared[site.index]!, shape) },
    };
  },
  around: (call, { P, delta }) => promptInFront(call, P.add(delta)),
  byRow: true,
  hooks: ({ delta }, { types, epsilon, formatEpsilon }, site) => {
    const [p, root] = [paramOf(delta)!, Math.sqrt(site.dim('width') / 2048)];
    const moves = column(types, (t) => (t % 4 === 0 ? 0 : 1));
    const ball = column(types, (t) => (t % 4 === 2 ? epsilon * root : t % 4 === 0 ? 1e-10 : formatEpsilon * root));
    return {
      afterGrad: (grads) => new Map([...grads].map(([q, g]) => [q, q === p ? g.mul(moves) : g])),
      afterStep: ({ next }) => {
        const now = next(p);
        const length = sqrt(square(now).sum([1], true)); // no gradient passes here
        return new Map<Param, Tensor>([[p, now.mul(ball.div(max(length, ball)))]]);
      },
    };
  },
  count: (sites, { ids }) => {
    const train = sites.reduce((n, s) => n + ids.length * s.dim('width'), 0);
    return { train, stored: 2 * train };
  },
  startsAsBase: () => 'no',
});
