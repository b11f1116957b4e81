// account, why and graph on recipes small enough to count by hand, and on a network where LoRA, (IA)³ and full tuning differ.
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { account, formatAccount, rootsOf, short } from '../../core/account.ts';
import { grad } from '../../core/grad.ts';
import { dot, listing, svg } from '../../core/graph.ts';
import { exp, tanh } from '../../core/ops/map.ts';
import type { Program } from '../../core/plan.ts';
import { rng } from '../../core/rng.ts';
import { schedule } from '../../core/schedule.ts';
import { within } from '../../core/scope.ts';
import { size } from '../../core/shape.ts';
import { asSimd, placeTemporaries } from '../../core/simd/assemble.ts';
import { input, leaf, type Param, param, paramOf, stateOf, type Tensor, topological } from '../../core/tensor.ts';
import { keeping, why } from '../../core/why.ts';
import { context } from '../../nn/context.ts';
import { decoder, llama } from '../../nn/decoder.ts';
import { freeze } from '../../nn/freeze.ts';
import type { Model } from '../../nn/layer.ts';
import { params, trainable } from '../../nn/tree.ts';
import { ia3 } from '../../peft/additive/ia3.ts';
import { lora } from '../../peft/reparameterized/lora.ts';

const zeros = (...shape: number[]): Tensor => leaf(new Float32Array(shape.reduce((a, b) => a * b, 1)), shape);
const base = decoder(llama({ vocabulary: 11, width: 8, layers: 2, heads: 2, positions: 8, inner: 12 }), rng(1));
const frozen = freeze(base);

/** One step of plain gradient descent on the mean square of the logits. */
function step(model: Model): { program: Program<'loss'>; names: Map<Param, string> } {
  const names = trainable(model);
  const y = model({ ids: input('ids', [1, 3]) }, context(3));
  const loss = y.mul(y).mean();
  const ps = [...names.keys()];
  const g = grad(loss, ps.map(stateOf));
  const next = within({ phase: 'update' }, () => new Map(ps.map((p, k) => [p, stateOf(p).sub(g[k]!.mul(0.1))])));
  return { program: { outputs: { loss }, next }, names };
}

describe('account, by hand', () => {
  // y = tanh(x W): x [2, 3], W [3, 4] trained; loss = Σ y.
  const x = zeros(2, 3);
  const w = param(new Float32Array(12), [3, 4]);
  const y = within({ path: 'layer' }, () => tanh(x.matmul(w)));
  const loss = y.sum();
  const dw = grad(loss, [w])[0]!;

  test('forward alone', () => {
    const a = account([loss]);
    // matmul and tanh are kernels (matmul is no map), and the sum
    expect(a.lines.map((l) => [l.path, l.phase, l.kernels, l.flops, l.read, l.written, l.saved])).toEqual([
      ['layer', 'forward', 2, 2 * 2 * 4 * 3 + 8, 4 * (6 + 12 + 8), 4 * (8 + 8), 0],
      ['', 'forward', 1, 8, 4 * 8, 4, 0],
    ]);
    expect(a.peak).toBe(4 * (8 + 8)); // x·W and tanh of it at once
    expect(a.leaves).toEqual({ host: 24, device: 24 });
  });
  test('with its gradient: only tanh is kept (d = 1 − y²), x is a leaf', () => {
    const a = account([loss, dw]);
    expect(a.total.saved).toBe(4 * 8);
    expect(a.phases.forward.saved).toBe(4 * 8);
    expect(why([loss, dw], y, new Map([[paramOf(w)!, 'W']]))).toBe(
      'tanh in layer [2, 4]: kept for backward, 32 B\n  tanh in layer: ∂/∂x needs it, on the way down to W\n  read by broadcast+mul+sub+mul in layer',
    );
    expect(why([loss, dw], x)).toBe('leaf at the top level [2, 3]: frozen numbers: there anyway, nothing is kept for it');
    expect(why([loss, dw], w)).toContain('a state: there anyway');
    expect(why([loss, dw], x.matmul(w))).toContain('not kept for backward: its last reader is tanh in layer'); // an equal recipe will do
    expect(why([loss, dw], zeros(2, 3).mul(3))).toContain('not a part of these recipes');
    expect(why([loss], exp(tanh(x.matmul(w))))).toContain('not a part');
    const e = exp(x.matmul(w));
    expect(why([tanh(e)], e)).toContain('never stored: it is computed inside the one kernel that reads it');
  });
  test('packed leaves are counted at their size on the host and as float32 on the device', () => {
    const a = account([leaf(new Int8Array(12), [3, 4]).mul(2), leaf(Float32Array.of(1), [1]).mul(3)]);
    expect(a.leaves).toEqual({ host: 12 + 4, device: 48 + 4 });
  });
  test('optimizer state is what next rewrites besides the parameters', () => {
    const m = param(new Float32Array(12), [3, 4], { active: false });
    const next = new Map([
      [paramOf(w)!, w.sub(dw)],
      [paramOf(m)!, m.add(dw)],
    ]);
    const a = account({ outputs: { loss }, next }, { params: [paramOf(w)!] });
    expect([a.trained, a.optimizer]).toEqual([48, 48]);
  });
  test('a part of a table is no kernel and no memory where the engine only points into it; what backward needs of it is the table', () => {
    const table = within({ path: 'table' }, () => tanh(input('x', [4, 3]).matmul(zeros(3, 3)))); // [4, 3]
    const part = table.slice(0, 1, 3); // two rows in one run
    const both = [part.mul(2).sum(), table.sum()];
    const [plain, own] = [account(both), account(both, asSimd)];
    expect(plain.total.kernels - own.total.kernels).toBe(1);
    expect(plain.total.written - own.total.written).toBe(4 * 6);
    expect(plain.peak - own.peak).toBe(0); // most is alive when tanh follows the product, or stands beside its part: 24 numbers either way
    expect(account([part.mul(2).sum()], asSimd).peak).toBe(4 * 24);
    const back = grad(part.mul(part).sum(), [table])[0]!;
    expect(account([back], asSimd).phases.forward.saved).toBe(4 * 12);
    expect(account([back]).phases.forward.saved).toBe(4 * 6);
  });
  test('short', () => {
    expect([0, 999, 1000, 1234567, 1.5e13].map((n) => short(n))).toEqual(['0', '999', '1.00 k', '1.23 M', '15.0 T']);
  });
});

