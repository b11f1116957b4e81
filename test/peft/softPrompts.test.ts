// APT, ATTEMPT, IPT, LPT, PTP, SPT and TPT: each against its equation, the programs around them, and what they refuse.
import { expect, test } from 'vitest';
import { float64 } from '../../core/engines/float64.ts';
import { grad } from '../../core/grad.ts';
import { rng } from '../../core/rng.ts';
import { input, leaf, type Param, type Tensor, topological } from '../../core/tensor.ts';
import { context, quiet, stochastic } from '../../nn/context.ts';
import { withValues } from '../../nn/freeze.ts';
import { classifier } from '../../nn/heads.ts';
import { BASE, type Layer, layer, type Model, ofKind } from '../../nn/layer.ts';
import { layers, substitute, tensors, trainable } from '../../nn/tree.ts';
import type { Loss } from '../../optim/program.ts';
import { apt } from '../../peft/additive/apt.ts';
import { attempt, attemptSources } from '../../peft/additive/attempt.ts';
import { ipt } from '../../peft/additive/ipt.ts';
import { iptAutoencoder, iptSources, iptStages, iptTarget } from '../../peft/additive/iptSubspace.ts';
import { lpt } from '../../peft/additive/lpt.ts';
import { prefixTuning } from '../../peft/additive/prefixTuning.ts';
import { promptTuning } from '../../peft/additive/promptTuning.ts';
import { ptp, ptpLoss } from '../../peft/additive/ptp.ts';
import { promptOf } from '../../peft/additive/spot.ts';
import { sptKept } from '../../peft/additive/sptKept.ts';
import { sptPrompt } from '../../peft/additive/sptPrompt.ts';
import { tpt } from '../../peft/additive/tpt.ts';
import { tptDistance, tptSource } from '../../peft/additive/tptTransfer.ts';
import { finish } from '../../peft/merge.ts';
import { bertNetwork, gpt2Network, llamaNetwork, type Network, networks, numbersOf, perturb, run, TOKENS, WIDTH } from '../laws/models.ts';
import { affine, apart, each, type Matrix, own, relu, rowsOf, sigmoid, silu, softmax, trained } from './naive.ts';

const engine = float64();
const bert = bertNetwork(1);
const real = [5, 3]; // tokens of the two texts that are not padding
const p = 2;

/** Prompt tuning with these rows. */
const prompted = (base: Model, rows: Matrix): Model => {
  const m = promptTuning({ length: rows.length })(base);
  return withValues(m, new Map([[promptOf(m), Float64Array.from(rows.flat())]]));
};
const half = (y: ArrayLike<number>, k: number): number[] => Array.from(y).slice((k * y.length) / 2, ((k + 1) * y.length) / 2);
/** What enters each block of a model, for each text. */
async function entering(net: Network, model: Model): Promise<number[][][][]> {
  const seen: Tensor[] = [];
  substitute(
    model,
    'block',
    (l): Layer<'block'> =>
      layer('block', { [BASE]: l }, ({ [BASE]: l }) => (h, c) => {
        seen.push(h);
        return l(h, c);
      }),
  )(net.batch, context(TOKENS));
  const all: number[][][][] = [];
  for (const t of seen) {
    const rows = rowsOf(await engine.read(t), WIDTH); // one after another: what is read stays until the next reading
    all.push([rows.slice(0, rows.length / 2), rows.slice(rows.length / 2)]);
  }
  return all;
}
const stacked = (texts: readonly Matrix[]): Tensor => leaf(Float64Array.from(texts.flat(2)), [texts.length, texts[0]!.length, WIDTH]);

