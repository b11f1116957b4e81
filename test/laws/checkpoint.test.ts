// Laws of checkpointing: the same numbers and gradients, computed again instead of kept.
import { describe, expect, it } from 'vitest';
import { float64 } from '../../core/engines/float64.ts';
import { checkpoint, grad, reversible } from '../../core/grad.ts';
import { dropout, layerNorm, softmax } from '../../core/ops/fused.ts';
import { exp, gelu, tanh } from '../../core/ops/map.ts';
import { matmul } from '../../core/ops/matmul.ts';
import { concat } from '../../core/ops/move.ts';
import { sum } from '../../core/ops/reduce.ts';
import { rng } from '../../core/rng.ts';
import { lower, schedule } from '../../core/schedule.ts';
import { type Shape, size } from '../../core/shape.ts';
import { input, leaf, param, type Tensor, topological } from '../../core/tensor.ts';

const engine = float64();
const normal = (seed: number, shape: Shape): Float64Array => Float64Array.from(rng(seed).normal(size(shape), 0.7));
const random = (seed: number, shape: Shape): Tensor => leaf(normal(seed, shape), shape);
const weight = (seed: number, shape: Shape): Tensor => param(normal(seed, shape), shape);

type Wrap = (f: (...xs: Tensor[]) => Tensor, ...xs: Tensor[]) => Tensor;
const plainly: Wrap = (f, ...xs) => f(...xs);

/** Bytes of forward results that backward kernels read (float32). */
function kept(roots: readonly Tensor[]): number {
  const { steps } = schedule(roots);
  const read = new Set(
    steps.filter((s) => s.node.at.phase === 'backward').flatMap((s) => s.args.flatMap((a) => (a.kind === 'step' ? [a.index] : []))),
  );
  return [...read].map((k) => steps[k]!.node).reduce((n, t) => n + (t.at.phase === 'forward' ? 4 * size(t.shape) : 0), 0);
}

/** The same program with and without checkpoints: values bit for bit; gradients too, but for the order in which a shared one is summed. */
async function agree(
  program: (wrap: Wrap) => { loss: Tensor; wrt: readonly Tensor[] },
  feed = {},
): Promise<{ with: number; without: number }> {
  const results = [];
  const saved = [];
  for (const wrap of [checkpoint, plainly]) {
    const { loss, wrt } = program(wrap);
    const roots = [loss, ...grad(loss, wrt)];
    saved.push(kept(roots));
    const store = engine.store();
    const plan = await engine.compile(store, { outputs: Object.fromEntries(roots.map((r, k) => [`r${k}`, r])) });
    const { taps: _, ...got } = await plan.run(feed, 3);
    results.push(Object.fromEntries(Object.entries(got).map(([k, v]) => [k, [...v]])));
  }
  const [a, b] = [results[0]!, results[1]!];
  expect(a.r0).toEqual(b.r0);
  for (const k of Object.keys(b)) {
    const limit = 1e-13 * Math.max(1, ...b[k]!.map(Math.abs));
    for (const [e, v] of b[k]!.entries()) expect(Math.abs(a[k]![e]! - v), `${k}[${e}]`).toBeLessThanOrEqual(limit);
    expect(
      b[k]!.some((v) => v !== 0),
      `${k} is not all zeros`,
    ).toBe(true);
  }
  return { with: saved[0]!, without: saved[1]! };
}

