// The instructions of the engine's own ops.
import { type Shape, table } from '../shape.ts';
import { type FlashAttrs, type FlashBackAttrs, GAIN_ROWS } from './native.ts';
import * as code from './opcodes.ts';
import { type Instructions, instruction, OUT, operand, type Word } from './words.ts';

const NOWHERE = [0, 0, 0, 0];

function attention(op: number, a: FlashAttrs, o: Word, dy: Word, back: readonly number[]): Instructions {
  const { B, H, Hk, T, S, D, Dv } = a;
  return [
    instruction(
      op,
      ...[OUT, operand(0), operand(1), operand(2), a.bias === null ? 0 : operand(3), o, dy, o],
      ...[B, H, Hk, T, S, D, Dv, a.causal ? 1 : 0, { float: a.scale }],
      ...[...a.q, ...a.k, ...a.v, ...(a.bias ?? NOWHERE)],
      ...[0, T * H * Dv, Dv, H * Dv, B * T * H * Dv], // the result by time, then log Σ exp
      ...back,
    ),
  ];
}

const norm =
  (op: number, operands: readonly Word[], centre: boolean, ...more: readonly number[]) =>
  (_out: Shape, [x]: readonly Shape[], { eps }: { eps: number }): Instructions => [
    instruction(op, OUT, ...operands, table(x!).rows, table(x!).cols, { float: eps }, centre ? 1 : 0, ...more),
  ];
const [x, y, z] = [operand(0), operand(1), operand(2)];

export const nativeCode: Readonly<Record<string, (out: Shape, ins: readonly Shape[], attrs: never) => Instructions>> = {
  flashAttention: (_out, _ins, a: FlashAttrs) => attention(code.ATTEND, a, OUT, 0, []),
  flashAttentionGrad: (_out, _ins, a: FlashBackAttrs) =>
    attention(code.ATTEND_BACK, a, operand(4), operand(5), [...a.dy, ...a.dq, ...a.dk, ...a.dv]),
  softmax: (out) => [instruction(code.SOFTMAX, OUT, x, table(out).rows, table(out).cols)],
  softmaxGrad: (out) => [instruction(code.SOFTMAX_BACK, OUT, x, y, table(out).rows, table(out).cols)],
  layerNorm: norm(code.NORM, [x, y, z], true),
  layerNormGrad: norm(code.NORM_BACK, [x, y, z], true),
  layerNormGain: norm(code.NORM_GAIN, [x, y], true, GAIN_ROWS),
  rmsNorm: norm(code.NORM, [x, y, 0], false),
  rmsNormGrad: norm(code.NORM_BACK, [x, y, z], false),
  rmsNormGain: norm(code.NORM_GAIN, [x, y], false, GAIN_ROWS),
};