/** The blocks of a network called by hand: before block i, `change` puts p rows there or replaces them; null leaves h as it is. */
async function byHand(net: Network, change: (i: number, texts: number[][][]) => number[][][] | null): Promise<number[]> {
  const { trunk, head } = net.base.fields;
  const { blocks, norm } = ofKind(trunk, 'trunk').fields as unknown as { blocks: Layer<'block'>[]; norm: Layer<'norm'> | null };
  let texts = (await entering(net, net.base))[0]!;
  const causal = net.base.fields.causal === true;
  for (const [i, block] of blocks.entries()) {
    texts = change(i, texts) ?? texts;
    const extra = texts[0]!.length - TOKENS;
    const mask = real.flatMap((n) => Array.from({ length: extra + TOKENS }, (_, t) => (t < extra + n ? 1 : 0)));
    const c = context(extra + TOKENS, { causal, keyMask: leaf(mask, [2, extra + TOKENS]) });
    const y = rowsOf(await engine.read(block(stacked(texts), c)), WIDTH);
    texts = [y.slice(0, y.length / 2), y.slice(y.length / 2)];
  }
  const end = stacked(texts.map((t) => t.slice(-TOKENS)));
  return [...(await engine.read(ofKind(head, 'linear')(norm === null ? end : norm(end, context(TOKENS)), context(TOKENS))))];
}

test('LPT: rows enter before the upper blocks of every network', async () => {
  for (const net of networks(1))
    for (const after of [0, 1]) {
      const model = perturb(lpt({ length: p, after })(net.base), 2);
      const P = (await own(engine, model, 'trunk.lpt')).P!;
      const expected = await byHand(net, (i, texts) => (i === after ? texts.map((t) => [...P, ...t]) : null));
      expect(apart(await numbersOf(engine, net, model), expected), `${net.name} after ${after}`).toBeLessThan(1e-12);
    }
  // with rotary positions and none learned, a prompt below the first block is prompt tuning
  const net = llamaNetwork(3);
  const model = perturb(lpt({ length: p, after: 0 })(net.base), 4);
  const same = prompted(net.base, (await own(engine, model, 'trunk.lpt')).P!);
  expect(apart(await numbersOf(engine, net, model), await numbersOf(engine, net, same))).toBeLessThan(1e-12);
});

test.each(['naive', 'average', 'max'] as const)('LPT with the %s generator makes its rows of the block below', async (generator) => {
  const model = perturb(lpt({ length: p, generator, hidden: 3, reads: generator === 'naive' ? 'last' : 'first' })(bert.base), 5);
  const t = await own(engine, model, 'trunk.lpt');
  const make = (text: number[][], n: number): number[][] => {
    const down = affine(text, t.W1!, t.b1![0]);
    if (generator === 'naive') return rowsOf(affine([down[n - 1]!.map(relu)], t.W2!, t.b2![0])[0]!, WIDTH);
    const pooled = Array.from({ length: p }, (_, i) => {
      const window = down.slice(Math.floor((i * n) / p), Math.ceil(((i + 1) * n) / p));
      return window[0]!.map((_, j) => {
        const column = window.map((row) => row[j]!);
        return relu(generator === 'max' ? Math.max(...column) : column.reduce((a, v) => a + v) / column.length);
      });
    });
    return affine(pooled, t.W2!, t.b2![0]);
  };
  const expected = await byHand(bert, (i, texts) => (i === 1 ? texts.map((text, k) => [...make(text, real[k]!), ...text]) : null));
  expect(apart(await numbersOf(engine, bert, model), expected)).toBeLessThan(1e-12);
  expect(trained(model)).toBe(3 * WIDTH + 3 + 4 * (generator === 'naive' ? p * WIDTH : WIDTH));
});

test('SPT: gates between the rows from below and new ones; afterwards only the kept blocks have rows', async () => {
  for (const net of networks(6)) {
    const model = perturb(sptPrompt({ length: p, tau: 0.75 })(net.base), 7);
    const t = await own(engine, model, 'trunk.sptPrompt');
    const gates = t.alpha!.flat().map((a) => 0.75 * sigmoid(a));
    const mix = (i: number, text: number[][]): number[][] => {
      const P = t[`P.${i}`]!;
      if (i === 0) return [...each(P, (v) => v * gates[0]!), ...text];
      return text.map((row, r) => (r < p ? row.map((v, j) => (1 - gates[i]!) * v + gates[i]! * P[r]![j]!) : row));
    };
    expect(apart(await numbersOf(engine, net, model), await byHand(net, (i, texts) => texts.map((x) => mix(i, x))))).toBeLessThan(1e-12);
    const kept = perturb(sptPrompt({ length: p, kept: [1] })(net.base), 8);
    const P = (await own(engine, kept, 'trunk.sptPrompt'))['P.0']!;
    const late = await byHand(net, (i, texts) => (i === 1 ? texts.map((x) => [...P, ...x]) : null));
    expect(apart(await numbersOf(engine, net, kept), late)).toBeLessThan(1e-12);
    const best = gates[0]! > gates[1]! ? 0 : 1;
    expect(sptKept(model, 1)).toEqual([best]);
    expect(sptKept(model, 2)).toEqual([0, 1]);
    expect(() => sptKept(kept, 1)).toThrow(/gates of this model are not trained/);
  }
  expect(() => sptPrompt({ kept: [1, 0] })(bert.base)).toThrow(/kept names block 0/);
  expect(() => sptPrompt({ kept: [2] })(bert.base)).toThrow(/kept names block 2.*0 … 1/);
  expect(() => sptPrompt({ length: 2, tau: 0 })(bert.base)).toThrow(/tau/);
});

