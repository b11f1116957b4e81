// WaveFT: the update of a weight given by a few of its wavelet coefficients.
//   ΔW = s·R_out C R_inᵀ,   C zero except for n trained numbers at fixed random places,   R the one-level Haar synthesis:
//   its first half of columns are (1, 1)/√2 on a pair of neighbours, its second half (1, −1)/√2;   `haar: false` has R = I
// arXiv 2505.12532, as built in PEFT with its default wavelet (db1): places in the upper right of its table of coefficients are differences
// of rows, those in the lower left of columns. Taking x to pairs first, ΔW x costs n and neither C nor ΔW is written down.
import { gather, scatterAdd } from '../../core/ops/index.ts';
import { concat, pad, stack } from '../../core/ops/move.ts';
import { leaf, param, type Tensor } from '../../core/tensor.ts';
import { defineMethod } from '../attach.ts';
import { sample } from '../select.ts';
import { identity } from '../transforms.ts';

export interface WaveftConfig {
  readonly coefficients: number; // n
  readonly scaling: number; // s
  readonly haar: boolean;
}
type Waveft = { c: Tensor; row: Tensor; col: Tensor }; // [n] each; columns of R_out and R_in
const even = (n: number): number => n + (n % 2);

/** Rᵀ x: sums of neighbours, then differences. [.., n] → [.., even n] */
function analysed(x: Tensor): Tensor {
  const n = x.shape.at(-1)!;
  const pairs = pad(x, -1, 0, n % 2).reshape(...x.shape.slice(0, -1), even(n) / 2, 2);
  const [a, b] = [pairs.slice(-1, 0, 1), pairs.slice(-1, 1)];
  return concat([a.add(b), a.sub(b)], -2)
    .mul(Math.SQRT1_2)
    .reshape(...x.shape.slice(0, -1), even(n));
}
/** R y. [.., even n] → [.., n] */
function synthesised(y: Tensor, n: number): Tensor {
  const half = even(n) / 2;
  const [low, high] = [y.slice(-1, 0, half), y.slice(-1, half)];
  return stack([low.add(high), low.sub(high)], -1)
    .mul(Math.SQRT1_2)
    .reshape(...y.shape.slice(0, -1), even(n))
    .slice(-1, 0, n);
}
/** ΔW x for x [.., in]: [.., out] */
function change(x: Tensor, { c, row, col }: Waveft, { haar, scaling }: WaveftConfig, out: number): Tensor {
  const z = haar ? analysed(x) : x;
  const picked = gather(z.reshape(-1, z.shape.at(-1)!).T, col); // [n, N]
  const y = scatterAdd(row, picked.mul(c.mul(scaling).reshape(-1, 1)), haar ? even(out) : out).T.reshape(...x.shape.slice(0, -1), -1);
  return haar ? synthesised(y, out) : y;
}

/** Defaults as PEFT's: 2592 coefficients, s = 25, on q and v; zero at the start. Count: n; stored 3n, with the places. */
export const waveft = defineMethod<'linear', WaveftConfig, Waveft>({
  name: 'waveft',
  family: 'reparameterized',
  paper: 'arXiv:2505.12532',
  at: 'linear',
  defaults: { coefficients: 2592, scaling: 25, haar: true, where: ['q', 'v'] },
  check: ({ path, shape: [out, into] }, { coefficients: n }) => {
    if (!Number.isInteger(n) || n < 1 || n > out! * into!)
      throw new RangeError(`waveft: ${n} coefficients at ${path}: its table has ${out! * into!} places [${out}, ${into}]`);
  },
  init: ({ shape: [out, into] }, { coefficients: n, haar }, r) => {
    const [rows, cols] = [even(out!) / 2, even(into!) / 2];
    const places = sample(n, out! * into!, r).map((k) => {
      const [p, q] = [Math.floor(k / into!), k % into!];
      return haar ? [(p % rows) + (q < cols ? 0 : rows), (q % cols) + (p < rows ? 0 : cols)] : [p, q];
    });
    const along = (d: 0 | 1): Tensor =>
      leaf(
        Int32Array.from(places, (place) => place[d]!),
        [n],
      );
    return { train: { c: param(new Float32Array(n), [n]) }, fixed: { row: along(0), col: along(1) } };
  },
  around:
    (call, p, c, { shape: [out] }) =>
    (x, ctx) =>
      call(x, ctx).add(change(x, p, c, out!)),
  fold: ({ weight, bias }, p, c) => ({ weight: weight.add(change(identity(weight.shape[1]!), p, c, weight.shape[0]!).T), bias }),
  count: (sites, { coefficients }) => ({ train: sites.length * coefficients, stored: 3 * sites.length * coefficients }),
  startsAsBase: () => 'close', // adds an exact zero
});
