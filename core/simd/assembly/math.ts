
// Functions of four floats at a time. Polynomials after the Cephes library's single-precision ones.

import { madd as fma } from './madd';

@inline function c(x: f32): v128 { return f32x4.splat(x); }

/**
 * eˣ: x = n·ln 2 + r, eˣ = 2ⁿ·eʳ. Adding 1.5·2²³ rounds to a whole number and leaves n in the low bits. Arguments are cut to
 * [−87.3, 88.4], so nothing overflows;
 * below that the answer is 0, not 1e−38, whose products are denormal and take a hundred times as long. pmin, pmax and andnot keep NaN.
 */
@inline export function exp4(x0: v128): v128 {
  const x = f32x4.pmin(f32x4.pmax(x0, c(-87.33654)), c(88.37626));
  const shifted = fma(x, c(1.44269504088896341), c(12582912));
  const n = f32x4.sub(shifted, c(12582912));
  const r = fma(n, c(2.12194440e-4), fma(n, c(-0.693359375), x));
  let p = fma(c(1.9875691500e-4), r, c(1.3981999507e-3));
  p = fma(p, r, c(8.3334519073e-3));
  p = fma(p, r, c(4.1665795894e-2));
  p = fma(p, r, c(1.6666665459e-1));
  p = fma(p, r, c(5.0000001201e-1));
  p = fma(f32x4.mul(r, r), p, f32x4.add(r, c(1)));
  const y = f32x4.mul(p, i32x4.add(i32x4.shl(shifted, 23), i32x4.splat(0x3f800000)));
  return v128.andnot(y, f32x4.lt(x0, c(-87.33654)));
}

/**
 * eˣ for x that is 0 or below but for rounding, in two thirds of the steps: x·log₂e = n + r with |r| ≤ ½, a polynomial for 2ʳ. What
 * would be below 2⁻¹²⁶ has n = −127, whose power is 0. NaN stays.
 */
@inline export function decay4(x0: v128): v128 {
  const x = f32x4.pmax(x0, c(-88));
  const shifted = fma(x, c(1.44269504088896341), c(12582912));
  const r = fma(x, c(1.44269504088896341), f32x4.sub(c(12582912), shifted));
  let p = fma(c(1.5337577497e-4), r, c(1.3399859890e-3));
  p = fma(p, r, c(9.6185198054e-3));
  p = fma(p, r, c(5.5503290147e-2));
  p = fma(p, r, c(2.4022646248e-1));
  p = fma(p, r, c(6.9314718246e-1));
  p = fma(p, r, c(1));
  return f32x4.mul(p, i32x4.add(i32x4.shl(shifted, 23), i32x4.splat(0x3f800000)));
}

/** log x for x > 0; −∞ at 0, NaN below, as Math.log. */
@inline export function log4(x: v128): v128 {
  const bits = v128.or(v128.and(x, i32x4.splat(0x007fffff)), i32x4.splat(0x3f000000)); // mantissa in [½, 1)
  let e = f32x4.convert_i32x4_s(i32x4.sub(i32x4.shr_u(x, 23), i32x4.splat(126)));
  const low = f32x4.lt(bits, c(0.707106781186547524));
  e = f32x4.sub(e, v128.and(low, c(1)));
  const m = f32x4.add(f32x4.sub(bits, c(1)), v128.and(low, bits));
  const z = f32x4.mul(m, m);
  let p = fma(c(7.0376836292e-2), m, c(-1.1514610310e-1));
  p = fma(p, m, c(1.1676998740e-1));
  p = fma(p, m, c(-1.2420140846e-1));
  p = fma(p, m, c(1.4249322787e-1));
  p = fma(p, m, c(-1.6668057665e-1));
  p = fma(p, m, c(2.0000714765e-1));
  p = fma(p, m, c(-2.4999993993e-1));
  p = fma(p, m, c(3.3333331174e-1));
  p = f32x4.mul(f32x4.mul(p, m), z);
  p = fma(e, c(-2.12194440e-4), p);
  p = f32x4.sub(p, f32x4.mul(z, c(0.5)));
  const y = fma(e, c(0.693359375), f32x4.add(m, p));
  const zero = v128.bitselect(c(-Infinity), y, f32x4.eq(x, c(0)));
  const negative = v128.bitselect(c(NaN), zero, f32x4.lt(x, c(0)));
  return v128.bitselect(x, negative, v128.or(f32x4.ne(x, x), f32x4.eq(x, c(Infinity))));
}

