// ReFT: the edit of each variant by hand, at the first and last real tokens only, whatever the padding.
import { expect, test } from 'vitest';
import { float64 } from '../../core/engines/float64.ts';
import { leaf } from '../../core/tensor.ts';
import { context, stochastic } from '../../nn/context.ts';
import { withValues } from '../../nn/freeze.ts';
import { decoding } from '../../nn/generate.ts';
import { type Layer, layer, type Model } from '../../nn/layer.ts';
import { substitute, trainable } from '../../nn/tree.ts';
import { orthonormal } from '../../peft/additive/gramSchmidt.ts';
import { direft, loreft, noreft } from '../../peft/additive/reft.ts';
import { bertNetwork, gpt2Network, perturb, WIDTH } from '../laws/models.ts';
import { affine, apart, layerAt, own, random, rowsOf, trained } from './naive.ts';

const engine = float64();
const at = 'trunk.blocks.1';
/** A network whose blocks pass on what they get, so that an edit can be seen. */
const base: Model = substitute(bertNetwork(1).base, 'block', (l): Layer<'block'> => layer('block', l.fields, () => (h) => h));
const T = 6;
const mask = leaf([0, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0], [2, T]); // padding on the left, and on the right
const h = random(2, [2, T, WIDTH]);
const edit = async (m: Model, draw = {}): Promise<number[][]> =>
  rowsOf(await engine.read(layerAt(m, 'block', at)(h, context(T, { keyMask: mask, ...draw }))), WIDTH);

/** h + Rᵀ(W h + b − R h), or without the last term. */
function unit(row: number[], W: number[][], b: number[], R: number[][], subtracts: boolean): number[] {
  const [source, own] = [affine([row], W, b)[0]!, affine([row], R)[0]!];
  return row.map((v, j) => v + source.reduce((s, w, k) => s + (w - (subtracts ? own[k]! : 0)) * R[k]![j]!, 0));
}
const rows = async (m: Model): Promise<{ W: number[][][]; b: number[][]; R: number[][][] }> => {
  const all = await own(engine, m, at);
  const of = (k: string): number[][][] =>
    Object.entries(all)
      .filter(([n]) => new RegExp(`\\.${k}\\.\\d$`).test(n))
      .map(([, v]) => v);
  return { W: of('W'), b: of('b').map((v) => v[0]!), R: of('R') };
};

for (const [name, make, isOrthonormal, subtracts] of [
  ['loreft', loreft, true, true],
  ['noreft', noreft, false, true],
  ['direft', direft, false, false],
] as const)
  test(`${name}: the first 2 and last 1 real tokens, each group with its unit; no other position changes a bit`, async () => {
    const model = perturb(make({ rank: 2, prefix: 2, suffix: 1 })(base), 3);
    const p = await rows(model);
    const R = isOrthonormal
      ? await Promise.all(
          p.R.map(async (m) => rowsOf(await engine.read(orthonormal(leaf(Float64Array.from(m.flat()), [2, WIDTH]))), WIDTH)),
        )
      : p.R;
    const [before, after] = [rowsOf(await engine.read(h), WIDTH), await edit(model)];
    const group = [null, 0, 0, null, null, 1, 0, 0, 1, null, null, null]; // of 5 and of 3 real tokens
    for (const [t, g] of group.entries())
      if (g === null) expect(after[t]).toEqual(before[t]);
      else expect(apart(after[t]!, unit(before[t]!, p.W[g]!, p.b[g]!, R[g]!, subtracts))).toBeLessThan(1e-12);
  });

