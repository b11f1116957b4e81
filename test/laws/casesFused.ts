// Cases for core/ops/fused.ts: definitions by loops over rows, heads and positions.
import fc from 'fast-check';
import * as fused from '../../core/ops/fused.ts';
import { concat } from '../../core/ops/move.ts';
import { type Shape, size } from '../../core/shape.ts';
import { between, broadcasting, type Case, type Domain, type Instance, instance, operand, seeds, shapesOf, whole } from './arbitraries.ts';
import { elementwise, fromRows, get, lse, type Nd, nd, rowsOf, total } from './naive.ts';

const real = between(-2, 2);
const few = fc.integer({ min: 1, max: 4 });

const rowwise = (name: string, op: (x: never) => unknown, f: (row: Float64Array) => number[], domain: Domain, depth: number): Case => ({
  name,
  of: fc.tuple(shapesOf(1), seeds).map(([s, seed]) =>
    instance({
      operands: [operand(s, domain, seed)],
      apply: ([x]) => (op as Instance['apply'])(x as never),
      naive: ([x]) => fromRows(s, rowsOf(x!).map(f)),
      depth,
    }),
  ),
});
const softmaxRow = (row: Float64Array): number[] => {
  const z = lse(row);
  return Array.from(row, (v) => Math.exp(v - z));
};

const normed = (row: Float64Array, g: Float64Array, centre: boolean, eps: number): number[] => {
  const n = row.length;
  const mean = centre ? total(row) / n : 0;
  const power = total(row.map((v) => (v - mean) ** 2)) / n;
  return Array.from(row, (v, k) => (g[k]! * (v - mean)) / Math.sqrt(power + eps));
};
// Rows whose values differ: with a variance near 0 the norm is steeper than a central difference of step 1e-5 can follow.
const spread: Domain = (u, k) => (k % 2 === 0 ? 1 : -1) * (0.5 + 1.5 * u);

const angleOf = (position: number, k: number, width: number, base: number, scale: number): number =>
  position * scale * base ** ((-2 * (k % (width / 2))) / width);
const turned = (x: Nd, positions: Nd, base: number): Nd => {
  const width = x.shape.at(-1)!;
  const half = width / 2;
  return nd(x.shape, (c) => {
    const [k, rest] = [c.at(-1)!, c.slice(0, -1)];
    const a = angleOf(get(positions, rest.slice(-positions.shape.length)), k, width, base, 1);
    // each pair (x_k, x_{k+half}) is a complex number turned by its angle
    const [re, im] = [get(x, [...rest, k % half]), get(x, [...rest, (k % half) + half])];
    return k < half ? re * Math.cos(a) - im * Math.sin(a) : re * Math.sin(a) + im * Math.cos(a);
  });
};
const ropeCase = (name: string, base: number): Case => ({
  name,
  of: fc.tuple(few, few, few, fc.constantFrom(2, 4, 6), seeds).map(([b, h, t, d, seed]) =>
    instance({
      operands: [operand([b, h, t, d], real, seed), operand([t], whole(0, 9), seed + 1, 'integer')],
      attrs: base,
      apply: ([x, p]) => fused.rope(x!, fused.ropeAngles(p!, d, base)),
      naive: ([x, p]) => turned(x!, p!, base),
      depth: 64,
      scale: () => 8,
    }),
  ),
});

