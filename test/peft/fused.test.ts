// A network that computes queries, keys and values by one layer (GPT-2): there a method's own choice of q and v means that layer.
import { describe, expect, it } from 'vitest';
import { rng } from '../../core/rng.ts';
import { decoder, gpt2 } from '../../nn/decoder.ts';
import { freeze } from '../../nn/freeze.ts';
import type { Model } from '../../nn/layer.ts';
import { layers } from '../../nn/tree.ts';
import { methods } from '../../peft/all.ts';
import { lora } from '../../peft/reparameterized/lora.ts';

const network = (fusedQkv: boolean): Model =>
  freeze(decoder(gpt2({ vocabulary: 17, width: 64, layers: 2, heads: 2, positions: 128, fusedQkv }), rng(0)));
const [separate, fused] = [network(false), network(true)];
/** Where it attached, or why it did not. Methods that first look at weights or data are asked for nothing but their places. */
function places(make: () => (model: Model) => Model, model: Model): readonly string[] | string {
  try {
    return [...new Set([...layers(make()(model))].filter(({ layer }) => layer.attached !== null).map(({ path }) => path))];
  } catch (e) {
    const { message } = e as Error;
    return /needs numbers from the model|has to be computed/.test(message) ? [] : message;
  }
}
const names = (m: (typeof methods)[number]): boolean => m.standard().parts.some(({ config }) => String(config.where).includes('qkv'));
/** They decompose every matrix before they answer; their places are those of the others. */
const SLOW = ['pissa', 'loftq', 'osf'];

describe('methods as they are when nobody chooses', () => {
  const chosen = methods.filter((m) => names(m) && !SLOW.includes(m.name));
  it('most name q, k or v', () => expect(chosen.length).toBeGreaterThan(60));
  for (const m of chosen)
    it(`${m.name}: what fits separate projections fits a fused one`, () => {
      const apart = places(() => m.standard(), separate);
      const together = places(() => m.standard(), fused);
      if (typeof apart === 'string') expect(together).toEqual(expect.any(String));
      else expect(together).toEqual([...new Set(apart.map((path) => path.replace(/attn\.[qkv](?=\.|$)/, 'attn.qkv')))]);
    });
});

it('who names q gets q, or is refused: to adapt the keys too was not asked for', () => {
  expect(() => lora({ where: ['q', 'v'] })(fused)).toThrow(/where 'q' matches no linear of this model\. Nearest: .*qkv/);
  expect(places(() => lora({ where: 'v|qkv' }), fused)).toEqual(['trunk.blocks.0.attn.qkv', 'trunk.blocks.1.attn.qkv']);
  expect(places(() => lora({ where: ['q|qkv', 'o'] }), separate)).toEqual(places(() => lora({ where: ['q', 'o'] }), separate));
});