test('gated and late rows on one network: each method finds its own among the rows before the text', async () => {
  const [late, gated] = [lpt({ length: 3, after: 0 }), sptPrompt({ length: p, kept: [0, 1] })];
  for (const net of networks(32))
    for (const model of [perturb(gated(late(net.base)), 33), perturb(late(gated(net.base)), 33)]) {
      const rows = (name: string): Promise<number[][]> => {
        const [, tensor] = [...tensors(model)].map((t) => [t.path, t.tensor] as const).find(([path]) => path.endsWith(name))!;
        return engine.read(tensor).then((v) => rowsOf(v, WIDTH));
      };
      const [L, P0, P1] = [await rows('lpt.P'), await rows('sptPrompt.P.0'), await rows('sptPrompt.P.1')];
      const first = [...layers(model)].find(({ layer: l }) => l.attached !== null)!.layer.attached!.method === 'lpt'; // the last attached is inside
      const expected = await byHand(net, (i, texts) =>
        texts.map((x) => {
          if (i === 0) return first ? [...L, ...P0, ...x] : [...P0, ...L, ...x];
          return first ? [...x.slice(0, 3), ...P1, ...x.slice(3 + p)] : [...P1, ...x.slice(p)];
        }),
      );
      expect(apart(await numbersOf(engine, net, model), expected)).toBeLessThan(1e-12);
    }
});

test('ATTEMPT mixes its prompt of the sources’ and its own for each text', async () => {
  const sources = [11, 12].map((seed) => perturb(promptTuning({ length: p })(bert.base), seed));
  const model = attemptSources(perturb(attempt({ length: p, sources: 2, hidden: 3, temperature: 2 })(bert.base), 13), sources);
  const t = await own(engine, model, 'trunk.attempt');
  const all = [...sources.map((s) => rowsOf(promptOf(s).value, WIDTH)), t.P!];
  const top = (rows: Matrix): number[] => rows[0]!.map((_, j) => Math.max(...rows.map((r) => r[j]!)));
  const seen: Tensor[] = [];
  substitute(
    bert.base,
    'trunk',
    (l): Layer<'trunk'> =>
      layer('trunk', { [BASE]: l }, ({ [BASE]: l }) => (h, c) => {
        seen.push(h);
        return l(h, c);
      }),
  )(bert.batch, context(TOKENS));
  const embedded = rowsOf(await engine.read(seen[0]!), WIDTH);
  const y = await numbersOf(engine, bert, model);
  for (const k of [0, 1]) {
    const x = affine([affine([top(embedded.slice(k * TOKENS, k * TOKENS + real[k]!))], t.down!)[0]!.map(silu)], t.up!)[0]!;
    const mean = x.reduce((a, v) => a + v) / WIDTH;
    const deviation = Math.sqrt(x.reduce((a, v) => a + (v - mean) ** 2, 0) / WIDTH + 1e-5);
    const z = x.map((v, j) => ((v - mean) / deviation) * t.gain![0]![j]! + t.shift![0]![j]!);
    const a = softmax(all.map((P) => top(P).reduce((s, v, j) => s + v * z[j]!, 0) / 2));
    const rows = t.P!.map((row, i) => row.map((v, j) => v + all.reduce((s, P, n) => s + a[n]! * P[i]![j]!, 0)));
    expect(apart(half(y, k), half(await numbersOf(engine, bert, prompted(bert.base, rows)), k))).toBeLessThan(1e-11);
  }
  const count = attempt.method.count([{ dim: () => 768 } as never], { length: 100, sources: 6, hidden: 100 });
  expect(count).toEqual({ train: 76_800 + 2 * 76_800 + 2 * 768, stored: 7 * 76_800 + 2 * 76_800 + 2 * 768 });
  expect(() => attemptSources(model, [sources[0]!])).toThrow(/sources is \[2, 2, 8\] as attached, but \[1, 2, 8\]/);
  expect(() => attemptSources(model, [])).toThrow(/no source model/);
  expect(() => attemptSources(bert.base, sources)).toThrow(/has no attempt on it/);
});