describe('account, laws', () => {
  const programs = [lora({ rank: 2 }), lora({ rank: 1, where: ['down'] }), ia3()].map((m) => step(m(frozen)).program);
  test('lines sum to phases, phases to the total; saved is at most what forward writes; depth only joins', () => {
    for (const p of [...programs, step(base).program]) {
      const a = account(p);
      for (const k of ['kernels', 'flops', 'read', 'written', 'saved'] as const) {
        expect(a.lines.reduce((n, l) => n + l[k], 0)).toBe(a.total[k]);
        expect(a.phases.forward[k] + a.phases.backward[k] + a.phases.update[k]).toBe(a.total[k]);
      }
      expect(a.phases.update.kernels).toBe(p.next!.size); // p − 0.1·g, one kernel each
      expect(a.total.saved).toBeLessThanOrEqual(a.phases.forward.written);
      expect(a.total.saved).toBeGreaterThan(0);
      expect(a.peak).toBeLessThanOrEqual(a.total.written);
      expect(a.peak).toBeGreaterThanOrEqual(a.total.saved); // all of it waits at the end of forward
      const last = (s: string): string =>
        s
          .split('\n')
          .find((l) => /^all +all /.test(l))!
          .replaceAll(/ +/g, ' ');
      expect(last(formatAccount(a, 1))).toBe(last(formatAccount(a)));
    }
  });
  test('as the simd engine runs it: its block of temporaries and what the caller owns hold the peak, and little more', () => {
    const wide = (m: Model): Program<'loss'> => step(m).program;
    const big = freeze(decoder(llama({ vocabulary: 60, width: 64, layers: 3, heads: 4, positions: 8, inner: 96 }), rng(1)));
    for (const p of [...programs, step(base).program, wide(big), wide(lora({ rank: 4 })(big)), wide(ia3()(big))]) {
      const s = schedule(rootsOf(p), asSimd.opening);
      const { bytes, offsets, aliases } = placeTemporaries(s);
      const owned = s.steps.reduce((n, { node }, k) => n + (offsets[k]! < 0 && !aliases.has(k) ? 4 * size(node.shape) : 0), 0);
      const { peak, results } = account(p, asSimd);
      expect(results).toBe(owned);
      expect(peak).toBeLessThanOrEqual(bytes);
      expect(bytes).toBeLessThanOrEqual(1.02 * peak + 80 * s.steps.length); // padded to whole lines of the cache
    }
  });
  test('LoRA saves optimizer state and weight gradients, not activations; depth is what saves those', () => {
    const full = account(step(base).program);
    const all = account(step(lora({ rank: 2, where: ['q', 'v'] })(frozen)).program);
    const last = account(step(lora({ rank: 2, where: (p) => p === 'trunk.blocks.1.mlp.down' })(frozen)).program);
    expect(all.phases.backward.flops).toBeLessThan(full.phases.backward.flops);
    expect(all.total.saved).toBeGreaterThan(full.total.saved / 2);
    expect(last.total.saved).toBeLessThan(all.total.saved / 4);
    expect(last.lines.filter((l) => l.phase === 'backward' && l.path.startsWith('trunk.blocks.0'))).toEqual([]);
  });
  test('what is kept has a reader, and a reason that names parameters of the model', () => {
    const kept: number[] = [];
    for (const m of [lora({ rank: 2 }), ia3()]) {
      const { program, names } = step(m(frozen));
      const values = topological([program.outputs.loss]).filter((t) => t.source.kind === 'apply' && t.at.phase === 'forward');
      for (const t of values.filter((_, i) => i % 3 === 0)) {
        const k = keeping(program, t, names);
        if (!k.kept) continue;
        kept.push(1);
        expect(k.readers.length, k.verdict).toBeGreaterThan(0);
        expect(k.reasons.length, k.verdict).toBeGreaterThan(0);
        for (const r of k.reasons) for (const p of r.params) expect([...names.values()]).toContain(p);
      }
    }
    expect(kept.length).toBeGreaterThan(5);
  });
  test('(IA)³: ∂/∂l needs the activation it multiplies', () => {
    const { program, names } = step(ia3({ where: ['k'] })(frozen));
    const y = topological([program.outputs.loss]).find(
      (t) => t.source.kind === 'apply' && t.source.op.name === 'matmul' && t.at.path === 'trunk.blocks.1.attn.k',
    )!;
    expect(why(program, y, names)).toMatch(
      /kept for backward, 96 B\n {2}mul in trunk\.blocks\.1\.attn\.k: ∂\/∂. needs it, the gradient of trunk\.blocks\.1\.attn\.k\.ia3\.l/,
    );
  });
});

