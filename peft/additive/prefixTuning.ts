// Prefix tuning: p trained keys and values in front of those of the text, at every attention layer.
//   attend(q, [P_k; k], [P_v; v]);   [P_k,1, P_v,1, …, P_k,L, P_v,L] = W₂ tanh(W₁ E + b₁) + b₂, or trained as they are
// Li & Liang 2021, arXiv 2101.00190, §4.2–4.3. The MLP is for training: `finish` leaves the table it makes.
import { tanh } from '../../core/ops/map.ts';
import { broadcastTo, concat, permute, reshape } from '../../core/ops/move.ts';
import type { Numbers } from '../../core/plan.ts';
import { ShapeError } from '../../core/shape.ts';
import { leaf, param, type Tensor } from '../../core/tensor.ts';
import { context, shifted, withKeys } from '../../nn/context.ts';
import { BASE, type Layer, layer } from '../../nn/layer.ts';
import { substitute } from '../../nn/tree.ts';
import { defineMethod } from '../attach.ts';
import { idsFit, lengthFits, wholeNumber } from '../check.ts';
import type { Site, Where } from '../site.ts';

export interface PrefixTuningConfig {
  readonly length: number; // p
  readonly bottleneck: number | null; // width m of the MLP; null: the table itself is trained
  readonly init: 'normal' | 'zero' | { readonly ids: readonly number[] }; // zero: the last layer; ids: a real text's keys and values
  readonly attend: Where; // which attention layers
}
/** A key table and a value table [p, Hk·D] for each attention layer, in turn: as they are, or as the MLP makes them. */
type Table = { readonly table: readonly Tensor[] };
type Mlp = {
  readonly E: Tensor; // [p, d]
  readonly W1: Tensor; // [m, d]
  readonly b1: Tensor; // [m]
  readonly W2: readonly Tensor[]; // [Hk·D, m] each
  readonly b2: readonly Tensor[]; // [Hk·D] each
};
export type Prefix = Table | Mlp;

export function flatten(t: Prefix): readonly Tensor[] {
  if ('table' in t) return t.table;
  const hidden = tanh(t.E.matmul(t.W1.T).add(t.b1)); // [p, m]
  return t.W2.map((w, i) => hidden.matmul(w.T).add(t.b2[i]!));
}

/** [p, Hk·D] → [B, Hk, p, D], for keys like `k` [B, Hk, T, D]. */
export function asHeads(rows: Tensor, k: Tensor): Tensor {
  const [b, heads, , width] = k.shape as readonly [number, number, number, number];
  const p = rows.shape[0]!;
  return broadcastTo(permute(reshape(rows, [p, heads, width]), [1, 0, 2]), [b, heads, p, width]);
}

const inFront = (call: Layer<'attend'>, keys: Tensor, values: Tensor): Layer<'attend'> =>
  layer(
    'attend',
    { [BASE]: call },
    () => (q, k, v, ctx) => call(q, concat([asHeads(keys, k), k], 2), concat([asHeads(values, v), v], 2), withKeys(ctx, keys.shape[0]!)),
  );

/** Hk·D of each table, in order. */
const widths = (site: Site<'trunk'>, c: PrefixTuningConfig): number[] =>
  site.within('attend', c.attend).flatMap((a) => [a.dim('kvHeads') * a.dim('headWidth'), a.dim('kvHeads') * a.dim('headWidth')]);

/** Keys (rotated, where the network rotates) and values of a text, layer by layer, each [p, Hk·D]. */
export function keysAndValues(site: Site<'trunk'>, ids: readonly number[], attend: Where): Tensor[] {
  const seen = new Map<string, Tensor[]>();
  const listening = substitute(site.root, 'attend', (l, path) =>
    layer('attend', { [BASE]: l }, () => (q, k, v, ctx) => {
      seen.set(path, [k, v]);
      return l(q, k, v, ctx);
    }),
  );
  listening({ ids: leaf(ids, [1, ids.length]) }, context(ids.length));
  const rows = (t: Tensor): Tensor => {
    const own = t.slice(2, -ids.length); // [1, Hk, p, D], without what another prompt put in front
    return reshape(permute(own, [0, 2, 1, 3]), [ids.length, t.shape[1]! * t.shape[3]!]);
  };
  return site.within('attend', attend).flatMap((a) => seen.get(a.path)!.map(rows));
}

