// What methods refuse, and the sentence they say: where it was, what was expected, what to do.
import { describe, expect, it } from 'vitest';
import { rng } from '../../core/rng.ts';
import { decoder, gpt2 } from '../../nn/decoder.ts';
import { freeze } from '../../nn/freeze.ts';
import { layers } from '../../nn/tree.ts';
import { promptTuning } from '../../peft/additive/promptTuning.ts';
import { methods } from '../../peft/all.ts';
import type { Transform } from '../../peft/method.ts';
import { lora } from '../../peft/reparameterized/lora.ts';
import type { Where } from '../../peft/site.ts';
import { gpt2Network, llamaNetwork, networks } from './models.ts';

const { base } = gpt2Network(1);

describe('where', () => {
  it('that matches nothing lists the nearest names and the sites there are', () => {
    expect(() => lora({ where: 'qq', rank: 2 })(base)).toThrow(
      /lora: where 'qq' matches no linear of this model\. Nearest: q\b.*trunk\.blocks\.0\.attn\.q/,
    );
    expect(() => lora({ where: ['q', 'dwon'], rank: 2 })(base)).toThrow(/'dwon' matches no linear.*Nearest: down/);
    expect(() => lora({ where: /conv/, rank: 2 })(base)).toThrow(/matches no linear/);
    expect(() => lora({ where: () => false, rank: 2 })(base)).toThrow(/matches no linear/);
  });
  for (const net of networks(1))
    for (const m of methods.filter((x) => x.placeable))
      it(`that matches nothing is refused by ${m.name} on ${net.name}`, () => {
        expect(() => m.tiny({ where: 'nothing-like-it' })(net.base)).toThrow(/matches no|no place/);
      });
  it('may be a name, a list, a whole path, a pattern or a function', () => {
    const sites = (options: { where: Where }): number =>
      [...layers(lora({ rank: 2, ...options })(base))].filter(({ layer }) => layer.attached !== null).length;
    expect(sites({ where: 'q' })).toBe(2);
    expect(sites({ where: ['q', 'v', 'mlp.down'] })).toBe(6);
    expect(sites({ where: 'trunk.blocks.1.attn.q' })).toBe(1);
    expect(sites({ where: /blocks\.1\..*(q|up)$/ })).toBe(2);
    expect(sites({ where: (p) => p.endsWith('.o') })).toBe(2);
  });
});

describe('rank', () => {
  for (const rank of [0, -1, 1.5, 9])
    it(`${rank} is refused`, () => {
      expect(() => lora({ rank, where: 'q' })(base)).toThrow(
        `lora: rank ${rank} at trunk.blocks.0.attn.q must be a whole number from 1 to 8, the smaller side of its weight [8, 8]`,
      );
    });
  it('is judged by the smaller side of each site', () => {
    expect(() => lora({ rank: 5, where: 'v' })(llamaNetwork(1).base)).toThrow(/from 1 to 4/); // one key head of width 4
    expect(() => lora({ rank: 4, where: 'v' })(llamaNetwork(1).base)).not.toThrow();
  });
});

describe('tied weights', () => {
  it('one side of a tied pair is refused, naming the other', () => {
    expect(() => lora({ rank: 2, where: 'head' })(base)).toThrow(/lora: head shares its weight with embed\.weight \(tied\).*untie/);
  });
  it('an untied head is accepted', () => {
    const untied = freeze(decoder(gpt2({ vocabulary: 11, width: 8, layers: 1, heads: 2, positions: 8, tied: false }), rng(1)));
    expect(() => lora({ rank: 2, where: 'head' })(untied)).not.toThrow();
  });
});

describe('methods that need numbers first', () => {
  const waiting: readonly Transform[] = [promptTuning({ length: 2, init: { ids: [1, 2] } })];
  it('say how to prepare them', () => {
    for (const m of waiting) expect(() => m(base), m.title).toThrow(/\.prepare\(model, \{ engine/);
  });
});
