// Laws of the ops on the float64 engine: definition, derivative, adjoint, composition, shape.
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { float64 } from '../../core/engines/float64.ts';
import { pullback } from '../../core/grad.ts';
import { zip } from '../../core/op.ts';
import { mul } from '../../core/ops/map.ts';
import { sum } from '../../core/ops/reduce.ts';
import type { Feed, Numbers } from '../../core/plan.ts';
import { rng } from '../../core/rng.ts';
import { lower, schedule } from '../../core/schedule.ts';
import { size, table } from '../../core/shape.ts';
import { input, leaf, type Tensor, topological } from '../../core/tensor.ts';
import type { Case, Instance } from './arbitraries.ts';
import { cases, exported } from './cases.ts';
import { largest } from './naive.ts';

const engine = float64();
const RUNS = 12;

/** Runs several recipes as one plan. */
async function evaluate(outputs: Readonly<Record<string, Tensor>>, feed: Feed = {}): Promise<Readonly<Record<string, Numbers>>> {
  const store = engine.store();
  const got = await (await engine.compile(store, { outputs })).run(feed);
  store.close();
  return got;
}
const close = (got: ArrayLike<number>, want: ArrayLike<number>, limit: number, what: string): void => {
  expect(got.length, `${what}: count`).toBe(want.length);
  for (let k = 0; k < want.length; k++)
    if (!(Math.abs(got[k]! - want[k]!) <= limit)) expect.fail(`${what}[${k}]: got ${got[k]}, want ${want[k]} within ${limit}`);
};
const law = (c: Case, check: (i: Instance) => Promise<void>, runs = RUNS): Promise<void> =>
  fc.assert(fc.asyncProperty(c.of, check), { numRuns: runs });
const dot = (a: ArrayLike<number>, b: ArrayLike<number>): number => Array.from(a).reduce((s, x, k) => s + x * b[k]!, 0);
const leaves = (i: Instance): Tensor[] => i.operands.map((o) => leaf(o.data, o.shape));

/** phi(x) = Σ w·op(x) as a function of the operands' numbers, and its gradient recipes. */
async function probe(i: Instance) {
  const xs = i.operands.map((o, k) => input(`x${k}`, o.shape));
  const y = i.apply(xs);
  const n = size(y.shape);
  const w = Float64Array.from(rng(n).uniform(n, 0.5, 1.5), (v, k) => (k % 3 === 1 ? -v : v));
  const real = i.operands.flatMap((o, k) => (o.kind === 'real' ? [k] : []));
  const u = input('u', y.shape);
  const grads = pullback(
    y,
    u,
    real.map((k) => xs[k]!),
  );
  // Reverse over reverse: Jᵀu is linear in u, so its own pullback of v is J·v.
  const v = real.map((k) => input(`v${k}`, xs[k]!.shape));
  const products = grads.map((g, k) => sum(mul(g, v[k]!)));
  const jv =
    products.length === 0
      ? null
      : pullback(
          products.reduce((a, b) => a.add(b)),
          leaf([1], []),
          [u],
        )[0]!;
  const used = new Set(topological([y]));
  const store = engine.store();
  const forward = await engine.compile(store, { outputs: { y } });
  const feed = (values: readonly Float64Array[]): Feed =>
    Object.fromEntries(values.flatMap((d, k) => (used.has(xs[k]!) ? [[`x${k}`, d] as const] : [])));
  const run = async (values: readonly Float64Array[]): Promise<Numbers> => (await forward.run(feed(values))).y;
  const phi = async (values: readonly Float64Array[]): Promise<number> => dot(await run(values), w);
  const base = i.operands.map((o) => o.data);
  const only = async (t: readonly Tensor[], extra: Feed): Promise<Numbers[]> => {
    const outputs = Object.fromEntries(t.map((g, k) => [`t${k}`, g]));
    const read = new Set(topological(t).flatMap((n) => (n.source.kind === 'input' ? [n.source.name] : [])));
    const all: Feed = { ...feed(base), ...extra };
    const got = await evaluate(outputs, Object.fromEntries(Object.entries(all).filter(([k]) => read.has(k))));
    return t.map((_, k) => got[`t${k}`]!);
  };
  return { y, w, real, grads, jv, phi, run, base, only };
}
const H = 1e-5;
const shifted = (base: readonly Float64Array[], k: number, change: (e: number) => number): Float64Array[] =>
  base.map((d, j) => (j === k ? d.map((v, e) => v + change(e)) : d));

