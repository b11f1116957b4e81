// AutoLoRA's two levels against differences of gradients, and Laplace-LoRA against whole precision matrices.
import { describe, expect, it } from 'vitest';
import { float64 } from '../../core/engines/float64.ts';
import { grad } from '../../core/grad.ts';
import { logSoftmax } from '../../core/ops/fused.ts';
import { rng } from '../../core/rng.ts';
import { leaf, type Param, stateOf, type Tensor } from '../../core/tensor.ts';
import { context } from '../../nn/context.ts';
import { freeze, withValues } from '../../nn/freeze.ts';
import { classifier } from '../../nn/heads.ts';
import type { Batch, Model } from '../../nn/layer.ts';
import { layers, params, trainable } from '../../nn/tree.ts';
import { sgd } from '../../optim/sgd.ts';
import { cholesky } from '../../peft/linalg.ts';
import { autoLora } from '../../peft/reparameterized/autoLora.ts';
import { ofRanks, ranksOf } from '../../peft/reparameterized/autoLoraRanks.ts';
import { autoLoraSearch } from '../../peft/reparameterized/autoLoraSearch.ts';
import { curvatures } from '../../peft/reparameterized/laplaceCurvature.ts';
import { laplaceLora } from '../../peft/reparameterized/laplaceLora.ts';
import { lora } from '../../peft/reparameterized/lora.ts';
import { bertNetwork, gpt2Network, perturb, run } from '../laws/models.ts';
import { apart, flat } from './naive.ts';

const engine = float64();

describe('autoLora', () => {
  const [one, two] = [gpt2Network(1), gpt2Network(2)]; // two's text is the validation data
  const loss = (m: Model, b: Batch): Tensor => run({ ...(b === one.batch ? one : two), base: m }, m).loss;
  const fresh = autoLora({ rank: 3, alpha: 3, where: 'v' })(one.base);
  const search = (m: Model, steps: number, more: object): Promise<Model> =>
    autoLoraSearch(m, { engine, training: [one.batch], validation: [two.batch], loss, steps, ...more });

  it('a step: A and B by the training data, then α by the validation data and by how it moves their gradient', async () => {
    const model = perturb(fresh, 3, 0.5);
    const [lr, selectionLr, c] = [0.1, 0.5, 0.7];
    const after = await search(model, 1, { weights: sgd({ lr }), selections: sgd({ lr: selectionLr }), implicit: c });
    const values = new Map([...params(after)].map(([p, path]) => [path, p.value]));
    const all = [...trainable(model)];
    const [ws, as] = [true, false].map((w) => all.filter(([, path]) => path.endsWith('.selection') !== w));
    const grads = async (m: Model, b: Batch, of: typeof all): Promise<number[][]> => {
      const ps = [...trainable(m)].filter(([, path]) => of.some(([, q]) => q === path));
      return Promise.all(
        grad(
          loss(m, b),
          ps.map(([p]) => stateOf(p)),
        ).map(async (g) => [...(await engine.read(g))]),
      );
    };
    const gw = await grads(model, one.batch, ws!);
    const w1 = new Map<Param, Float64Array>(ws!.map(([p], k) => [p, Float64Array.from(p.value, (v, i) => v - lr * gw[k]![i]!)]));
    for (const [p, path] of ws!) expect(apart(values.get(path)!, w1.get(p)!)).toBeLessThan(1e-12);
    const moved = withValues(model, w1);
    const [v, ga] = [await grads(moved, two.batch, ws!), await grads(moved, two.batch, as!)];
    for (const [k, [p, path]] of as!.entries())
      for (let j = 0; j < p.value.length; j++) {
        const along = async (h: number): Promise<number> => {
          const shifted = withValues(
            model,
            new Map(w1).set(
              p,
              Float64Array.from(p.value, (a, i) => a + (i === j ? h : 0)),
            ),
          );
          const g = await grads(shifted, one.batch, ws!);
          return g.flat().reduce((s, x, i) => s + x * v.flat()[i]!, 0);
        };
        const mixed = ((await along(1e-5)) - (await along(-1e-5))) / 2e-5; // (∂²L_tr/∂α∂w) v, the other way round
        const moves = (p.value[j]! - values.get(path)![j]!) / selectionLr;
        expect(Math.abs(moves - (ga[k]![j]! - c * mixed))).toBeLessThan(1e-4 * (Math.abs(ga[k]![j]!) + Math.abs(c * mixed)));
        expect(Math.abs(c * mixed)).toBeGreaterThan(1e-6); // the second term matters
      }
  });
  it('a search helps on both, and leaves ranks that a fresh LoRA gets', async () => {
    const done = await search(fresh, 8, { weights: sgd({ lr: 0.3 }), selections: sgd({ lr: 1 }) });
    expect(await engine.item(loss(done, one.batch))).toBeLessThan(await engine.item(loss(fresh, one.batch)));
    const ranks = ranksOf(done);
    expect([...ranks.keys()]).toEqual(['trunk.blocks.0.attn.v', 'trunk.blocks.1.attn.v']);
    const alphas = [...params(done)].filter(([, path]) => path.endsWith('selection')).map(([p]) => [...p.value]);
    expect([...ranks.values()]).toEqual(alphas.map((a) => a.filter((x) => x >= a.reduce((s, y) => s + y) / 3).length));
    expect([...ranksOf(fresh).values(), ...ranksOf(fresh, 'softmax').values()]).toEqual([3, 3, 3, 3]); // all equal: all stay
    const mixed = ofRanks(new Map([...ranks.keys()].map((path, k) => [path, k + 1])), { alpha: 4 })(one.base);
    const found = [...layers(mixed)]
      .filter(({ layer: l }) => l.attached?.method === 'lora')
      .map(({ layer: l }) => (l.fields.lora as { A: Tensor }).A.shape[0]);
    expect(found).toEqual([1, 2]);
    await expect(search(one.base, 1, {})).rejects.toThrow(/no layer of this model has AutoLoRA attached/);
    expect(() => ranksOf(one.base)).toThrow(/no layer of this model has AutoLoRA/);
  });
});

