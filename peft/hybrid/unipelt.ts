// UniPELT: LoRA on q and v, a prefix and an adapter, each behind a gate that reads what its submodule reads.
//   q = W_q x + g_q·B_q A_q x (v alike);   attend(q, [g_p P_k; k], [g_p P_v; v]);   y = h + g_a·(W_up σ(W_down h + b_down) + b_up), h = mlp(x)
//   g = sigmoid(w·x + b) of each token, or the mean of that over the tokens; the adapter's gate reads h
// Mao et al. 2022, arXiv 2110.07577, §3.
import { softmax } from '../../core/ops/fused.ts';
import { relu, sigmoid } from '../../core/ops/map.ts';
import { concat, pad, reshape } from '../../core/ops/move.ts';
import { mean } from '../../core/ops/reduce.ts';
import type { Rng } from '../../core/rng.ts';
import { param, type Tensor } from '../../core/tensor.ts';
import { withKeys } from '../../nn/context.ts';
import { BASE, type Layer, layer } from '../../nn/layer.ts';
import { substitute } from '../../nn/tree.ts';
import {
  type Bottleneck,
  type BottleneckConfig,
  type BottleneckInit,
  checkBottleneck,
  newBottleneck,
  sizeOf,
  throughBottleneck,
} from '../additive/bottleneck.ts';
import { flatten, newPrefix, newPrefixHidden, type Prefix, type PrefixHidden, prefixHiddenSize, prefixSize } from '../additive/prefix.ts';
import { asHeads } from '../additive/prefixAttention.ts';
import { defineMethod } from '../attach.ts';
import { rankFits, wholeNumber } from '../check.ts';
import type { Site } from '../site.ts';

export interface UnipeltConfig extends BottleneckConfig {
  readonly rank: number; // of LoRA; 0 leaves it out (the variant AP)
  readonly length: number; // p of the prefix; 0 leaves it out
  readonly prefixBottleneck: number | null; // of the prefix's MLP, which all layers share; null: tables
  readonly gate: 'token' | 'example';
  readonly central: boolean; // LoRA and prefix share one gate: softmax(relu(W_c x + b_c)), first and second share
  readonly init: BottleneckInit; // of the adapter
}
/** w [n, d] and b [n]; empty where there is no such gate. */
type Gate = readonly Tensor[];
type OnAttention = Prefix & { readonly lora: readonly Tensor[]; readonly gateQ: Gate; readonly gateV: Gate; readonly gateP: Gate };
type OnFeedForward = Bottleneck & { readonly gate: Gate };

const isAttention = (s: Site<'branch'>): boolean => s.within('attend').length > 0;
const newGate = (n: number, d: number, r: Rng): Gate => [
  param(r.normal(n * d, 0.02), [n, d]),
  param(new Float32Array(n), [n], { decay: false }),
];
/** q and v, where LoRA goes. */
const projections = (s: Site<'branch'>): Site<'linear'>[] => ['q', 'v'].map((name) => s.within('linear', name)[0]!);
/** Hk·D of the key table and the value table. */
const widths = (s: Site<'branch'>): number[] =>
  s.within('attend').flatMap((a) => Array<number>(2).fill(a.dim('kvHeads') * a.dim('headWidth')));
const overTokens = (g: Tensor, c: UnipeltConfig): Tensor => (c.gate === 'token' ? g : mean(g, [1], true));
const score = ([w, b]: Gate, x: Tensor): Tensor => x.matmul(w!.T).add(b!); // [B, T, n]

/** g for q, v and the prefix, each [B, T, 1] or [B, 1, 1]. */
function gates(p: OnAttention, x: Tensor, c: UnipeltConfig): { q: Tensor; v: Tensor; prefix: Tensor } {
  if (c.central) {
    const both = softmax(overTokens(relu(score(p.gateP, x)), c));
    return { q: both.slice(2, 0, 1), v: both.slice(2, 0, 1), prefix: both.slice(2, 1) };
  }
  const g = (gate: Gate): Tensor => (gate.length === 0 ? x : overTokens(sigmoid(score(gate, x)), c));
  return { q: g(p.gateQ), v: g(p.gateV), prefix: g(p.gateP) };
}

const lowRank = (call: Layer<'linear'>, A: Tensor, B: Tensor, g: Tensor): Layer<'linear'> =>
  layer('linear', { [BASE]: call }, () => (x, ctx) => call(x, ctx).add(x.matmul(A.T).matmul(B.T).mul(g)));

/**
 * softmax([g q·P_kᵀ; q·kᵀ]/√D)·[g P_v; v]: what keys and values times g give, for a g that may differ from query to query. One call
 * on heads twice as wide: query [q, g q]·√2, text keys [k, 0], prefix keys [0, P_k], values alike; the halves of the answer add up.
 */
const gatedPrefix = (call: Layer<'attend'>, keys: Tensor, values: Tensor, gate: Tensor): Layer<'attend'> =>
  layer('attend', { [BASE]: call }, () => (q, k, v, ctx) => {
    const d = k.shape[3]!;
    const g = reshape(gate, [gate.shape[0]!, 1, gate.shape[1]!, 1]);
    const wide = (prefix: Tensor, text: Tensor): Tensor => concat([pad(asHeads(prefix, text), 3, d, 0), pad(text, 3, 0, d)], 2);
    const both = call(concat([q, q.mul(g)], 3).mul(Math.SQRT2), wide(keys, k), wide(values, v), withKeys(ctx, keys.shape[0]!));
    return both.slice(3, 0, d).add(both.slice(3, d).mul(g)); // [B, H, T, D]
  });

