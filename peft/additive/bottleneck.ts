// The small network inside every adapter: W_up σ(W_down x + b_down) + b_up, with W_down [m, d] and W_up [d, m].
import type { Rng } from '../../core/rng.ts';
import { param, type Tensor } from '../../core/tensor.ts';
import { ACTIVATIONS, type Activation, activations } from '../../nn/mlp.ts';
import { wholeNumber } from '../check.ts';

export type Bottleneck = { readonly down: Tensor; readonly downBias: Tensor; readonly up: Tensor; readonly upBias: Tensor };

export interface BottleneckConfig {
  readonly bottleneck: number | null; // m; null: m = ⌊d / reduction⌋, at least 1
  readonly reduction: number;
  readonly activation: Activation; // σ
}
/** What the two options take that are not just numbers. */
export const TAKES = { bottleneck: [null, Number], activation: ACTIVATIONS } as const;

/**
 * How the two matrices start; biases always start at 0.
 * `bert`: N(0, 0.02²). `houlsby`: normal with std 0.01, redrawn beyond two of it (the paper); a number: the same with that std
 * (0.001 in Houlsby's released code).
 * `zero`: W_down ~ U(±1/√d), W_up = 0, so that a fresh adapter adds nothing.
 */
export type BottleneckInit = 'bert' | 'houlsby' | 'zero' | number;
export interface AdapterConfig extends BottleneckConfig {
  readonly init: BottleneckInit;
}
export const ADAPTER = { ...TAKES, init: ['bert', 'houlsby', 'zero', Number] } as const;

/** m for a layer of width d. */
export const widthOf = (c: BottleneckConfig, d: number): number => c.bottleneck ?? Math.max(1, Math.floor(d / c.reduction));

/** 2md + m + d */
export const sizeOf = (c: BottleneckConfig, d: number): number => 2 * widthOf(c, d) * d + widthOf(c, d) + d;

/** Throws unless m is a whole number ≥ 1 and the adapter can learn from where it starts. */
export function checkBottleneck(method: string, c: AdapterConfig): void {
  if (typeof c.init === 'number' && !(c.init > 0))
    throw new RangeError(
      `${method}: init ${c.init} is a standard deviation and must be more than 0; 'zero' starts as the base and still learns`,
    );
  if (c.bottleneck !== null) wholeNumber(method, 'bottleneck', c.bottleneck);
  else if (!(c.reduction > 0))
    throw new RangeError(`${method}: reduction ${c.reduction} must be more than 0 (16 makes the bottleneck a sixteenth of the width)`);
}

/** Several as lists. */
export const listOf = (all: readonly Bottleneck[]): { readonly [K in keyof Bottleneck]: readonly Tensor[] } => ({
  down: all.map((a) => a.down),
  downBias: all.map((a) => a.downBias),
  up: all.map((a) => a.up),
  upBias: all.map((a) => a.upBias),
});

/** W_up σ(W_down x + b_down) + b_up.  x [B, T, d] → [B, T, d] */
export const throughBottleneck = (x: Tensor, p: Bottleneck, activation: Activation): Tensor =>
  activations[activation](x.matmul(p.down.T).add(p.downBias)).matmul(p.up.T).add(p.upBias);

/** The same through the k-th of several. */
export const throughKth = (x: Tensor, p: ReturnType<typeof listOf>, k: number, activation: Activation): Tensor =>
  throughBottleneck(x, { down: p.down[k]!, downBias: p.downBias[k]!, up: p.up[k]!, upBias: p.upBias[k]! }, activation);

export function newBottleneck(c: BottleneckConfig, d: number, init: BottleneckInit, r: Rng): Bottleneck {
  const m = widthOf(c, d);
  const numbers = (name: string): Float32Array =>
    init === 'bert' ? r.split(name).normal(m * d, 0.02) : truncatedNormal(r.split(name), m * d, typeof init === 'number' ? init : 0.01);
  const zero = init === 'zero';
  return {
    down: param(zero ? r.split('down').uniform(m * d, -1 / Math.sqrt(d), 1 / Math.sqrt(d)) : numbers('down'), [m, d]),
    downBias: param(new Float32Array(m), [m], { decay: false }),
    up: param(zero ? new Float32Array(d * m) : numbers('up'), [d, m]),
    upBias: param(new Float32Array(d), [d], { decay: false }),
  };
}

/** N(0, std²), redrawn where it falls beyond 2·std. */
export function truncatedNormal(r: Rng, n: number, std: number): Float32Array {
  const draw = (): number => {
    for (;;) {
      const [v] = r.normal(1, std);
      if (Math.abs(v!) <= 2 * std) return v!;
    }
  };
  return Float32Array.from({ length: n }, draw);
}