test('APT: each block’s prefix is weighed by what enters the block, row by row, and scaled', async () => {
  for (const reads of ['first', 'mean'] as const) {
    const model = perturb(apt({ length: p, reads })(bert.base), 14);
    const t = await own(engine, model, 'trunk.apt');
    const y = await numbersOf(engine, bert, model);
    for (const k of [0, 1]) {
      const tables = Array.from({ length: 4 }, (_, i) => t[`table.${i}`]!);
      const plain = prefixTuning({ length: p, bottleneck: null })(bert.base);
      const withTables = (): Model =>
        withValues(
          plain,
          new Map([...trainable(plain).keys()].map((q, i): [Param, Float64Array] => [q, Float64Array.from(tables[i]!.flat())])),
        );
      for (const i of [0, 1]) {
        const h = (await entering(bert, withTables()))[i]![k]!.slice(0, real[k]); // blocks below are as they should be
        const m = reads === 'first' ? h[0]! : h[0]!.map((_, j) => h.reduce((s, row) => s + row[j]! / h.length, 0));
        const alpha = affine([m], t[`gate.${i}`]!)[0]!.map((v) => sigmoid(v) * t[`scale.${i}`]![0]![0]!);
        for (const n of [2 * i, 2 * i + 1]) tables[n] = tables[n]!.map((row, r) => row.map((v) => v * alpha[r]!));
      }
      expect(apart(half(y, k), half(await numbersOf(engine, bert, withTables()), k))).toBeLessThan(1e-12);
    }
    expect(trained(model)).toBe(2 * (2 * p * WIDTH + p * WIDTH + 1));
  }
});

test('prompts made of the whole text are refused in a language model, and welcome under a classifier', () => {
  for (const m of [
    apt({ length: p }),
    attempt({ length: p }),
    lpt({ length: p, generator: 'average' }),
    sptPrompt({ length: p, generator: 'naive' }),
  ]) {
    expect(() => m(gpt2Network(1).base)).toThrow(/each token would see those after it/);
    const reads = m(classifier(llamaNetwork(1).base, { classes: 2 }, rng(1)));
    expect(reads({ ids: leaf([1, 2, 3, 4], [2, 2]) }, context(2)).shape).toEqual([2, 2]);
  }
  expect(() => lpt({ length: p, after: 2 })(bert.base)).toThrow(/after 2 at trunk must be a whole number from 0 to 1/);
});