/**
 * The authors' gates are means over an example's tokens, padding included (`gate: 'example'`). In a causal network a mean would let a
 * token see those after it, so there it is refused, and the default is a gate for each token. LoRA has no α: the gate is its scale.
 * The prefix does not move the text's positions. Gates start at w ~ N(0, 0.02²), b = 0.
 * Count: per attention r(in + out) + d + 1 for q and for v, and (m + 1)·2HkD + d + 1 for the prefix, with pd + dm + m once;
 * per feed-forward 2md + m + d + d + 1. A central gate has 2d + 2 in place of the three.
 */
export const unipelt = defineMethod<'branch', UnipeltConfig, OnAttention | OnFeedForward, PrefixHidden | null>({
  name: 'unipelt',
  family: 'hybrid',
  paper: 'arXiv:2110.07577',
  at: 'branch',
  defaults: {
    rank: 8,
    length: 10,
    prefixBottleneck: 512,
    bottleneck: null,
    reduction: 16,
    activation: 'relu',
    gate: 'token',
    central: false,
    init: 'bert',
    where: ['attn', 'mlp'],
  },
  check: (site, c) => {
    if (!isAttention(site)) return checkBottleneck('unipelt', c);
    if (!Number.isInteger(c.length) || c.length < 0)
      throw new RangeError(`unipelt: length ${c.length} must be a whole number, 0 for no prefix`);
    if (c.prefixBottleneck !== null) wholeNumber('unipelt', 'prefixBottleneck', c.prefixBottleneck);
    if (c.central && (c.rank === 0 || c.length === 0))
      throw new Error('unipelt: a central gate divides between LoRA and the prefix, and one of them is left out; set central: false');
    if (c.rank !== 0) for (const s of projections(site)) rankFits('unipelt', s, c.rank);
  },
  shared: (sites, c, r) =>
    c.length === 0 || c.prefixBottleneck === null || !sites.some(isAttention)
      ? null
      : newPrefixHidden(c.length, sites.find(isAttention)!.dim('width'), c.prefixBottleneck, r),
  init: (site, c, r, { shared }) => {
    const d = site.dim('width');
    if (!isAttention(site)) return { train: { ...newBottleneck(c, d, c.init, r), gate: newGate(1, d, r.split('gate')) } };
    const pair = (s: Site<'linear'>): Tensor[] => {
      // A, B
      const [out, into] = s.shape as readonly [number, number];
      const A = r.split(s.path).uniform(c.rank * into, -1 / Math.sqrt(into), 1 / Math.sqrt(into));
      return [param(A, [c.rank, into]), param(new Float32Array(out * c.rank), [out, c.rank])];
    };
    const gate = (name: string, wanted: boolean, n = 1): Gate => (wanted ? newGate(n, d, r.split(name)) : []);
    return {
      train: {
        ...newPrefix(c.length === 0 ? [] : widths(site), c.length, shared, false, r),
        lora: c.rank === 0 ? [] : projections(site).flatMap(pair),
        gateQ: gate('gateQ', c.rank > 0 && !c.central),
        gateV: gate('gateV', c.rank > 0 && !c.central),
        gateP: gate('gateP', c.length > 0, c.central ? 2 : 1),
      },
    };
  },
  around: (call, p, c, site) => (x, ctx) => {
    if (c.gate === 'example' && ctx.causal)
      throw new Error(
        `unipelt at ${site.path}: a gate that is a mean over the tokens would let each token see those after it, and this network is causal; use gate: 'token'`,
      );
    if ('down' in p) {
      const h = call(x, ctx); // [B, T, d]
      return h.add(throughBottleneck(h, p, c.activation).mul(overTokens(sigmoid(score(p.gate, h)), c)));
    }
    const g = gates(p, x, c);
    const [Aq, Bq, Av, Bv] = p.lora;
    const adapted = substitute(
      call,
      'linear',
      (l, path) => {
        if (Aq && Bq && path === `${site.path}.q`) return lowRank(l, Aq, Bq, g.q);
        return Av && Bv && path === `${site.path}.v` ? lowRank(l, Av, Bv, g.v) : null;
      },
      site.path,
    );
    const [keys, values] = flatten(p);
    return (keys && values ? substitute(adapted, 'attend', (l) => gatedPrefix(l, keys, values, g.prefix)) : adapted)(x, ctx);
  },
  finish: (p) => {
    if ('down' in p) return p;
    const { lora, gateQ, gateV, gateP } = p;
    return { lora, gateQ, gateV, gateP, table: flatten(p) };
  },
  count: (sites, c) => {
    const attention = sites.filter(isAttention);
    const adapters = sites.filter((s) => !isAttention(s)).reduce((n, s) => n + sizeOf(c, s.dim('width')) + s.dim('width') + 1, 0);
    const m = c.length === 0 ? null : c.prefixBottleneck;
    const each = (s: Site<'branch'>, mlp: number | null): number => {
      const gate = s.dim('width') + 1;
      const lora = c.rank === 0 ? [] : projections(s).map(({ shape: [out, into] }) => c.rank * (out! + into!));
      const prefix = c.length === 0 ? 0 : prefixSize(widths(s), c.length, mlp) + gate * (c.central ? 2 : 1);
      return prefix + lora.reduce((n, k) => n + k + (c.central ? 0 : gate), 0);
    };
    const sum = (mlp: number | null): number => attention.reduce((n, s) => n + each(s, mlp), adapters);
    const once = m === null || attention.length === 0 ? 0 : prefixHiddenSize(c.length, attention[0]!.dim('width'), m);
    return { train: sum(m) + once, stored: sum(null) };
  },
  startsAsBase: (c) => (c.length === 0 && c.init === 'zero' ? 'close' : 'no'),
});
