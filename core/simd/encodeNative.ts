// The instructions of the engine's own ops.
import type { Shape } from '../shape.ts';
import type { FlashAttrs, FlashBackAttrs } from './native.ts';
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

export const nativeCode: Readonly<Record<string, (out: Shape, ins: readonly Shape[], attrs: never) => Instructions>> = {
  flashAttention: (_out, _ins, a: FlashAttrs) => attention(code.ATTEND, a, OUT, 0, []),
  flashAttentionGrad: (_out, _ins, a: FlashBackAttrs) =>
    attention(code.ATTEND_BACK, a, operand(4), operand(5), [...a.dy, ...a.dq, ...a.dk, ...a.dv]),
};