describe('the table of cases', () => {
  it('covers every exported op', () => {
    const covered = new Set(cases.map((c) => c.name.split(':')[0]));
    expect(exported.filter((name) => !covered.has(name))).toEqual([]);
  });
  it('names only ops that exist, each once', () => {
    expect(cases.filter((c) => !exported.includes(c.name.split(':')[0]!)).map((c) => c.name)).toEqual([]);
    expect(new Set(cases.map((c) => c.name)).size).toBe(cases.length);
  });
});

describe.each(cases.map((c) => [c.name, c] as const))('%s', (_, c) => {
  it('computes its definition, in the shape it promises', () =>
    law(
      c,
      async (i) => {
        const y = i.apply(leaves(i));
        const want = i.naive(i.operands);
        expect(y.shape).toEqual(want.shape);
        for (const s of schedule([y]).steps)
          expect([s.kernel.rows, s.kernel.cols]).toEqual([table(s.node.shape).rows, table(s.node.shape).cols]);
        close(await engine.read(y), want.data, 1e-11 * Math.max(1, largest(want.data)), 'value');
      },
      20,
    ));

  it('has the derivative that central differences find; its adjoint is its transpose', () =>
    law(c, async (i) => {
      const p = await probe(i);
      if (p.real.length === 0) return;
      const grads = await p.only(p.grads, { u: p.w });
      const tolerance = 1e-6 * Math.max(1, ...grads.map(largest), ...i.operands.map((o) => largest(o.data)));
      const r = rng(i.operands.length);
      for (const [j, k] of p.real.entries()) {
        const n = p.base[k]!.length;
        const some = n <= 6 ? [...Array(n).keys()] : r.permutation(n).slice(0, 6);
        for (const e of some) {
          const [up, down] = [
            await p.phi(shifted(p.base, k, (x) => (x === e ? H : 0))),
            await p.phi(shifted(p.base, k, (x) => (x === e ? -H : 0))),
          ];
          close([grads[j]![e]!], [(up - down) / (2 * H)], tolerance, `∂/∂x${k}[${e}]`);
        }
      }
      // one direction through all operands: J·v by differences, by reverse over reverse, and against Jᵀw
      const v = p.base.map((d, k) => Float64Array.from(p.real.includes(k) ? rng(k).uniform(d.length, -1, 1) : new Float32Array(d.length)));
      const [up, down] = [
        await p.run(p.base.map((d, k) => d.map((x, e) => x + H * v[k]![e]!))),
        await p.run(p.base.map((d, k) => d.map((x, e) => x - H * v[k]![e]!))),
      ];
      const numeric = Float64Array.from(up, (x: number, e: number) => (x - down[e]!) / (2 * H));
      const [jv] = await p.only([p.jv!], { u: p.w, ...Object.fromEntries(p.real.map((k) => [`v${k}`, v[k]!])) });
      close(jv!, numeric, tolerance * 10, 'J·v by reverse over reverse');
      const left = dot(jv!, p.w);
      const right = p.real.reduce((s, k, j) => s + dot(grads[j]!, v[k]!), 0);
      close([left], [right], 1e-9 * Math.max(1, Math.abs(right)), '⟨Jv,w⟩ − ⟨v,Jᵀw⟩');
    }));

  it('is its composition, and differentiates like it', () =>
    law(
      c,
      async (i) => {
        const xs = leaves(i);
        const y = i.apply(xs);
        for (const t of topological([y])) {
          const s = t.source;
          if (s.kind !== 'apply' || s.op.kernel.kind !== 'composite') continue;
          const open = s.op.kernel.of(zip(s.op.inputs, s.ins), s.attrs);
          expect(open.shape).toEqual(t.shape);
          const w = leaf(Float64Array.from(rng(3).normal(size(t.shape))), t.shape);
          const real = xs.filter((_, k) => i.operands[k]!.kind === 'real');
          const [a, b] = [pullback(t, w, real), pullback(open, w, real)];
          const got = await evaluate(Object.fromEntries([t, ...a].map((g, k) => [`t${k}`, g])));
          const want = await evaluate(Object.fromEntries([open, ...b].map((g, k) => [`t${k}`, g])));
          for (const k of Object.keys(got).filter((name) => name !== 'taps'))
            close(got[k]!, want[k]!, 1e-10 * Math.max(1, largest(want[k]!)), `${s.op.name} ${k}`);
        }
        for (const t of lower([y]).flatMap((root) => topological([root])))
          expect(t.source.kind === 'apply' && t.source.op.kernel.kind === 'composite').toBe(false);
      },
      6,
    ));
});