test('R Rᵀ = I for any numbers; with W = R and b = 0 LoReFT is the identity', async () => {
  const R = orthonormal(random(4, [3, WIDTH]));
  const gram = rowsOf(await engine.read(R.matmul(R.T)), 3);
  expect(apart(gram.flat(), [1, 0, 0, 0, 1, 0, 0, 0, 1])).toBeLessThan(1e-13);
  const model = loreft({ rank: 2, dropout: 0 })(base);
  const values = new Map(
    [...trainable(model)].map(([p, path]) => [
      p,
      path.includes('.b.') ? new Float64Array(2) : Float64Array.from({ length: 2 * WIDTH }, (_, k) => (k === 1 || k === WIDTH + 4 ? 1 : 0)),
    ]),
  );
  expect(apart((await edit(withValues(model, values))).flat(), rowsOf(await engine.read(h), WIDTH).flat())).toBeLessThan(1e-14);
});

test('tied units serve both groups; a token in both groups belongs to the last; dropout is on edited states', async () => {
  const tied = perturb(direft({ rank: 1, prefix: 2, suffix: 2, tied: true })(base), 5);
  const p = await rows(tied);
  expect(p.W).toHaveLength(1);
  const [before, after] = [rowsOf(await engine.read(h), WIDTH), await edit(tied)];
  for (const t of [1, 2, 4, 5, 6, 7, 8]) expect(apart(after[t]!, unit(before[t]!, p.W[0]!, p.b[0]!, p.R[0]!, false))).toBeLessThan(1e-12);
  const both = perturb(direft({ rank: 1, prefix: 3, suffix: 3 })(base), 6); // the second text has 3 tokens
  const q = await rows(both);
  for (const [t, row] of (await edit(both)).entries())
    if (t >= 6 && t < 9) expect(apart(row, unit(before[t]!, q.W[1]!, q.b[1]!, q.R[1]!, false))).toBeLessThan(1e-12);
  const dropped = layerAt(perturb(noreft({ dropout: 0.5 })(base), 7), 'block', at)(h, context(T, { keyMask: mask, draw: stochastic() }));
  const plan = await engine.compile(engine.store(), { outputs: { dropped } });
  const random1 = rowsOf((await plan.run({}, 1)).dropped, WIDTH);
  expect(
    random1
      .slice(1, 4)
      .flat()
      .filter((v) => v === 0).length,
  ).toBeGreaterThan(2);
  expect(random1[0]).toEqual(before[0]);
});

test('count r(2d + 1) per unit; refused: no positions, ranks above the width', () => {
  expect(trained(loreft({ rank: 3 })(base))).toBe(2 * 3 * (2 * WIDTH + 1));
  expect(trained(loreft({ rank: 3, suffix: 1 })(base))).toBe(2 * 2 * 3 * (2 * WIDTH + 1));
  expect(() => loreft({ prefix: 0 })(base)).toThrow(/no position would be edited/);
  expect(() => direft({ rank: 9 })(base)).toThrow(/direft: rank 9 at trunk\.blocks\.0 must be a whole number from 1 to 8/);
  expect(() => noreft({ prefix: -1 })(base)).toThrow(/prefix -1/);
});

test('in generation a text shorter than p goes on being edited up to p; the last s are those of the text given', async () => {
  const net = gpt2Network(8);
  const text = [3, 1, 4, 1, 5];
  const follow = async (m: Model): Promise<number[]> => {
    const d = await decoding(m, [text.slice(0, 2)], { engine, tokens: 4 });
    for (const t of text.slice(2)) await d.advance([t]);
    d.close();
    return [...d.logits];
  };
  const whole = async (m: Model): Promise<number[]> => [...(await engine.read(m({ ids: leaf(text, [1, 5]) }, context(5)))).slice(-11)];
  const front = perturb(loreft({ rank: 1, prefix: 4 })(net.base), 9);
  expect(apart(await follow(front), await whole(front))).toBeLessThan(1e-11);
  const tied = { rank: 1, tied: true };
  const end = perturb(loreft({ ...tied, prefix: 0, suffix: 2 })(net.base), 9); // the last 2 of the 2 tokens given are its first 2
  const same = perturb(loreft({ ...tied, prefix: 2, suffix: 0 })(net.base), 9);
  expect(apart(await follow(end), await whole(same))).toBeLessThan(1e-11);
});
