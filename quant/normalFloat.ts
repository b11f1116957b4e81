// NormalFloat of two, four or eight bits: codes for quantiles of N(0, 1) over their largest, 0 among them.
//   2ᵇ⁻¹ quantiles from 1 − o to ½ and 2ᵇ⁻¹ + 1 from ½ to o, the ½ of both being one;   o = 0.9677083;   values Φ⁻¹(p)/Φ⁻¹(o)
// What NF4 is for four bits, for any number of them: Guo et al. 2023 (LQ-LoRA), arXiv 2311.12023, §3, as in the authors' code. Their NF3 has no
// place here: packed codes are 2, 4 or 8 bits.
import { codebook } from '../core/codebook.ts';
import { normalQuantile } from '../core/normal.ts';
import type { Tensor } from '../core/tensor.ts';
import { float32Scales, type ScaleStore, tableScheme } from './nf4.ts';
import type { Scheme } from './quantize.ts';

const OFFSET = 0.9677083;
/** The 2ᵇ values, ascending from −1 to 1. */
export function normalFloatValues(bits: 2 | 4 | 8): number[] {
  const half = 2 ** (bits - 1);
  const left = Array.from({ length: half - 1 }, (_, k) => 1 - OFFSET + ((OFFSET - 0.5) * k) / (half - 1));
  const right = Array.from({ length: half }, (_, k) => 0.5 + ((OFFSET - 0.5) * (k + 1)) / half);
  const value = (p: number): number => normalQuantile(p) / normalQuantile(OFFSET);
  return [...left.map(value), 0, ...right.map(value)];
}

interface NormalFloatOptions<S extends { readonly [name: string]: Tensor }> {
  readonly bits: 2 | 4 | 8;
  /** Consecutive weights that share a scale: 64. */
  readonly block?: number;
  /** How scales are kept: `doubleQuant()`, or float32 when left out. */
  readonly scales?: ScaleStore<S>;
}
/** As a scheme for `quantize`: b + 32/block bits per weight, or about b + 8/block with `scales: doubleQuant()`. */
export function normalFloat<S extends { readonly [name: string]: Tensor }>({ bits, block = 64, scales }: NormalFloatOptions<S>): Scheme {
  const book = codebook(normalFloatValues(bits));
  const name = `nf${bits} in blocks of ${block}`;
  return scales === undefined ? tableScheme(name, book, bits, block, float32Scales) : tableScheme(name, book, bits, block, scales);
}