test('TPT: a prompt of another width, projected; the distance of projections; finished, rows alone', async () => {
  const net = gpt2Network(15);
  for (const [norm, activation] of [
    [true, 'leakyRelu'],
    [false, 'tanh'],
  ] as const) {
    const model = perturb(tpt({ length: p, sourceWidth: 3, hidden: 4, norm, activation })(net.base), 16);
    const t = await own(engine, model, 'trunk.tpt');
    const hidden = affine([t.source!.flat()], t.W1!, t.b1![0])[0]!.map((v) =>
      activation === 'tanh' ? Math.tanh(v) : v > 0 ? v : 0.01 * v,
    );
    const rows = rowsOf(affine([hidden], t.W2!, t.b2![0])[0]!, WIDTH).map((row) => {
      if (!norm) return row;
      const mean = row.reduce((a, v) => a + v) / WIDTH;
      const deviation = Math.sqrt(row.reduce((a, v) => a + (v - mean) ** 2, 0) / WIDTH + 1e-5);
      return row.map((v, j) => ((v - mean) / deviation) * t.gain![0]![j]! + t.shift![0]![j]!);
    });
    expect(apart(await numbersOf(engine, net, model), await numbersOf(engine, net, prompted(net.base, rows)))).toBeLessThan(1e-12);
    expect(apart((await own(engine, finish(model), 'trunk.tpt')).P!.flat(), rows.flat())).toBeLessThan(1e-12);
  }
  const source = perturb(promptTuning({ length: p })(bert.base), 17);
  const model = tptSource(perturb(tpt({ length: p, hidden: 4 })(net.base), 18), source);
  const [a, b] = [
    (await own(engine, finish(model), 'trunk.tpt')).P!.flat(),
    promptOf(perturb(promptTuning({ length: p })(net.base), 19)).value,
  ];
  const distance = tptDistance(model, [[source, perturb(promptTuning({ length: p })(net.base), 19)]]);
  expect(await engine.item(distance)).toBeCloseTo(
    a.reduce((s, v, i) => s + (v - b[i]!) ** 2, 0),
    9,
  );
  expect(() => tptDistance(finish(model), [[source, source]])).toThrow(/projector is gone/);
  expect(() => tptSource(perturb(tpt({ length: 3, hidden: 4 })(net.base), 1), source)).toThrow(/source is \[1, 3, 8\]/);
});

test('IPT: a few numbers decoded to a prompt, by the decoder of an autoencoder over the prompts of tasks', async () => {
  const net = gpt2Network(20);
  const sources = [21, 22, 23].map((seed) => perturb(promptTuning({ length: p })(net.base), seed));
  const sizes = { length: p, dimension: 3, hidden: 4 };
  const stage = iptSources(perturb(iptAutoencoder({ ...sizes, tasks: 3, weight: 5 })(net.base), 24), sources);
  const t = await own(engine, stage, 'trunk.iptAutoencoder');
  const decode = (z: number[]): number[] => affine([affine([z], t.W1!, t.b1![0])[0]!.map(Math.tanh)], t.W2!, t.b2![0])[0]!;
  const prompts = sources.map((s) => [...promptOf(s).value]);
  const rebuilt = prompts.map((P) => decode(affine([P], t.W0!, t.b0![0])[0]!));
  const task = [2, 0];
  const aux: Tensor[] = [];
  const output = stage(net.batch, context(TOKENS, { aux: (_, l) => aux.push(l) }));
  const y = await engine.read(output, { task });
  for (const [row, k] of task.entries())
    expect(apart(half(y, row), half(await numbersOf(engine, net, prompted(net.base, rowsOf(rebuilt[k]!, WIDTH))), row))).toBeLessThan(
      1e-12,
    );
  const off = task.flatMap((k) => rebuilt[k]!.map((v, i) => (v - prompts[k]![i]!) ** 2));
  expect((await engine.read(aux[0]!, { task }))[0]!).toBeCloseTo((5 * off.reduce((a, v) => a + v)) / off.length, 9);

  const target = iptTarget(perturb(ipt(sizes)(net.base), 25), stage);
  const z = (await own(engine, target, 'trunk.ipt')).z!.flat();
  expect(
    apart(await numbersOf(engine, net, target), await numbersOf(engine, net, prompted(net.base, rowsOf(decode(z), WIDTH)))),
  ).toBeLessThan(1e-12);
  expect(trained(target)).toBe(3);

  const given: Model[] = [];
  const attach = await iptStages({
    base: net.base,
    sources,
    dimension: 3,
    hidden: 4,
    trainAll: async (m) => {
      given.push(m);
      return perturb(m, 26);
    },
  });
  const shown = (await own(engine, given[0]!, 'trunk.iptAutoencoder')).prompts!.flat();
  expect(apart(shown, prompts.flat())).toBe(0);
  expect(
    apart(
      (await own(engine, attach(net.base), 'trunk.ipt')).W2!.flat(),
      (await own(engine, perturb(given[0]!, 26), 'trunk.iptAutoencoder')).W2!.flat(),
    ),
  ).toBe(0);
  expect(() => iptTarget(ipt({ ...sizes, hidden: 5 })(net.base), stage)).toThrow(/W1 is \[5, 3\] as attached, but \[4, 3\]/);
  expect(() => iptSources(stage, [sources[0]!, perturb(promptTuning({ length: 3 })(net.base), 1)])).toThrow(
    /prompt of source 1 is \[3, 8\]/,
  );
  expect(ipt.method.count([{ dim: () => 768 } as never], { length: 100, dimension: 250, hidden: 768 })).toEqual({
    train: 250,
    stored: 76_800,
  });
});

