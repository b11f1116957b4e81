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
/** These look into each attention for q and v themselves. */
const OWN_PLACES = ['unipelt', 'xlora'];

describe('methods as they are when nobody chooses', () => {
  for (const m of methods)
    it(`${m.name}: what fits separate projections fits a fused one`, () => {
      const apart = places(() => m.standard(), separate);
      const together = places(() => m.standard(), fused);
      if (OWN_PLACES.includes(m.name)) expect(together).toMatch(/where 'q' matches no linear/);
      else if (typeof apart === 'string') expect(together).toEqual(expect.any(String));
      else expect(together).toEqual([...new Set(apart.map((path) => path.replace(/attn\.[qkv](?=\.|$)/, 'attn.qkv')))]);
    });
});

it('who names q gets q, or is refused: to adapt the keys too was not asked for', () => {
  expect(() => lora({ where: ['q', 'v'] })(fused)).toThrow(/where 'q' matches no linear of this model\. Nearest: .*qkv/);
  expect(places(() => lora({ where: 'v|qkv' }), fused)).toEqual(['trunk.blocks.0.attn.qkv', 'trunk.blocks.1.attn.qkv']);
  expect(places(() => lora({ where: ['q|qkv', 'o'] }), separate)).toEqual(places(() => lora({ where: ['q', 'o'] }), separate));
});
