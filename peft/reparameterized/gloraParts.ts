// GLoRA's five parts and the forms they take: low-rank, a vector, one number, or none.
import type { Rng } from '../../core/rng.ts';
import { param, type Tensor } from '../../core/tensor.ts';
import type { Site } from '../site.ts';
import type { GloraConfig } from './glora.ts';

export type Form = 'lora' | 'vector' | 'constant' | 'none';
export const FORMS = ['lora', 'vector', 'constant', 'none'] as const;
export type Part = 'A' | 'B' | 'C' | 'D' | 'E';
export type Glora = Record<Part | `${Part}up`, Tensor>; // `up` is the second factor, where low-rank

/** The shape of each part as [rows, columns]. */
const shapes = ([out, into]: readonly number[]): Readonly<Record<Part, readonly [number, number]>> => ({
  A: [out!, into!],
  B: [out!, into!],
  C: [into!, 1],
  D: [out!, 1],
  E: [out!, 1],
});
/** Those that are there, with a bias or without. */
export const used = (biased: boolean): readonly Part[] => (biased ? ['A', 'B', 'C', 'D', 'E'] : ['A', 'B']);
/** The part itself. */
export const value = (p: Glora, c: GloraConfig, part: Part): Tensor => (c[part] === 'lora' ? p[part].matmul(p[`${part}up`]) : p[part]);
/** What it is trained as, 0 at the start; nothing for none. */
export function tensorsOf(part: Part, c: GloraConfig, shape: readonly number[], r: Rng): Partial<Glora> {
  const [rows, cols] = shapes(shape)[part];
  const form = c[part];
  if (form === 'none') return {};
  const n = form === 'lora' ? c.rank : 1;
  const first = param(new Float32Array((form === 'constant' ? 1 : rows) * n), [form === 'constant' ? 1 : rows, n]);
  const a = Math.sqrt(1 / cols);
  return form === 'lora' ? { [part]: first, [`${part}up`]: param(r.split(part).uniform(n * cols, -a, a), [n, cols]) } : { [part]: first };
}

/** How many numbers a layer trains. */
export const numbers = (site: Site<'linear'>, c: GloraConfig): number =>
  used(site.bias() !== null).reduce((n, part) => {
    const [rows, cols] = shapes(site.shape)[part];
    return n + { none: 0, constant: 1, vector: rows, lora: c.rank * (rows + cols) }[c[part]];
  }, 0);