test('PTP: the loss is also that of texts with noise, or moved a little to where it is larger; evaluated, it is the loss', async () => {
  const net = bert;
  const model = perturb(ptp({ length: p })(net.base), 27);
  const loss: Loss<Model, null> = (m) => run(net, m).loss;
  const delta = input('delta', [2, TOKENS, WIDTH]);
  const moved = loss(
    substitute(
      model,
      'trunk',
      (l): Layer<'trunk'> =>
        layer(
          'trunk',
          { [BASE]: l },
          ({ [BASE]: l }) =>
            (h, c) =>
              l(h.add(delta), c),
        ),
    ),
    null,
    context(TOKENS),
  );
  const elsewhere = await engine.compile(engine.store(), { outputs: { moved } });
  const at = async (by: ArrayLike<number>): Promise<number> => (await elsewhere.run({ delta: Float64Array.from(by) })).moved[0]!;
  const value = async (t: Tensor): Promise<number> => engine.item(t);
  const clean = await value(loss(model, null, context(TOKENS)));
  const noise = ptpLoss(loss, 0.5, { kind: 'noise', sigma: 0.2 });
  expect(await value(noise(model, null, context(TOKENS, { draw: quiet })))).toBe(clean);

  // the loss of this test calls the model in a quiet context, so that the noise must be seen through one that passes its own on
  const passing: Loss<Model, null> = (m, _, ctx) => run(net, m, ctx.draw).loss;
  const noisy = ptpLoss(passing, 0.5, { kind: 'noise', sigma: 0.2 })(model, null, context(TOKENS, { draw: stochastic() }));
  const plan = await engine.compile(engine.store(), { outputs: { noisy } });
  const [one, two] = [(await plan.run({}, 1)).noisy[0]!, (await plan.run({}, 2)).noisy[0]!];
  expect(one).not.toBe(two);
  const draws = rng(28).normal(2 * TOKENS * WIDTH);
  const name = topological([noisy]).flatMap(({ source: f }) => (f.kind === 'input' ? [f.name] : []))[0]!;
  const fed = (await plan.run({ [name]: draws }, 1)).noisy[0]!;
  expect(fed).toBeCloseTo(clean + 0.5 * (await at(Array.from(draws, (v) => 0.2 * v))), 6);

  // the search: one step per text along the gradient, cut to the radius
  const nowhere = new Float64Array(2 * TOKENS * WIDTH);
  const g = [...(await engine.read(grad(moved, [delta])[0]!, { delta: nowhere }))];
  for (const [rate, radius] of [
    [0.05, 1],
    [0.5, 0.1],
  ] as const) {
    const step = [0, 1].flatMap((k) => {
      const own = half(g, k);
      const long = Math.hypot(...own);
      return own.map((v) => (v / long) * Math.min(rate, radius));
    });
    const hard = ptpLoss(passing, 0.5, { kind: 'adversarial', rate, radius, steps: 1 });
    const found = await value(hard(model, null, context(TOKENS, { draw: stochastic() })));
    expect(found).toBeCloseTo(clean + 0.5 * (await at(step)), 6);
    expect(found).toBeGreaterThan(1.5 * clean);
  }
  const longer = ptpLoss(passing, 0.5, { kind: 'adversarial', rate: 0.05, radius: 0.5, steps: 4 });
  const shorter = ptpLoss(passing, 0.5, { kind: 'adversarial', rate: 0.05, radius: 0.5, steps: 1 });
  const ctx = context(TOKENS, { draw: stochastic() });
  expect(await value(longer(model, null, ctx))).toBeGreaterThan(await value(shorter(model, null, ctx)));
  expect(() => ptpLoss(loss, -1, { kind: 'noise', sigma: 1 })).toThrow(/weight -1/);
  expect(() => ptpLoss(loss, 1, { kind: 'adversarial', rate: 1, radius: 1, steps: 0 })).toThrow(/steps 0/);
});
