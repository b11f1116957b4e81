// FourierFT: the update of a weight given by a few coefficients of its two-dimensional spectrum.
//   ΔW = α·Re(ifft2(F)),   F zero except for n trained numbers c_l at fixed random frequencies (u_l, v_l)
//   ΔW_jk = α/(out·in)·Σ_l c_l cos(2π(j u_l/out + k v_l/in))
// Gao et al. 2024, arXiv 2405.03003, §3. cos(a + b) = cos a cos b − sin a sin b, so that ΔW x is two products through n
// numbers, as in LoRA, and neither the spectrum nor ΔW is written down.
import { iota } from '../../core/ops/index.ts';
import { cos, floor, sin } from '../../core/ops/map.ts';
import { leaf, param, type Tensor } from '../../core/tensor.ts';
import { defineMethod } from '../attach.ts';
import { sample } from '../select.ts';

export interface FourierConfig {
  readonly coefficients: number; // n
  readonly scaling: number; // α; the paper takes 100 to 300
  readonly init: 'normal' | 'zero';
}
type Fourier = { c: Tensor; u: Tensor; v: Tensor }; // [n] each

/** x mod n for whole numbers, exact in float32 where x < 2²⁴. */
const modulo = (x: Tensor, n: number): Tensor => x.sub(floor(x.add(0.5).mul(1 / n)).mul(n));
/** 2π·(j·u mod n)/n for j = 0 … n − 1: [n, coefficients]. u is taken in two parts, so that no product exceeds 2²⁴ for n < 2¹⁵. */
export function angles(n: number, u: Tensor): Tensor {
  const j = iota(n).reshape(n, 1);
  const high = floor(u.mul(1 / 64));
  const low = u.sub(high.mul(64));
  return modulo(modulo(j.mul(high), n).mul(64).add(j.mul(low)), n).mul((2 * Math.PI) / n);
}

/**
 * Defaults as PEFT's: 1000 coefficients from N(0, 1), α = 150, on q and v; that start is not the base: ΔW has deviation
 * α√n/(√2·out·in). `init: 'zero'` starts as the base. Count: n trained for each weight; stored 3n, with the frequencies.
 */
export const fourierft = defineMethod<'linear', FourierConfig, Fourier>({
  name: 'fourierft',
  family: 'reparameterized',
  paper: 'arXiv:2405.03003',
  at: 'linear',
  defaults: { coefficients: 1000, scaling: 150, init: 'normal', where: ['q', 'v'] },
  takes: { init: ['normal', 'zero'] },
  check: ({ path, shape: [out, into] }, { coefficients: n }) => {
    if (!Number.isInteger(n) || n < 1 || n > out! * into!)
      throw new RangeError(`fourierft: ${n} coefficients at ${path}: its spectrum has ${out! * into!} places [${out}, ${into}]`);
  },
  init: ({ shape: [out, into] }, { coefficients: n, init }, r) => {
    const places = sample(n, out! * into!, r.split('places'));
    return {
      train: { c: param(init === 'zero' ? new Float32Array(n) : r.split('c').normal(n), [n]) },
      fixed: {
        u: leaf(
          places.map((p) => Math.floor(p / into!)),
          [n],
        ),
        v: leaf(
          places.map((p) => p % into!),
          [n],
        ),
      },
    };
  },
  around:
    (call, { c, u, v }, { scaling }, { shape: [out, into] }) =>
    (x, ctx) => {
      const [a, b] = [angles(out!, u), angles(into!, v)]; // [out, n], [in, n]
      const s = c.mul(scaling / (out! * into!));
      const y = x.matmul(cos(b)).mul(s).matmul(cos(a).T);
      return call(x, ctx).add(y.sub(x.matmul(sin(b)).mul(s).matmul(sin(a).T)));
    },
  fold: ({ weight, bias }, { c, u, v }, { scaling }) => {
    const [out, into] = weight.shape as [number, number];
    const [a, b] = [angles(out, u), angles(into, v)];
    const s = c.mul(scaling / (out * into));
    return { weight: weight.add(cos(a).mul(s).matmul(cos(b).T)).sub(sin(a).mul(s).matmul(sin(b).T)), bias };
  },
  count: (sites, { coefficients }) => ({ train: sites.length * coefficients, stored: 3 * sites.length * coefficients }),
  startsAsBase: ({ init }) => (init === 'zero' ? 'close' : 'no'),
});
