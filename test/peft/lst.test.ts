// Ladder Side Tuning: the ladder by hand, no backward pass through the backbone, dropped side blocks, generation, refusals.
import { describe, expect, it } from 'vitest';
import { float64 } from '../../core/engines/float64.ts';
import { rng } from '../../core/rng.ts';
import { leaf, type Tensor } from '../../core/tensor.ts';
import { context } from '../../nn/context.ts';
import { decoder, llama } from '../../nn/decoder.ts';
import { freeze } from '../../nn/freeze.ts';
import { generate } from '../../nn/generate.ts';
import { BASE, layer, type Model } from '../../nn/layer.ts';
import { nextToken } from '../../nn/losses.ts';
import { substitute, tensors } from '../../nn/tree.ts';
import { adamw } from '../../optim/adamw.ts';
import { lst } from '../../peft/additive/lst.ts';
import { promptTuning } from '../../peft/additive/promptTuning.ts';
import { lora } from '../../peft/reparameterized/lora.ts';
import { report } from '../../peft/report.ts';
import { backwardPaths, gradients } from '../laws/graph.ts';
import { generic, gpt2Network, llamaNetwork, networks, perturb, run } from '../laws/models.ts';
import { affine, apart, attention, layerAt, type Matrix, plus, rowsOf, scaled, sigmoid, silu, trained } from './naive.ts';

const engine = float64();
const T = 4;
const ids = (n: number): Tensor =>
  leaf(
    Array.from({ length: n }, (_, i) => (3 * i + 1) % 11),
    [1, n],
  );

/** Hidden states of the base: into the first block, then out of each. */
async function states(base: Model): Promise<number[][][]> {
  const seen: Tensor[] = [];
  substitute(base, 'block', (l) =>
    layer('block', { [BASE]: l }, () => (x, ctx) => {
      if (seen.length === 0) seen.push(x);
      const y = l(x, ctx);
      seen.push(y);
      return y;
    }),
  )({ ids: ids(T) }, context(T));
  const all: number[][][] = [];
  for (const t of seen) all.push(rowsOf(await engine.read(t), 8));
  return all;
}