const attend = (q: Nd, k: Nd, v: Nd, bias: Nd | null, causal: boolean, scale: number): Nd => {
  const [b, h, t, d] = q.shape as readonly [number, number, number, number];
  const [, hk, s] = k.shape as readonly [number, number, number];
  const y = nd([b, h, t, v.shape[3]!], () => 0);
  return nd(y.shape, ([i, head, query, col]) => {
    const kv = Math.floor(head! / (h / hk));
    const scores: number[] = [];
    for (let j = 0; j < s; j++) {
      let dot = 0;
      for (let e = 0; e < d; e++) dot += get(q, [i!, head!, query!, e]) * get(k, [i!, kv, j, e]);
      const visible = !causal || j <= query! + s - t;
      const added = bias === null ? 0 : get(bias, [i!, head!, query!, j]);
      scores.push(visible ? dot * scale + added : Number.NEGATIVE_INFINITY);
    }
    const z = lse(scores);
    return total(scores.map((x, j) => Math.exp(x - z) * get(v, [i!, kv, j, col!])));
  });
};
const attentionCase = (name: string, withBias: boolean): Case => ({
  name,
  of: fc
    .record({
      b: fc.integer({ min: 1, max: 2 }),
      hk: fc.integer({ min: 1, max: 2 }),
      group: fc.integer({ min: 1, max: 2 }),
      t: fc.integer({ min: 1, max: 3 }),
      past: fc.integer({ min: 0, max: 2 }),
      d: fc.integer({ min: 1, max: 3 }),
      dv: fc.integer({ min: 1, max: 3 }),
      causal: fc.boolean(),
      scale: fc.constantFrom(null, 0.7),
      bits: fc.integer({ min: 0, max: 15 }),
      seed: seeds,
    })
    .map(({ b, hk, group, t, past, d, dv, causal, scale, bits, seed }) => {
      const [h, s] = [hk * group, t + past];
      const full: Shape = [b, h, t, s];
      const bias = full.map((n, k) => ((bits >> k) & 1 ? 1 : n));
      return instance({
        operands: [
          operand([b, h, t, d], real, seed),
          operand([b, hk, s, d], real, seed + 1),
          operand([b, hk, s, dv], real, seed + 2),
          ...(withBias ? [operand(bias, real, seed + 3)] : []),
        ],
        attrs: { causal, scale },
        apply: ([q, k, v, m]) => fused.attention(q!, k!, v!, { causal, bias: m ?? null, ...(scale === null ? {} : { scale }) }),
        naive: ([q, k, v, m]) => attend(q!, k!, v!, m ?? null, causal, scale ?? 1 / Math.sqrt(d)),
        depth: 64,
        scale: () => 16,
      });
    }),
});

const IGNORE = -100;
const losses = (x: Nd, target: Nd): number[] =>
  rowsOf(x).map((row, k) => (target.data[k] === IGNORE ? 0 : lse(row) - row[target.data[k]!]!));
const lossCase = (name: string, op: typeof fused.nll, naive: (x: Nd, target: Nd) => Nd): Case => ({
  name,
  of: fc.tuple(shapesOf(1), seeds).map(([s, seed]) =>
    instance({
      operands: [
        operand(s, real, seed),
        operand(s.slice(0, -1), (u) => (u < 0.3 ? IGNORE : Math.floor(((u - 0.3) / 0.7) * s.at(-1)!)), seed + 1, 'integer'),
      ],
      apply: ([x, target]) => op(x!, target!),
      naive: ([x, target]) => naive(x!, target!),
      depth: 64 + size(s),
      scale: () => 4,
    }),
  ),
});