describe('laplaceLora', () => {
  const net = bertNetwork(1);
  const base = freeze(classifier(net.base, { classes: 3, pool: 'first', pooler: false }, rng(5)));
  const model = perturb(lora({ rank: 1, alpha: 3, where: (p) => p.endsWith('blocks.1.attn.v') })(base), 2, 0.7);
  const logits = (m: Model, b: Batch): Tensor => m(b, context(b.ids.shape.at(-1)!)).mul(40); // the head starts small
  const word: Batch = { ids: leaf([4], [1, 1]) };
  const weights = [...trainable(model).keys()].map((p) => stateOf(p)); // A [1, 8], B [8, 1]

  it('on one token its factors are exact: evidence and covariance are those of whole matrices', async () => {
    const prior = 0.3;
    const laplace = await laplaceLora(model, { engine, batches: [word], logits });
    const f = logits(model, word);
    const [p, z] = [logSoftmax(f), await engine.read(f)];
    const chances = [...(await engine.read(p))].map(Math.exp);
    const of = async (t: Tensor, c: number): Promise<number[][]> =>
      Promise.all(grad(t.slice(1, c, c + 1).sum(), weights).map(async (g) => [...(await engine.read(g))]));
    const [scores, J] = [await Promise.all([0, 1, 2].map((c) => of(p, c))), await Promise.all([0, 1, 2].map((c) => of(f, c)))];
    let [evidence, norm] = [0, 0];
    const covariance = Array.from({ length: 9 }, () => 0);
    for (const [k, w] of weights.entries()) {
      const n = 8;
      const P = Float64Array.from({ length: n * n }, (_, q) => {
        const [i, j] = [Math.floor(q / n), q % n];
        return chances.reduce((s, c, m) => s + c * (scores[m]![k]![i]! * scores[m]![k]![j]!), i === j ? prior : 0);
      });
      const { logDet, solve } = cholesky(P, n);
      evidence += (n * Math.log(prior) - logDet) / 2;
      for (const v of await engine.read(w)) norm += v * v;
      for (let a = 0; a < 3; a++)
        for (let b = 0; b < 3; b++) covariance[a * 3 + b]! += [...solve(J[a]![k]!)].reduce((s, v, i) => s + v * J[b]![k]![i]!, 0);
    }
    expect(laplace.evidence(prior)).toBeCloseTo(evidence - (prior * norm) / 2, 9);
    const got = await laplace.predict(word, { prior, samples: 4000 });
    expect([apart(got.covariance[0]!, covariance), apart(got.logits, z)].every((d) => d < 1e-9)).toBe(true);
    expect([...got.probabilities].reduce((a, b) => a + b)).toBeCloseTo(1, 12);
    expect(Math.max(...got.probabilities)).toBeLessThan(Math.max(...chances)); // less sure than the trained model
    const sure = await laplace.predict(word, { prior: 1e12 });
    expect(apart(sure.probabilities, chances)).toBeLessThan(1e-4);
    const best = laplace.bestPrior();
    expect([0.98, 1.02].every((by) => laplace.evidence(best * by) < laplace.evidence(best))).toBe(true);
  });
  it('padding changes nothing, and batches add up', async () => {
    const ids = [3, 1, 4];
    const [plain, padded]: Batch[] = [
      { ids: leaf(ids, [1, 3]) },
      { ids: leaf([...ids, 0, 7], [1, 5]), keyMask: leaf([1, 1, 1, 0, 0], [1, 5]) },
    ];
    const of = async (...batches: Batch[]): Promise<number[]> =>
      flat([...(await curvatures(model, { engine, batches, logits })).values()].map(({ values }) => [...values]));
    const [a, b, twice] = [await of(plain!), await of(padded!), await of(plain!, padded!)];
    expect(apart(b, a)).toBeLessThan(1e-9);
    expect(
      apart(
        twice,
        a.map((v) => 2 * v),
      ),
    ).toBeLessThan(1e-9);
    expect(Math.max(...a)).toBeGreaterThan(1e-3);
  });
  it('refuses what has no LoRA, and logits of tokens', async () => {
    await expect(laplaceLora(base, { engine, batches: [word], logits })).rejects.toThrow(/no layer of this model has LoRA/);
    const tokens = (m: Model, b: Batch): Tensor => logits(m, b).reshape(1, 1, 3);
    await expect(laplaceLora(model, { engine, batches: [word], logits: tokens })).rejects.toThrow(
      /logits must be \[B, classes\], got \[1, 1, 3\]/,
    );
    await expect(laplaceLora(model, { engine, batches: [], logits })).rejects.toThrow(/it needs batches/);
  });
});