/** 1 / (1 + e^(−x)); exp4 does not overflow. */
@inline export function sigmoid4(x: v128): v128 {
  return f32x4.div(c(1), f32x4.add(c(1), exp4(f32x4.neg(x))));
}
/** 1 / (1 + 2ˢ): s = n + r with |r| ≤ ½, a polynomial for 2ʳ. s is cut to ±92, so nothing is denormal; NaN stays. */
@inline export function logistic2(s0: v128): v128 {
  const s = f32x4.pmin(f32x4.pmax(s0, c(-92)), c(92));
  const shifted = f32x4.add(s, c(12582912));
  const r = f32x4.sub(s, f32x4.sub(shifted, c(12582912)));
  let p = fma(c(1.5337577497e-4), r, c(1.3399859890e-3));
  p = fma(p, r, c(9.6185198054e-3));
  p = fma(p, r, c(5.5503290147e-2));
  p = fma(p, r, c(2.4022646248e-1));
  p = fma(p, r, c(6.9314718246e-1));
  p = fma(p, r, c(1));
  const power = i32x4.add(i32x4.shl(shifted, 23), i32x4.splat(0x3f800000));
  return f32x4.div(c(1), fma(p, power, c(1)));
}
/** Odd polynomial for small x, (1 − t)/(1 + t) with t = e^(−2|x|) beyond. */
@inline export function tanh4(x: v128): v128 {
  const a = f32x4.abs(x);
  const z = f32x4.mul(x, x);
  let p = fma(c(-5.70498872745e-3), z, c(2.06390887954e-2));
  p = fma(p, z, c(-5.37397155531e-2));
  p = fma(p, z, c(1.33314422036e-1));
  p = fma(p, z, c(-3.33332819422e-1));
  const small = fma(f32x4.mul(p, z), x, x);
  const t = exp4(f32x4.mul(a, c(-2)));
  const big = f32x4.div(f32x4.sub(c(1), t), f32x4.add(c(1), t));
  const signed = v128.or(big, v128.and(x, i32x4.splat(<i32>0x80000000)));
  return v128.bitselect(small, signed, f32x4.lt(a, c(0.625)));
}
/** Rational approximation on [−4, 4], ±1 beyond. */
@inline export function erf4(x0: v128): v128 {
  const x = f32x4.pmin(f32x4.pmax(x0, c(-4)), c(4));
  const z = f32x4.mul(x, x);
  let p = fma(c(-2.72614225801306e-10), z, c(2.77068142495902e-8));
  p = fma(p, z, c(-2.10102402082508e-6));
  p = fma(p, z, c(-5.69250639462346e-5));
  p = fma(p, z, c(-7.34990630326855e-4));
  p = fma(p, z, c(-2.95459980854025e-3));
  p = fma(p, z, c(-1.60960333262415e-2));
  let q = fma(c(-1.45660718464996e-5), z, c(-2.13374055278905e-4));
  q = fma(q, z, c(-1.68282697438203e-3));
  q = fma(q, z, c(-7.37332916720468e-3));
  q = fma(q, z, c(-1.42647390514189e-2));
  return f32x4.div(f32x4.mul(x, p), q);
}
/** sin (quarter = 0) or cos (quarter = 1) by reduction to [−π/4, π/4]. */
@inline export function sincos4(x: v128, quarter: i32): v128 {
  const n = f32x4.nearest(f32x4.mul(x, c(0.63661977236758134)));
  let r = f32x4.sub(x, f32x4.mul(n, c(1.5703125)));
  r = f32x4.sub(r, f32x4.mul(n, c(4.837512969970703125e-4)));
  r = f32x4.sub(r, f32x4.mul(n, c(7.549789954891882e-8)));
  const z = f32x4.mul(r, r);
  let s = fma(c(-1.9515295891e-4), z, c(8.3321608736e-3));
  s = fma(s, z, c(-1.6666654611e-1));
  s = fma(f32x4.mul(s, z), r, r);
  let o = fma(c(2.443315711809948e-5), z, c(-1.388731625493765e-3));
  o = fma(o, z, c(4.166664568298827e-2));
  o = fma(f32x4.mul(o, z), z, fma(z, c(-0.5), c(1)));
  const k = i32x4.add(i32x4.trunc_sat_f32x4_s(n), i32x4.splat(quarter));
  const odd = i32x4.eq(v128.and(k, i32x4.splat(1)), i32x4.splat(1));
  const flip = i32x4.shl(v128.and(k, i32x4.splat(2)), 30);
  return v128.xor(v128.bitselect(o, s, odd), flip);
}
