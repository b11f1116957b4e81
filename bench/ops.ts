// Single ops at the sizes of workload W2, for npm run bench: forward, and forward with backward where it is not a product.
import { grad } from '../core/grad.ts';
import { attention, crossEntropy, layerNorm, rmsNorm, softmax } from '../core/ops/fused.ts';
import { gather, scatterAdd } from '../core/ops/index.ts';
import { add, gelu, geluTanh, silu } from '../core/ops/map.ts';
import { matmul } from '../core/ops/matmul.ts';
import { permute } from '../core/ops/move.ts';
import { sum } from '../core/ops/reduce.ts';
import { leaf, param, paramOf, type Tensor } from '../core/tensor.ts';
import { adamw } from '../optim/adamw.ts';
import { numbers } from './workloads.ts';

export interface Case {
  readonly name: string;
  readonly shape: string;
  /** What is computed. Made when it is measured, so that only one case's numbers are held. */
  readonly make: () => readonly Tensor[];
}

const ROWS = 1024; // 8 texts of 128 tokens
const WIDTH = 256;
const HIDDEN = 1024;
const WORDS = 512;

const frozen = (...shape: number[]): Tensor =>
  leaf(
    numbers(
      shape.reduce((a, b) => a * b, 1),
      shape.length,
    ),
    shape,
  );
const trained = (...shape: number[]): Tensor =>
  param(
    numbers(
      shape.reduce((a, b) => a * b, 1),
      shape.length + 10,
    ),
    shape,
  );
const ids = (below: number, ...shape: number[]): Tensor =>
  leaf(
    Int32Array.from({ length: shape.reduce((a, b) => a * b, 1) }, (_, i) => (i * 7919) % below),
    shape,
  );

const product = (m: number, k: number, n: number, ta: boolean, tb: boolean): Case => ({
  name: `matmul ${ta ? 'aᵀ' : 'a'}${tb ? 'bᵀ' : 'b'}`,
  shape: `${m}×${k}×${n}`,
  make: () => [matmul(ta ? frozen(k, m).T : frozen(m, k), tb ? trained(n, k).T : trained(k, n))],
});
/** An op forward, and its gradients together with it. `of` answers the result and what to differentiate. */
const both = (name: string, shape: string, of: () => { y: Tensor; wrt: readonly Tensor[] }): Case[] => [
  { name, shape, make: () => [of().y] },
  {
    name: `${name}, and backward`,
    shape,
    make: () => {
      const { y, wrt } = of();
      return [y, ...grad(sum(y.mul(frozen(...y.shape))), wrt)];
    },
  },
];
const unary = (name: string, f: (x: Tensor) => Tensor, ...shape: number[]): Case[] =>
  both(name, shape.join('×'), () => {
    const x = trained(...shape);
    return { y: f(x), wrt: [x] };
  });

const update: Case = {
  name: 'adamw update',
  shape: `${WIDTH}×${3 * HIDDEN}`,
  make: () => {
    const [value, grad] = [trained(WIDTH, 3 * HIDDEN), frozen(WIDTH, 3 * HIDDEN)];
    const optimizer = adamw();
    const state = optimizer.init(paramOf(value)!);
    const fed = Object.fromEntries(
      Object.entries(optimizer.numbers({ step: 1, lr: 1e-3, decay: 0.01 })).map(([k, v]) => [k, leaf(Float32Array.of(v), [])]),
    );
    const next = optimizer.update({ value, grad, state, numbers: fed });
    return [next.value, ...Object.values(next.state)];
  },
};

export const cases: readonly Case[] = [
  ...[
    [ROWS, WIDTH, 3 * WIDTH],
    [512, 512, 512],
    [1024, 1024, 1024],
  ].flatMap(([m, k, n]) => [false, true].flatMap((ta) => [false, true].map((tb) => product(m!, k!, n!, ta, tb)))),
  { name: 'batched matmul abᵀ', shape: '8×4×128×64×128', make: () => [matmul(trained(8, 4, 128, 64), frozen(8, 4, 128, 64).T)] },
  ...unary('softmax', softmax, ROWS, WORDS),
  ...both('layer norm', `${ROWS}×${WIDTH}`, () => {
    const [x, g, b] = [trained(ROWS, WIDTH), trained(WIDTH), trained(WIDTH)];
    return { y: layerNorm(x, g, b), wrt: [x, g, b] };
  }),
  ...both('rms norm', `${ROWS}×${WIDTH}`, () => {
    const [x, g] = [trained(ROWS, WIDTH), trained(WIDTH)];
    return { y: rmsNorm(x, g), wrt: [x, g] };
  }),
  ...both('causal attention', '8×4×128×64', () => {
    const [q, k, v] = [trained(8, 4, 128, 64), trained(8, 4, 128, 64), trained(8, 4, 128, 64)];
    return { y: attention(q, k, v, { causal: true }), wrt: [q, k, v] };
  }),
  ...unary('gelu', gelu, ROWS, HIDDEN),
  ...unary('gelu (tanh)', geluTanh, ROWS, HIDDEN),
  ...unary('silu', silu, ROWS, HIDDEN),
  ...both('cross-entropy', `${ROWS}×${WORDS}`, () => {
    const x = trained(ROWS, WORDS);
    return { y: crossEntropy(x, ids(WORDS, ROWS)), wrt: [x] };
  }),
  { name: 'add a bias', shape: `${ROWS}×${HIDDEN}`, make: () => [add(trained(ROWS, HIDDEN), frozen(HIDDEN))] },
  { name: 'sum over rows', shape: `${ROWS}×${HIDDEN}`, make: () => [sum(trained(ROWS, HIDDEN), [0])] },
  { name: 'split heads', shape: '8×128×4×64', make: () => [permute(trained(8, 128, 4, 64), [0, 2, 1, 3])] },
  { name: 'gather', shape: `${WORDS}×${WIDTH} by ${ROWS}`, make: () => [gather(trained(WORDS, WIDTH), ids(WORDS, ROWS))] },
  { name: 'scatter-add', shape: `${ROWS}×${WIDTH} into ${WORDS}`, make: () => [scatterAdd(ids(WORDS, ROWS), trained(ROWS, WIDTH), WORDS)] },
  update,
];