export const fusedCases: readonly Case[] = [
  rowwise('softmax', fused.softmax, softmaxRow, real, 64),
  rowwise('softmax:far', fused.softmax, softmaxRow, between(-90, 90), 64),
  rowwise('logSoftmax', fused.logSoftmax, (row) => Array.from(row, (v) => v - lse(row)), real, 64),
  {
    name: 'layerNorm',
    of: fc.tuple(shapesOf(1), fc.constantFrom(1e-5, 0.1), seeds).map(([s, eps, seed]) =>
      instance({
        operands: [operand(s, spread, seed), operand(s.slice(-1), real, seed + 1), operand(s.slice(-1), real, seed + 2)],
        attrs: eps,
        apply: ([x, g, b]) => fused.layerNorm(x!, g!, b!, eps),
        naive: ([x, g, b]) =>
          fromRows(
            s,
            rowsOf(x!).map((row) => normed(row, g!.data, true, eps).map((v, k) => v + b!.data[k]!)),
          ),
        depth: 64,
        scale: () => 8,
      }),
    ),
  },
  {
    name: 'rmsNorm',
    of: fc.tuple(shapesOf(1), fc.constantFrom(1e-6, 0.1), seeds).map(([s, eps, seed]) =>
      instance({
        operands: [operand(s, spread, seed), operand(s.slice(-1), real, seed + 1)],
        attrs: eps,
        apply: ([x, g]) => fused.rmsNorm(x!, g!, eps),
        naive: ([x, g]) =>
          fromRows(
            s,
            rowsOf(x!).map((row) => normed(row, g!.data, false, eps)),
          ),
        depth: 64,
        scale: () => 4,
      }),
    ),
  },
  {
    name: 'quarterTurn',
    of: fc.tuple(shapesOf(1), seeds).map(([s, seed]) => {
      const h = s.at(-1)!;
      const even = s.with(-1, 2 * h);
      return instance({
        operands: [operand(even, real, seed)],
        apply: ([x]) => fused.quarterTurn(x!),
        naive: ([x]) => nd(even, (c) => (c.at(-1)! < h ? 0 - get(x!, c.with(-1, c.at(-1)! + h)) : get(x!, c.with(-1, c.at(-1)! - h)))),
        depth: 0,
      });
    }),
  },
  {
    name: 'ropeAngles',
    of: fc
      .tuple(fc.constantFrom<Shape>([3], [1], [2, 3]), fc.constantFrom(2, 4, 6), fc.constantFrom(1, 0.25), seeds)
      .map(([s, d, scale, seed]) =>
        instance({
          operands: [operand(s, between(0, 9), seed)],
          attrs: { d, scale },
          apply: ([p]) => {
            const { cos, sin } = fused.ropeAngles(p!, d, 10000, scale);
            return concat([cos, sin], 0);
          },
          naive: ([p]) =>
            nd([2 * s[0]!, ...s.slice(1), d], (c) => {
              const a = angleOf(get(p!, [c[0]! % s[0]!, ...c.slice(1, -1)]), c.at(-1)!, d, 10000, scale);
              return c[0]! < s[0]! ? Math.cos(a) : Math.sin(a);
            }),
          depth: 32,
          scale: () => 9,
        }),
      ),
  },
  {
    name: 'ropeAngles:bands',
    of: fc.tuple(fc.constantFrom(2, 6, 12), fc.constantFrom(1, 0.25), seeds).map(([d, scale, seed]) => {
      const bands = { factor: 8, low: 1, high: 4, original: 16 };
      return instance({
        operands: [operand([4], between(0, 9), seed)],
        attrs: { d, scale },
        apply: ([p]) => fused.ropeAngles(p!, d, 100, scale, bands).sin,
        naive: ([p]) =>
          nd([4, d], ([m, c]) => {
            const f = angleOf(1, c!, d, 100, 1); // radians per position
            const turns = (bands.original * f) / (2 * Math.PI);
            const share = (turns - bands.low) / (bands.high - bands.low);
            const slowed = turns < bands.low ? f / bands.factor : turns > bands.high ? f : ((1 - share) * f) / bands.factor + share * f;
            return Math.sin(get(p!, [m!]) * scale * slowed);
          }),
        depth: 40,
        scale: () => 9,
      });
    }),
  },
  ropeCase('rope', 10000),
  ropeCase('rope:longer', 500000),
  attentionCase('attention', false),
  attentionCase('attention:bias', true),
  lossCase('crossEntropy', fused.crossEntropy, (x, target) =>
    nd([], () => total(losses(x, target)) / Math.max(1, target.data.filter((t) => t !== IGNORE).length)),
  ),
  lossCase('nll', fused.nll, (x, target) => fromRows(target.shape, [losses(x, target)])),
  {
    name: 'dropout',
    of: fc.tuple(broadcasting(2), fc.constantFrom(0.5, 0.9), seeds).map(([[a, m], keep, seed]) =>
      instance({
        operands: [operand(a!, real, seed), operand(m!, whole(0, 2), seed + 1, 'integer')],
        attrs: keep,
        apply: ([x, mask]) => fused.dropout(x!, mask!, keep),
        naive: ([x, mask]) => elementwise((v, on) => (on === 0 ? 0 : v! / keep), x!, mask!),
        depth: 3,
        scale: () => 4,
      }),
    ),
  },
  {
    name: 'keyBias',
    of: fc.tuple(few, few, seeds).map(([b, s, seed]) =>
      instance({
        operands: [operand([b, s], whole(0, 2), seed, 'integer')],
        apply: ([mask]) => fused.keyBias(mask!),
        naive: ([mask]) => nd([b, 1, 1, s], ([i, , , j]) => (get(mask!, [i!, j!]) === 1 ? 0 : -1e9)),
        depth: 0,
      }),
    ),
  },
];
