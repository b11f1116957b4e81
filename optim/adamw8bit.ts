// AdamW with its two averages in eight bits: a byte per number, and one scale per block.
//   c = max |m| over 256 numbers,  q = nearest code of m / c in the dynamic map (signed for m, unsigned for v),  m̂ = c·map[q]
//   every step: unpack m̂ and v̂, AdamW's step in full precision, pack the new averages
// Dettmers et al. 2022, arXiv 2110.02861, §2. As in bitsandbytes: blocks of 256, parameters of fewer than 4096 numbers in 32 bits, and a
// negative m never rounds to 0.
import { type Codebook, codebook, dynamicValues, quantizeBlocks } from '../core/codebook.ts';
import type { AdamConfig } from './adam.ts';
import { adamw } from './adamw.ts';
import { asNumbers, type Codec, inMemory } from './keep.ts';
import type { Optimizer } from './optimizer.ts';

export interface EightBits {
  /** Numbers that share a scale: 256. */
  readonly block: number;
  /** Parameters of fewer numbers keep their states in 32 bits: 4096. */
  readonly minSize: number;
}

/** States in eight bits; those in `positive` are never negative. Throws on NaN and infinities. */
export function eightBits({ block, minSize }: EightBits, positive: ReadonlySet<string>): Codec {
  const [signed, unsigned] = [codebook(dynamicValues(true)), codebook(dynamicValues(false))];
  const book = (state: string): Codebook => (positive.has(state) ? unsigned : signed);
  return {
    encode: (x, state) => {
      if (x.length < minSize) return asNumbers.encode(x, state);
      const b = book(state);
      const { codes, scales } = quantizeBlocks(x, block, b, `eightBits: ${state}`);
      if (b === signed)
        for (let i = 0; i < codes.length; i++)
          if (x[i]! < 0 !== b.values[codes[i]!]! < 0 && scales[Math.floor(i / block)]! > 0) codes[i]! += x[i]! < 0 ? -1 : 1;
      return { codes, scales };
    },
    decode: (pieces, state) => {
      const { codes, scales } = pieces;
      if (codes === undefined || scales === undefined) return asNumbers.decode(pieces, state);
      const { values } = book(state);
      return Float32Array.from(codes, (q, i) => values[q]! * scales[Math.floor(i / block)]!);
    },
  };
}

/** AdamW's defaults; block 256, minSize 4096. The states are two bytes per trained number and eight per block, instead of eight bytes per number. */
export function adamw8bit({ block = 256, minSize = 4096, ...options }: Partial<AdamConfig & EightBits> = {}): Optimizer {
  for (const [what, n] of Object.entries({ block, minSize }))
    if (!(Number.isInteger(n) && n >= (what === 'block' ? 1 : 0)))
      throw new RangeError(`adamw8bit: ${what} must be a whole number${what === 'block' ? ' from 1' : ', 0 or more'}, got ${n}`);
  const plain = adamw(options);
  return {
    ...plain,
    name: 'adamw8bit',
    config: { ...plain.config, block, minSize },
    keep: { codec: eightBits({ block, minSize }, new Set(['v'])), open: inMemory },
  };
}