describe('checkpoint', () => {
  const w = [1, 2, 3, 4].map((s) => weight(s, [8, 8]));
  const [g, b] = [weight(5, [8]), weight(6, [8])];
  const block = (h: Tensor, k: number): Tensor => h.add(gelu(matmul(softmax(layerNorm(matmul(h, w[k]!), g, b)), w[k]!)));
  const x = random(7, [6, 8]);

  it('gives the same values and gradients, with parameters inside, and keeps less for backward', async () => {
    const bytes = await agree((wrap) => {
      const y = [0, 1, 2, 3].reduce((h, k) => wrap((t) => block(t!, k), h), x);
      return { loss: sum(tanh(y)), wrt: [...w, g, b, x] };
    });
    expect(bytes.with).toBeLessThan(bytes.without / 3);
    // what is kept: the four boundaries' values and the argument of tanh, [6, 8] each
    expect(bytes.with).toBeLessThanOrEqual(5 * 4 * 48);
  });

  it('keeps less when nested', async () => {
    const bytes = await agree((wrap) => {
      const half = (from: number) => (h: Tensor) =>
        wrap(
          (t) => block(t!, from + 1),
          wrap((t) => block(t!, from), h),
        );
      const y = wrap(
        (t) => half(2)(t!),
        wrap((t) => half(0)(t!), x),
      );
      return { loss: sum(tanh(y)), wrt: [...w, g, b, x] };
    });
    expect(bytes.with).toBeLessThan(bytes.without / 4);
  });

  it('does not take from the forward pass what a derivative recomputes at the boundary', async () => {
    const bytes = await agree((wrap) => ({ loss: sum(tanh(wrap((t) => layerNorm(t!, g, b), exp(x)))), wrt: [g, b, x] }));
    expect(bytes.with).toBeLessThanOrEqual(2 * 4 * 48); // exp(x) and the argument of tanh; no mean, no 1/σ
  });

  it('never merges recomputed nodes with the originals', () => {
    const y = checkpoint((t) => block(t!, 0), x);
    const d = grad(sum(tanh(y)), [w[0]!]);
    const all = topological(lower([y, ...d])).filter((t) => t.source.kind === 'apply');
    const copies = all.filter((t) => t.at.copy === 1);
    expect(copies.length).toBeGreaterThan(5);
    for (const t of copies) expect(t.at.phase).toBe('backward');
    const soft = (copy: number): number =>
      all.filter((t) => t.at.copy === copy && t.source.kind === 'apply' && t.source.op.name === 'logsumexp').length;
    expect([soft(0), soft(1)]).toEqual([1, 1]);
  });

  it('finds the gradient of a value that it closes over', () =>
    agree((wrap) => {
      const h = exp(x);
      return { loss: sum(wrap((t) => tanh(t!.mul(h)), x)), wrt: [h, x] };
    }));

  it('finds the gradient of a value computed inside', () =>
    agree((wrap) => {
      const inside: Tensor[] = [];
      const y = wrap((t) => {
        const h = tanh(t!);
        inside.push(h);
        return h.mul(h).mul(t!);
      }, x);
      return { loss: sum(exp(y)), wrt: [inside[0]!, x] };
    }));

  it('may have boundaries that depend on each other', () =>
    agree((wrap) => {
      const h = tanh(matmul(x, w[0]!));
      return { loss: sum(wrap((s, t, u) => gelu(s!.mul(t!)).add(matmul(u!, w[1]!)), x, h, h)), wrt: [x, h, w[0]!, w[1]!] };
    }));

  it('recomputes with the same random masks', () =>
    agree((wrap) => {
      const mask = input('mask', [6, 8], { dist: 'bernoulli', keep: 0.7 });
      return { loss: sum(tanh(wrap((t) => dropout(gelu(matmul(t!, w[0]!)), mask, 0.7), x))), wrt: [x, w[0]!] };
    }));

  it('differentiates twice', () =>
    agree((wrap) => {
      const loss = sum(tanh(wrap((t) => block(t!, 0), x)));
      const [d] = grad(loss, [w[0]!]);
      return { loss: sum(d!.mul(d!)), wrt: [w[0]!, x] };
    }));

  it('passes a boundary through', () => agree((wrap) => ({ loss: sum(exp(wrap((t) => t!, x))), wrt: [x] })));
});

describe('reversible', () => {
  const F = [1, 2, 3, 4, 5, 6].map((s) => weight(20 + s, [4, 4]));
  const x = weight(30, [6, 8]);
  const halves = (s: Tensor): [Tensor, Tensor] => [s.slice(1, 0, 4), s.slice(1, 4)];
  /** (a, b) ↦ (b, 2a + tanh(b W)), and back. */
  const forth = (w: Tensor) => (s: Tensor) => {
    const [a, b] = halves(s);
    return concat([b, a.mul(2).add(tanh(b.matmul(w)))], 1);
  };
  const back = (w: Tensor) => (s: Tensor) => {
    const [b, c] = halves(s);
    return concat([c.sub(tanh(b.matmul(w))).div(2), b], 1);
  };
  const loss = (layers: number, step: (w: Tensor, s: Tensor) => Tensor): Tensor =>
    sum(tanh(F.slice(0, layers).reduce((s, w) => step(w, s), x)));
  const undone = (w: Tensor, s: Tensor): Tensor => reversible(forth(w), back(w), s);

  it('gives the gradients of keeping everything, of weights and of what enters, checkpointed besides or not', async () => {
    const wrt = [...F, x];
    const of = async (l: Tensor): Promise<number[]> => {
      const all: number[] = [];
      for (const g of grad(l, wrt)) all.push(...(await engine.read(g)));
      return all;
    };
    const plain = await of(loss(6, (w, s) => forth(w)(s)));
    const nested = checkpoint((s) => F.reduce((y, w) => undone(w, y!), s!), x);
    for (const one of [loss(6, undone), sum(tanh(nested))]) {
      const got = await of(one);
      expect(Math.max(...got.map((v, k) => Math.abs(v - plain[k]!)))).toBeLessThan(1e-13 * 2 ** 6); // each step back may double a rounding
    }
  });
  it('keeps the last value alone, at any depth', () => {
    const bytes = (layers: number): number => {
      const l = loss(layers, undone);
      return kept([l, ...grad(l, F.slice(0, layers))]);
    };
    expect([bytes(2), bytes(6)]).toEqual([bytes(3), bytes(3)]);
    expect(bytes(6)).toBeLessThanOrEqual(2 * 4 * 48); // the last state, and the tanh of it that the loss is made of
  });
  it('takes the gradient at what comes back, not at what went in', async () => {
    const wrong = reversible(
      (s) => s.mul(s),
      (y) => y.mul(0).add(5),
      weight(31, [3]),
    ); // an inverse that answers 5
    const w = topological([wrong]).find((t) => t.source.kind === 'state')!;
    expect([...(await engine.read(grad(sum(wrong), [w])[0]!))]).toEqual([10, 10, 10]);
  });
});