/**
 * The text's positions start at p; prefix keys are used as they are, without rotation. Defaults: p = 10 and m = 512 as in the
 * paper's GPT-2 runs; E ~ N(0, 1), linear layers U(±1/√in). Starting from a text's keys and values (`init: { ids }`, p ids) needs
 * `prepare` and `bottleneck: null`.
 * Count: pd + dm + m + (m + 1)·2LHkD trained with the MLP, 2LpHkD without; 2LpHkD stored. Length 0 is the base; a prefix of zeros is
 * not, since zero keys take their share of attention.
 */
export const prefixTuning = defineMethod<'trunk', PrefixTuningConfig, Prefix, null, readonly (readonly Numbers[])[] | null>({
  name: 'prefixTuning',
  family: 'additive',
  paper: 'arXiv:2101.00190',
  at: 'trunk',
  defaults: { length: 10, bottleneck: 512, init: 'normal', attend: 'attend', where: 'trunk' },
  check: (site, c) => {
    lengthFits('prefixTuning', site, c.length);
    if (c.bottleneck !== null) wholeNumber('prefixTuning', 'bottleneck', c.bottleneck);
    widths(site, c);
    if (typeof c.init !== 'object') return;
    idsFit('prefixTuning', site, c.init.ids);
    if (c.bottleneck !== null)
      throw new Error(
        `prefixTuning: init from ids gives the keys and values themselves, and an MLP could not be made to produce them; set bottleneck: null`,
      );
    if (c.init.ids.length !== c.length)
      throw new RangeError(
        `prefixTuning: init from ${c.init.ids.length} ids makes a prefix of that length; set length: ${c.init.ids.length}`,
      );
  },
  prepareIf: (c) => typeof c.init === 'object' && c.length > 0,
  prepare: async (sites, c, { engine }) => {
    if (typeof c.init !== 'object') return null;
    const tables: Numbers[][] = [];
    for (const s of sites) {
      const own: Numbers[] = [];
      for (const t of keysAndValues(s, c.init.ids, c.attend)) own.push((await engine.read(t)).slice());
      tables.push(own);
    }
    return tables;
  },
  init: (site, c, r, { prepared }) => {
    const p = c.length;
    const w = p === 0 ? [] : widths(site, c);
    const zero = c.init === 'zero';
    if (c.bottleneck === null || p === 0) {
      const rows = (n: number, i: number): Float32Array => (zero ? new Float32Array(p * n) : r.split(`table ${i}`).normal(p * n));
      return { train: { table: w.map((n, i) => param(prepared?.[site.index]?.[i] ?? rows(n, i), [p, n])) } };
    }
    const [d, m] = [site.dim('width'), c.bottleneck];
    const linear = (name: string, n: number, from: number): Float32Array =>
      r.split(name).uniform(n, -1 / Math.sqrt(from), 1 / Math.sqrt(from));
    return {
      train: {
        E: param(r.split('E').normal(p * d), [p, d]),
        W1: param(linear('W1', m * d, d), [m, d]),
        b1: param(linear('b1', m, d), [m], { decay: false }),
        W2: w.map((n, i) => param(zero ? new Float32Array(n * m) : linear(`W2 ${i}`, n * m, m), [n, m])),
        b2: w.map((n, i) => param(zero ? new Float32Array(n) : linear(`b2 ${i}`, n, m), [n], { decay: false })),
      },
    };
  },
  around: (call, t, c, site) => {
    if (c.length === 0) return call;
    const at = new Map(site.within('attend', c.attend).map((a) => [a.path, a.index]));
    return (h, ctx) => {
      if (h.shape[1]! + c.length > site.dim('longest'))
        throw new ShapeError(
          `${site.path}: ${h.shape[1]} tokens after a prefix of ${c.length}, but this model has ${site.dim('longest')} positions; shorten the text or the prefix`,
        );
      const table = flatten(t);
      const prefixed = substitute(
        call,
        'attend',
        (l, path) => {
          const i = at.get(path);
          return i === undefined ? null : inFront(l, table[2 * i]!, table[2 * i + 1]!);
        },
        site.path,
      );
      return prefixed(h, shifted(ctx, c.length));
    };
  },
  finish: (t) => ({ table: flatten(t) }),
  count: (sites, c) => {
    const of = (s: Site<'trunk'>): { train: number; stored: number } => {
      const [p, d, m] = [c.length, s.dim('width'), c.bottleneck];
      const w = p === 0 ? 0 : widths(s, c).reduce((a, b) => a + b, 0);
      return { train: m === null || p === 0 ? p * w : p * d + d * m + m + m * w + w, stored: p * w };
    };
    return sites.map(of).reduce((a, b) => ({ train: a.train + b.train, stored: a.stored + b.stored }), { train: 0, stored: 0 });
  },
  startsAsBase: (c) => (c.length === 0 ? 'bitwise' : 'no'),
});
