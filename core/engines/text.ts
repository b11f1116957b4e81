// Runs a kernel's text as plain JavaScript: the float64 engine's way, and the simd engine's for ops it has no kernel for.

import type { Data } from '../tensor.ts';

type Floats = Float32Array | Float64Array;
/** Fills `out`, a table of rows × cols, from operands given as lists of rows: `a[row][col]`. */
export type Compiled = (out: Floats, rows: number, cols: number, ...args: (readonly Floats[])[]) => void;

/** A gpu.js kernel's text as a loop over its table. */
export function compileText(text: string, helpers: readonly string[]): Compiled {
  const [, names, body] = /^function \((.*?)\) \{([\s\S]*)\}$/.exec(text) ?? [];
  if (names === undefined || body === undefined) throw new Error(`not a kernel:\n${text}`);
  const element = body.replaceAll('this.thread.x', 'X').replaceAll('this.thread.y', 'Y');
  return new Function(
    'out',
    'rows',
    'cols',
    ...names.split(', ').filter(Boolean),
    `${helpers.join('\n')}
const element = (X, Y) => {${element}};
for (let y = 0, k = 0; y < rows; y++) for (let x = 0; x < cols; x++) out[k++] = element(x, y);`,
  ) as Compiled;
}

/** Numbers by their bytes. */
export const bytesOf = (d: Data): Uint8Array => new Uint8Array(d.buffer, d.byteOffset, d.byteLength);

/**
 * A table of bytes for engines whose numbers are float32: three bytes to a number, the first one highest, every row padded to whole numbers.
 * Whole numbers below 2²⁴ are exact.
 */
export function threeInOne(data: Data, rows: number, cols: number): Float32Array {
  const bytes = bytesOf(data);
  const per = Math.ceil(cols / 3);
  const out = new Float32Array(rows * per);
  for (let r = 0; r < rows; r++) {
    const [from, end] = [r * cols, (r + 1) * cols];
    for (let k = 0; k < per; k++) {
      const i = from + 3 * k;
      out[r * per + k] = bytes[i]! * 65536 + (i + 1 < end ? bytes[i + 1]! : 0) * 256 + (i + 2 < end ? bytes[i + 2]! : 0);
    }
  }
  return out;
}
