// CONTRIBUTING.md shows these files word for word, and the laws it names judge them.
import { readFileSync } from 'node:fs';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { float64 } from '../../core/engines/float64.ts';
import { pullback } from '../../core/grad.ts';
import { sum } from '../../core/ops/reduce.ts';
import { rng } from '../../core/rng.ts';
import { input, leaf, type Tensor } from '../../core/tensor.ts';
import { context } from '../../nn/context.ts';
import { freeze } from '../../nn/freeze.ts';
import { ofKind } from '../../nn/layer.ts';
import { layers, mapTensors, params } from '../../nn/tree.ts';
import { listed } from '../../peft/listed.ts';
import { caseOf } from '../laws/methodCase.ts';
import { laws } from '../laws/methodLaws.ts';
import { networks } from '../laws/models.ts';
import { newGatedLinear } from './layer.ts';
import { stretch } from './method.ts';
import { composedSoftsign, softsign, softsignCase } from './op.ts';

const engine = float64();
const text = readFileSync(new URL('../../CONTRIBUTING.md', import.meta.url), 'utf8');

describe('CONTRIBUTING.md', () => {
  test.each(['op.ts', 'layer.ts', 'method.ts'])('shows %s as it is', (name) => {
    expect(text).toContain(`\`\`\`ts\n${readFileSync(new URL(name, import.meta.url), 'utf8')}\`\`\``);
  });
  test('names every law of methods', () => {
    for (const { id, says } of laws) expect(text).toContain(`* ${id}: ${says}`);
  });
  test('names files and commands that exist', () => {
    const { scripts } = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')) as {
      scripts: Record<string, string>;
    };
    for (const [, script] of text.matchAll(/npm run ([\w:]+)/g)) expect(Object.keys(scripts)).toContain(script);
    for (const [, path] of text.matchAll(/`((?:core|nn|peft|optim|quant|io|test|docs)\/[\w./-]+\.(?:ts|md))`/g))
      expect(() => readFileSync(new URL(`../../${path}`, import.meta.url)), path).not.toThrow();
  });
});

describe('the op', () => {
  test('is its definition, and its derivative is the slope', () =>
    fc.assert(
      fc.asyncProperty(softsignCase.of, async (i) => {
        const o = i.operands[0]!;
        const x = leaf(o.data, o.shape);
        const y = await engine.read(i.apply([x]));
        const want = i.naive([{ shape: o.shape, data: o.data }]);
        for (const [k, v] of y.entries()) expect(Math.abs(v - want.data[k]!)).toBeLessThan(1e-14);
        const at = input('x', o.shape);
        const [dx] = pullback(softsign(at), leaf(new Float32Array(o.data.length).fill(1), o.shape), [at]);
        const slope = await engine.read(dx!, { x: o.data });
        const h = 1e-5;
        const moved = async (by: number) => engine.read(softsign(at), { x: o.data.map((v) => v + by) });
        const [up, down] = [await moved(h), await moved(-h)];
        for (const [k, v] of slope.entries()) expect(Math.abs(v - (up[k]! - down[k]!) / (2 * h))).toBeLessThan(1e-8);
      }),
      { numRuns: 15 },
    ));
  test('agrees with its composition', async () => {
    const x = leaf(rng(1).normal(12), [3, 4]);
    const both = await engine.read(sum(softsign(x).sub(composedSoftsign(x)).mul(1e12)));
    expect(Math.abs(both[0]!)).toBeLessThan(1);
  });
});

describe('the layer', () => {
  const own = newGatedLinear(3, 2, rng(1));
  const run = (l: typeof own, x: Tensor) => engine.read(l(x, context(1)));
  test('computes its equation', async () => {
    const x = rng(2).normal(3);
    const got = await run(own, leaf(x, [1, 1, 3]));
    const at = (name: string): number[] => {
      const w = ofKind(ofKind(own.fields[name], 'linear').fields.weight, 'weight')().source;
      if (w.kind !== 'state') throw new Error('a fresh layer is trainable');
      return [0, 1].map((o) => x.reduce((s, v, i) => s + v * w.param.value[o * 3 + i]!, 0));
    };
    for (const [k, v] of at('value').entries()) expect(got[k]).toBeCloseTo(v / (1 + Math.exp(-at('gate')[k]!)), 12);
  });
  test('shows its parameters, and is rebuilt over other fields', async () => {
    expect([...params(own).values()]).toEqual(['value.weight', 'value.bias', 'gate.weight', 'gate.bias']);
    expect([...layers(own)].filter(({ layer: l }) => l.kind === 'linear').map(({ path }) => path)).toEqual(['value', 'gate']);
    expect(params(freeze(own)).size).toBe(0);
    const x = leaf([1, 2, 3], [1, 1, 3]);
    const zero = mapTensors(own, (t, path) =>
      path.startsWith('value') ? leaf(new Float32Array(t.shape.reduce((a, b) => a * b, 1)), t.shape) : t,
    );
    expect([...(await run(zero, x))].map(Math.abs)).toEqual([0, 0]);
    expect((await run(own, x))[0]).not.toBe(0);
  });
});

describe('the method', () => {
  const entry = listed('test/contributing/method.ts', stretch, { scale: 2 });
  for (const net of networks(3)) {
    const made: { case?: ReturnType<typeof caseOf> } = {};
    for (const law of laws)
      test(`${net.name}, ${law.id}: ${law.says}`, async () => {
        made.case ??= caseOf(entry, net, 3, engine);
        await law.check(await made.case);
      });
  }
  test('refuses what can never learn', () => {
    expect(() => stretch({ scale: 0 })(networks(3)[0]!.base)).toThrow('would never learn');
  });
});
