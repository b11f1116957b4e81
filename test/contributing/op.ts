// softsign(x) = x / (1 + |x|), and the case that lets the laws judge it.
import { defineOp, type Op } from '../../core/op.ts';
import { abs, add, div, mul, square } from '../../core/ops/map.ts';
import type { Tensor } from '../../core/tensor.ts';
import { awayFromZero, type Case, instance, operand, seeds, shapes } from '../laws/arbitraries.ts';
import { elementwise } from '../laws/naive.ts';

const softsignOp: Op<'x', null> = defineOp<'x'>({
  name: 'softsign',
  inputs: ['x'],
  shape: ({ x }) => x, // the result's shape; throw a ShapeError when the operands do not fit
  kernel: { kind: 'map', expr: 'x / (1.0 + Math.abs(x))' }, // this text is the op, on every engine
  vjp: ({ x, dy }) => ({ x: () => div(dy, square(add(1, abs(x)))) }), // d = 1 / (1 + |x|)²
  flops: ({ x }) => 3 * x.reduce((a, b) => a * b, 1),
});
/** x / (1 + |x|): like tanh, with slower tails (Bergstra et al. 2009). */
export const softsign = (x: Tensor): Tensor => softsignOp({ x }, null);

export const softsignCase: Case = {
  name: 'softsign',
  of: shapes.chain((shape) =>
    seeds.map((seed) =>
      instance({
        operands: [operand(shape, awayFromZero(0.1), seed)], // |x| has no derivative at 0
        apply: ([x]) => softsign(x!),
        naive: ([x]) => elementwise((v) => v / (1 + Math.abs(v)), x!), // written from the definition, not from the kernel
        depth: 2, // roundings on the way to one number
      }),
    ),
  ),
};

/** The same op made of others: no kernel and no derivative to write, but more numbers kept for backward. */
export const composedSoftsign = (x: Tensor): Tensor => mul(x, div(1, add(1, abs(x))));
