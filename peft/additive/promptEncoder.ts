// The prompt encoders of P-tuning: a network that makes the prompt's rows from embeddings of their own while they are trained.
//   MLP:   P = W₃ relu(W₂ relu(W₁ E + b₁) + b₂) + b₃
//   LSTM:  P = W₂ relu(W₁ [h→; h←] + b₁) + b₂ over n layers in both directions; gates i, f, g, o of z = W_x x + b_x + W_h h + b_h:
//          c ← σ(f) c + σ(i) tanh(g),   h = σ(o) tanh(c)
import { relu } from '../../core/ops/map.ts';
import { concat } from '../../core/ops/move.ts';
import type { Rng } from '../../core/rng.ts';
import { param, type Tensor } from '../../core/tensor.ts';
import { lstm, lstmShapes, lstmSize } from './lstm.ts';

export interface EncoderConfig {
  readonly length: number; // p
  readonly encoder: 'mlp' | 'lstm';
  readonly hidden: number | null; // h; null: the width d for the MLP, d/2 for each direction of the LSTM
  readonly layers: number; // of the LSTM
}
export const ENCODER = { encoder: ['mlp', 'lstm'], hidden: [null, Number] } as const;

/** E [p, d]; weights and biases in order: of the linear layers, and Wx, Wh, bx, bh for each layer and direction. Or P alone, finished. */
export type Encoder =
  | { readonly P: Tensor }
  | { readonly E: Tensor; readonly W: readonly Tensor[]; readonly b: readonly Tensor[]; readonly lstm: readonly Tensor[] };

/** The rows P [p, d] that the encoder makes. */
export function encoded(t: Encoder): Tensor {
  if ('P' in t) return t.P;
  let x = t.E;
  for (let k = 0; k < t.lstm.length; k += 8)
    x = concat([lstm(x, t.lstm.slice(k, k + 4), false), lstm(x, t.lstm.slice(k + 4, k + 8), true)], 1);
  return t.W.reduce((y, w, k) => (k === 0 ? y : relu(y)).matmul(w.T).add(t.b[k]!), x);
}

/** Widths from layer to layer of the linear part, [from, to] each, and of the LSTM layers' inputs. */
function sizes(c: EncoderConfig, d: number): { linear: [from: number, to: number][]; lstm: number[]; h: number } {
  const h = c.hidden ?? (c.encoder === 'mlp' ? d : d / 2);
  const widths = c.encoder === 'mlp' ? [d, h, h, d] : [2 * h, 2 * h, d];
  return {
    linear: widths.slice(1).map((to, k) => [widths[k]!, to]),
    lstm: c.encoder === 'mlp' ? [] : Array.from({ length: c.layers }, (_, k) => (k === 0 ? d : 2 * h)),
    h,
  };
}

/** E ~ N(0, 1); linear layers U(±1/√in), the LSTM U(±1/√h), as PyTorch has them. */
export function newEncoder(c: EncoderConfig, d: number, r: Rng): Exclude<Encoder, { P: Tensor }> {
  const { linear, lstm, h } = sizes(c, d);
  const draw = (name: string, shape: readonly number[], bound: number): Tensor =>
    param(
      r.split(name).uniform(
        shape.reduce((a, n) => a * n, 1),
        -bound,
        bound,
      ),
      shape,
      { decay: shape.length > 1 },
    );
  return {
    E: param(r.split('E').normal(c.length * d), [c.length, d]),
    W: linear.map(([from, to], k) => draw(`W${k}`, [to, from], 1 / Math.sqrt(from))),
    b: linear.map(([from, to], k) => draw(`b${k}`, [to], 1 / Math.sqrt(from))),
    lstm: lstm.flatMap((from, k) =>
      ['forward', 'backward'].flatMap((way) => lstmShapes(from, h).map(([n, shape]) => draw(`${n} ${k} ${way}`, shape, 1 / Math.sqrt(h)))),
    ),
  };
}

/** Count: pd, Σ (in + 1)·out of the linear layers, and 2·4h(in + h + 2) for each LSTM layer. */
export function encoderSize(c: EncoderConfig, d: number): number {
  const { linear, lstm, h } = sizes(c, d);
  return c.length * d + linear.reduce((n, [from, to]) => n + (from + 1) * to, 0) + lstm.reduce((n, from) => n + 2 * lstmSize(from, h), 0);
}
