// APrompt against its equation, on every network: rows in front of each block, and attention whose query-key prompts are a bias of the scores.
import { expect, test } from 'vitest';
import { float64 } from '../../core/engines/float64.ts';
import { attention, keyBias } from '../../core/ops/fused.ts';
import { concat } from '../../core/ops/move.ts';
import { leaf, type Tensor } from '../../core/tensor.ts';
import { context } from '../../nn/context.ts';
import { type Layer, layer, ofKind } from '../../nn/layer.ts';
import { substitute, tensors } from '../../nn/tree.ts';
import { aprompt } from '../../peft/additive/aprompt.ts';
import { asHeads } from '../../peft/additive/prefixAttention.ts';
import { promptTuning } from '../../peft/additive/promptTuning.ts';
import { gpt2Network, type Network, networks, numbersOf, perturb, TOKENS, WIDTH } from '../laws/models.ts';
import { apart, trained } from './naive.ts';

const engine = float64();
const [p, a, b] = [2, 3, 4];
const real = [5, 3]; // tokens of the two texts that are not padding

/** softmax(q [P_k; k]ᵀ/√D + R_q R_kᵀ/√D) [P_v; v], places counted from the first row that the block hears. */
function biased(own: ReadonlyMap<string, Tensor>, i: number): Layer<'attend'> {
  const get = (name: string): Tensor => own.get(`trunk.blocks.${i}.aprompt.${name}`)!;
  return layer('attend', {}, () => (q, k, v, ctx) => {
    const [, heads, t, d] = q.shape as readonly [number, number, number, number];
    const ofKeys = get('keyPlaces').slice(1, 0, b + t); // [Hk, b + n, a]
    const shared = heads / ofKeys.shape[0]!;
    const each = Array.from({ length: heads }, (_, h) =>
      get('queryPlaces')
        .slice(0, h, h + 1)
        .slice(1, 0, t)
        .matmul(ofKeys.slice(0, Math.floor(h / shared), Math.floor(h / shared) + 1).T),
    );
    const mask = concat([leaf(new Float32Array(2 * b).fill(1), [2, b]), ctx.keyMask!], 1);
    const bias = keyBias(mask).add(concat(each, 0).div(Math.sqrt(d)));
    return attention(q, concat([asHeads(get('keys'), k), k], 2), concat([asHeads(get('values'), v), v], 2), { causal: ctx.causal, bias });
  });
}

async function byHand(net: Network, own: ReadonlyMap<string, Tensor>): Promise<number[]> {
  const { trunk, head } = net.base.fields;
  const { blocks, norm } = ofKind(trunk, 'trunk').fields as unknown as { blocks: Layer<'block'>[]; norm: Layer<'norm'> | null };
  const seen: Tensor[] = [];
  substitute(net.base, 'block', (l) =>
    layer('block', {}, () => (h, c) => {
      seen.push(h);
      return l(h, c);
    }),
  )(net.batch, context(TOKENS));
  let h = seen[0]!;
  const mask = real.flatMap((n) => Array.from({ length: p + TOKENS }, (_, t) => (t < p + n ? 1 : 0)));
  const c = context(p + TOKENS, { causal: net.base.fields.causal === true, keyMask: leaf(mask, [2, p + TOKENS]) });
  for (const [i, block] of blocks.entries()) {
    const P = own.get(`trunk.blocks.${i}.aprompt.P`)!.reshape(1, p, WIDTH);
    h = substitute(block, 'attend', () => biased(own, i))(concat([concat([P, P], 0), h], 1), c).slice(1, p);
  }
  return [...(await engine.read(ofKind(head, 'linear')(norm === null ? h : norm(h, context(TOKENS)), context(TOKENS))))];
}

test('rows in front of each block, keys and values in front of its heads, and a bias for every pair of places', async () => {
  for (const net of networks(1)) {
    const model = perturb(aprompt({ length: p, queryKey: a, keyValue: b, tokens: TOKENS })(net.base), 2);
    const own = new Map([...tensors(model)].map((t) => [t.path, t.tensor]));
    expect(apart(await numbersOf(engine, net, model), await byHand(net, own)), net.name).toBeLessThan(1e-12);
    const flat = new Map([...own].map(([path, t]) => [path, path.includes('queryPlaces') ? t.mul(0) : t]));
    expect(apart(await numbersOf(engine, net, model), await byHand(net, flat)), net.name).toBeGreaterThan(1e-6);
  }
});

test('tables have places for the prompt and the longest text, and say when a text is longer', async () => {
  const net = gpt2Network(3);
  const model = aprompt({ length: p, queryKey: a, keyValue: b, tokens: TOKENS })(net.base);
  const [heads, n] = [2, p + TOKENS];
  expect(trained(model)).toBe(2 * (p * WIDTH + 2 * b * WIDTH + n * heads * a + (b + n) * heads * a));
  expect(() => promptTuning({ length: 1 })(model)(net.batch, context(TOKENS))).toThrow(
    /8 rows, but its tables have 7 places.*raise tokens/,
  );
  expect(() => aprompt({ queryKey: 0, length: p })(net.base)).toThrow(/queryKey 0/);
});
