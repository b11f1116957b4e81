// Several LoRAs on one network, against Hugging Face PEFT: combined into one, serving rows of one batch, added up, and as Arrow's experts.
import { expect, test } from 'vitest';
import { float64 } from '../../core/engines/float64.ts';
import { leaf } from '../../core/tensor.ts';
import { context } from '../../nn/context.ts';
import { freeze, withValues } from '../../nn/freeze.ts';
import type { Model } from '../../nn/layer.ts';
import { tensors as tensorsOf, trainable } from '../../nn/tree.ts';
import { type Adapter, adapterOf, cat, linear, magnitudePrune, onChange, onFactors, ties, weightedSum } from '../../peft/arithmetic.ts';
import { product } from '../../peft/linalg.ts';
import { mixed } from '../../peft/mixed.ts';
import { arrowOf } from '../../peft/reparameterized/arrowOf.ts';
import { lora } from '../../peft/reparameterized/lora.ts';
import { atHand, type Where } from '../../peft/site.ts';
import { fixture, off, type Table } from './fixtures.ts';
import { parts } from './hfPeftCases.ts';
import { networks } from './networks.ts';

type Tables = Readonly<Record<string, Table>>;
const engine = float64();
const n = networks.llama;

/** Adapter a (α 3) or b (α 1) of a fixture, or one that is called default, on the network or on what is there. */
function attached(name: 'a' | 'b' | 'default', tensors: Tables, where: Where, base: Model = n.base): Model {
  const fresh = lora({ rank: 2, alpha: name === 'b' ? 1 : 3, where })(base);
  const numbers = (path: string): Float32Array => {
    const { site, name: factor } = parts(path);
    return Float32Array.from(tensors[`base_model.model.${n.moduleOf(site)}.lora_${factor}.${name}.weight`]!.data);
  };
  return withValues(fresh, new Map([...trainable(fresh)].map(([p, path]) => [p, numbers(path)])));
}

const combined = fixture<{ readonly cases: Readonly<Record<string, { tensors: Tables; A: Table; B: Table; scale: number }>> }>(
  'peft-arithmetic',
).cases;
const weights = [0.7, -1.3];
/** Ours, and whether A and B themselves are determined: of a singular value decomposition the product is. */
const kinds: Readonly<Record<string, { readonly make: (two: readonly Adapter[]) => Adapter; readonly factors: boolean }>> = {
  linear: { make: (two) => linear(two, weights), factors: true },
  cat: { make: (two) => cat(two, weights), factors: true },
  svd: { make: (two) => onChange(weightedSum, two, weights, { rank: 3 }), factors: false },
  magnitude_prune: { make: (two) => onFactors(magnitudePrune(0.4), two, weights), factors: true },
  ties: { make: (two) => onFactors(ties(0.6), two, weights), factors: true },
  'ties frequency': { make: (two) => onFactors(ties(0.6, 'frequency'), two, weights), factors: true },
  ties_svd: { make: (two) => onChange(ties(0.5), two, weights, { rank: 2 }), factors: false },
};
test.each(Object.keys(combined))('add_weighted_adapter: %s', (title) => {
  const { tensors, A, B, scale } = combined[title]!;
  const { make, factors } = kinds[title]!;
  const made = make((['a', 'b'] as const).map((name) => adapterOf(attached(name, tensors, 'blocks.0.attn.v'))));
  const { a, b, rank, scale: ours } = made.get('trunk.blocks.0.attn.v')!;
  expect([rank, ours]).toEqual([A.shape[0], scale]);
  const change = (x: ArrayLike<number>, y: ArrayLike<number>) => product(Float64Array.from(x), Float64Array.from(y), 8, rank, 16);
  expect(off(change(b, a), { shape: [8, 16], data: [...change(B.data, A.data)] })).toBeLessThan(1e-9);
  if (factors) for (const [x, y] of [[a, A] as const, [b, B] as const]) expect(off(x, y)).toBeLessThan(1e-9);
});

test('rows of one batch served by a, b or neither; both at once', async () => {
  const f = fixture<{ readonly cases: Readonly<Record<'b a' | 'a base' | 'both', Table>> & { readonly tensors: Tables } }>(
    'peft-mixed',
  ).cases;
  const where = ['v', 'down'];
  const [a, b] = (['a', 'b'] as const).map((name) => attached(name, f.tensors, where)) as [Model, Model];
  const logits = async (m: Model) => engine.read(m(n.batch, context(n.tokens)));
  const rows = (...which: number[]) => mixed([a, b, n.base], () => leaf(which, [2]));
  expect(off(await logits(rows(1, 0)), f['b a'])).toBeLessThan(1e-7);
  expect(off(await logits(rows(0, 2)), f['a base'])).toBeLessThan(1e-7);
  expect(off(await logits(attached('b', f.tensors, where, freeze(a))), f.both)).toBeLessThan(1e-7);
});

test("Arrow's experts without what two general LoRAs have in common (GenKnowSub): their directions, up to a sign, and what they answer", async () => {
  const f = fixture<{ readonly cases: { readonly general: { raw: Tables[]; logits: Table; prototypes: Tables } } }>('peft-variants').cases
    .general;
  const all = f.raw.map((tensors) => attached('default', tensors, ['v', 'down']));
  const model = arrowOf(all.slice(0, 3), { general: all.slice(3), topK: 2, temperature: 0.6 })(n.base);
  const apart = [...tensorsOf(model)].flatMap(({ path, tensor }) => {
    const site = /^(.*)\.arrow\.prototypes$/.exec(path)?.[1];
    if (site === undefined) return [];
    const theirs = f.prototypes[`base_model.model.${n.moduleOf(site)}.lora_arrow.arrow_router.prototypes`]!;
    const [ours, into] = [atHand(tensor)!, theirs.shape[1]!];
    return [0, 1, 2].map((e) => {
      const [x, y] = [ours.slice(e * into, (e + 1) * into), theirs.data.slice(e * into, (e + 1) * into)];
      const sign = Math.sign(y.reduce((sum, v, i) => sum + v * x[i]!, 0));
      return off(
        x.map((v) => v * sign),
        { shape: [into], data: y },
      );
    });
  });
  expect(apart.length).toBe(4 * 3);
  expect(Math.max(...apart)).toBeLessThan(1e-6); // theirs is iterated 15 times
  expect(off(await engine.read(model(n.batch, context(n.tokens))), f.logits)).toBeLessThan(1e-6);
});
