// Reads the numbers that the Python scripts beside this file wrote.
import { readFileSync } from 'node:fs';
import { leaf, type Tensor } from '../../core/tensor.ts';

export interface Table {
  readonly shape: readonly number[];
  readonly data: readonly number[];
}
/** One fixture; T says what its script put in. */
export const fixture = <T>(name: string): T => JSON.parse(readFileSync(new URL(`fixtures/${name}.json`, import.meta.url), 'utf8')) as T;

/** Inputs and weights are written as the shortest text of a float32 number: rounding to float32 gives its exact value. */
export const tensor = ({ data, shape }: Table): Tensor => leaf(Float32Array.from(data), shape);
export const rows = (r: readonly (readonly number[])[]): Tensor => leaf(Float64Array.from(r.flat()), [r.length, r[0]!.length]);

/** The largest difference, each as a share of the wanted number where that is above 1. */
export function off(got: ArrayLike<number>, wanted: Table): number {
  if (got.length !== wanted.data.length) throw new Error(`${got.length} numbers, wanted ${wanted.data.length}`);
  return wanted.data.reduce((d, w, i) => {
    const e = Math.abs(got[i]! - w) / Math.max(1, Math.abs(w));
    return e > d || Number.isNaN(e) ? e : d;
  }, 0);
}