describe('lst', () => {
  it('is the ladder of its equation on LLaMA: gates, downsampling, side blocks with rotary positions, up', async () => {
    const { base } = llamaNetwork(41);
    const model = perturb(lst({ reduction: 2 })(base), 2);
    const own: Record<string, number[][]> = {};
    for (const { path, tensor } of tensors(model))
      if (path.startsWith('trunk.lst.')) own[path.slice('trunk.lst.'.length)] = rowsOf(await engine.read(tensor), tensor.shape.at(-1)!);
    const h = await states(base);
    const get = (name: string, k: number): number[][] => own[`${name}.${k}`]!;
    const down = (x: Matrix, name: string, k: number): number[][] => affine(x, get(name, k), get(name, k + 1)[0]);
    const rms = (x: Matrix, g: readonly number[]): number[][] =>
      x.map((row) => {
        const r = 1 / Math.sqrt(row.reduce((s, v) => s + v * v, 0) / row.length + 1e-6);
        return row.map((v, i) => v * r * g[i]!);
      });
    // width 4, two heads of 2 with one key head: a pair turns by its position, the only frequency being 1
    const turn = (x: Matrix): number[][] =>
      x.map((row, m) =>
        row.flatMap((_, i) =>
          i % 2 ? [] : [row[i]! * Math.cos(m) - row[i + 1]! * Math.sin(m), row[i + 1]! * Math.cos(m) + row[i]! * Math.sin(m)],
        ),
      );
    const heads = (x: Matrix, n: number): number[][][] => Array.from({ length: n }, (_, k) => x.map((row) => row.slice(2 * k, 2 * k + 2)));
    let s: number[][] = down(h[0]!, 'first', 0);
    for (const i of [0, 1]) {
      const mu = sigmoid(get('alpha', i)[0]![0]! / 0.1);
      s = plus(
        scaled(s, () => mu),
        scaled(down(h[i + 1]!, 'down', 2 * i), () => 1 - mu),
      );
      const [g1, g2, q, k, v, o, gate, up, out] = Array.from({ length: 9 }, (_, j) => get('side', 9 * i + j)) as number[][][];
      const n = rms(s, g1![0]!);
      const [key, value] = [turn(affine(n, k!)), affine(n, v!)];
      const mixed = heads(turn(affine(n, q!)), 2).map((head) => attention(head, key, value, (a, b) => b <= a));
      s = plus(
        s,
        affine(
          mixed[0]!.map((row, t) => [...row, ...mixed[1]![t]!]),
          o!,
        ),
      );
      const n2 = rms(s, g2![0]!);
      const [a, b] = [affine(n2, gate!), affine(n2, up!)];
      s = plus(
        s,
        affine(
          a.map((row, t) => row.map((x, j) => silu(x) * b[t]![j]!)),
          out!,
        ),
      );
    }
    const y = affine(rms(s, get('norm', 0)[0]!), get('up', 0), get('up', 1)[0]);
    const logits = affine(y, rowsOf(await engine.read(layerAt(base, 'weight', 'head.weight')()), 8));
    expect(apart(await engine.read(model({ ids: ids(T) }, context(T))), logits.flat())).toBeLessThan(1e-10);
  });
  it('sends no gradient into the backbone, and keeps nothing of it for backward', () => {
    for (const net of networks(42)) {
      const model = lst({ reduction: 2 })(net.base);
      const inside = backwardPaths(gradients(run(net, model).loss, model));
      expect(
        inside.filter((p) => /^(embed|types|trunk\.(blocks|positions|first))\b/.test(p)),
        net.name,
      ).toEqual([]);
      expect(inside.some((p) => p.startsWith('trunk.lst.blocks.1'))).toBe(true);
    }
  });
  it('needs memory for backward that does not grow with the backbone', () => {
    const saved = (layers: number, method: (m: Model) => Model): number => {
      const base = freeze(decoder(llama({ vocabulary: 11, width: 8, layers, heads: 2, positions: 8, inner: 12 }), rng(1)));
      const loss = (m: Model): Tensor => nextToken(m, { ids: ids(T), targets: ids(T) }, context(T));
      return report(method(base), { optimizer: adamw(), loss }).step!.saved;
    };
    const ladder = lst({ reduction: 2, blocks: [0, 1] });
    expect(saved(6, ladder)).toBe(saved(2, ladder));
    expect(saved(6, lora({ rank: 1 }))).toBeGreaterThan(2 * saved(2, lora({ rank: 1 })));
    expect(saved(2, lst({ reduction: 2 }))).toBeLessThan(saved(2, lora({ rank: 1 })));
  });
  it('counts what it trains, also with side blocks left out', () => {
    const { base } = gpt2Network(43);
    const [d, m, f] = [8, 4, 6];
    const block = 4 * m + (3 * m * m + 3 * m) + (m * m + m) + (m * f + f) + (f * m + m);
    const sampler = d * m + m;
    for (const blocks of [null, [1]]) {
      const n = blocks?.length ?? 2;
      expect(trained(lst({ reduction: 2, blocks })(base))).toBe(n * (block + sampler + 1) + sampler + 2 * m + (m * d + d));
    }
  });
  it('generates with a cache what full passes give, also on top of a prompt', async () => {
    const r = rng(44);
    const base = freeze(generic(decoder(llama({ vocabulary: 11, width: 8, layers: 2, heads: 2, positions: 24, inner: 12 }), r), r));
    for (const beneath of [base, promptTuning({ length: 2 })(base)]) {
      const model = perturb(lst({ reduction: 2 })(beneath), 4);
      const text = [1, 5, 3];
      for (let k = 0; k < 4; k++) {
        const logits = await engine.read(model({ ids: leaf(text, [1, text.length]) }, context(text.length)));
        const last = [...logits.slice(-11)];
        text.push(last.indexOf(Math.max(...last)));
      }
      expect(await generate(model, text.slice(0, 3), { engine, tokens: 4, temperature: 0 })).toEqual(text.slice(3));
    }
  });
  it('refuses sizes that do not divide, and blocks that are not there', () => {
    const { base } = gpt2Network(45);
    expect(() => lst({ reduction: 8 })(base)).toThrow(/reduction of 8 makes width 1 on 2 heads.*smaller reduction/);
    expect(() => lst({ reduction: 4 })(llamaNetwork(45).base)).toThrow(/even width/);
    expect(() => lst({ reduction: 2, blocks: [0, 2] })(base)).toThrow(/blocks 0,2 must name different blocks of 0 … 1/);
    expect(() => lst({ reduction: 2, temperature: 0 })(base)).toThrow(/temperature 0 must be above 0/);
  });
});