describe('graph', () => {
  const { program, names } = step(lora({ rank: 1, where: ['v'] })(frozen));
  test('every kernel is a node of its phase colour in the box of its layer; kept values are marked', () => {
    const text = dot(program, { names });
    const a = account(program);
    expect(text.match(/^ *s\d+ \[/gm)).toHaveLength(a.total.kernels);
    expect(text.match(/^ *s\d+ .*#fbe0c3/gm)).toHaveLength(a.phases.backward.kernels);
    expect(text).toContain('subgraph "cluster trunk.blocks.1.attn.v"');
    expect(text).toContain('trunk.blocks.1.attn.v.lora.A');
    expect(text.match(/^ *s\d+ .*kept/gm)!.length).toBeGreaterThan(5);
    expect(dot(program, { depth: 1 })).not.toContain('cluster trunk.blocks');
    expect(dot(program, { leaves: true }).length).toBeGreaterThan(text.length);
    expect(() => dot(program, { limit: 10 })).toThrow(`${a.total.kernels} kernels are more than the limit of 10`);
  });
  test('kernels of one group are one node with their edges; frozen numbers are drawn under the names given', () => {
    const numbers = Float32Array.of(1, 2);
    const w = leaf(numbers, [1, 2]);
    const y = within({ path: 'in' }, () => tanh(input('x', [1, 2])).matmul(w.T)); // [1, 1]
    const grouped = dot(y.mul(leaf([3], [1, 1])).sum(), {
      group: (path, fed) => (path === 'in' && fed ? 'inner' : null),
      leaves: new Map([[numbers, 'W']]),
    });
    expect(grouped).toMatch(/label="inner\\n\d kernels"/);
    expect(grouped).toContain('label="W\\n[1, 2]"');
    expect(grouped.match(/label="W|shape=ellipse/g)).toHaveLength(3); // W's label, the ellipses of x and W: not the 3
    expect(grouped).not.toMatch(/s(\d+) -> s\1;/);
  });
  test('as SVG, laid out without a network; strange names do not break it', async () => {
    const x = input('a "name" \\ <with> & ünïcode', [1, 2]);
    const picture = await svg(dot([within({ path: 'p"q' }, () => tanh(x).sum())]));
    expect(picture).toMatch(/<svg [\s\S]*<\/svg>/);
    expect(picture).toContain('&lt;with&gt; &amp; ünïcode');
    expect(await svg(dot(program, { names, depth: 3 }))).toContain('trunk.blocks.1.attn.v.lora.B');
  });
  test('the listing runs in order: a step reads only earlier ones, and no freed one', () => {
    fc.assert(
      fc.property(fc.constantFrom('q', 'v', 'o', 'up', 'down'), (where) => {
        const lines = listing(step(lora({ rank: 1, where: [where] })(frozen)).program).split('\n');
        const freed = new Set<string>();
        for (const [k, line] of lines.entries()) {
          const [text, frees = ''] = line.split('   frees ');
          for (const r of text!.matchAll(/[(, ]%(\d+)/g)) {
            expect(Number(r[1])).toBeLessThan(k);
            expect(freed).not.toContain(r[1]);
          }
          for (const f of frees.matchAll(/%(\d+)/g)) freed.add(f[1]!);
        }
      }),
      { numRuns: 5 },
    );
  });
  test('names of parameters stand in the listing', () => {
    expect(listing(program, params(lora({ rank: 1 })(frozen)))).toContain('param '); // another model's names name nothing here
    expect(listing(program, names)).toContain('trunk.blocks.0.attn.v.lora.A');
  });
});
