// The combinators as entries of a list of methods, so that the laws of methods can judge them.
import { size } from '../../core/shape.ts';
import { houlsby } from '../../peft/additive/houlsby.ts';
import { ia3 } from '../../peft/additive/ia3.ts';
import { parallelAdapter } from '../../peft/additive/parallelAdapter.ts';
import { average, fuse, gate, mask, parallel, route, split, stack } from '../../peft/combinators.ts';
import { composition, type Listed } from '../../peft/listed.ts';
import type { Transform } from '../../peft/method.ts';
import { lora } from '../../peft/reparameterized/lora.ts';

const listed = (name: string, make: (seed: number) => Transform): Listed =>
  composition({ name, family: 'hybrid', paper: 'arXiv:2110.04366', file: 'peft/combinators.ts' }, make, make);
const small = (seed: number): Transform => lora({ rank: 2, dropout: 0.25, seed });
const adapters = (seed: number): readonly [Transform, Transform] => [
  houlsby({ bottleneck: 3, where: 'mlp', seed }),
  parallelAdapter({ bottleneck: 2, seed }),
];

export const combined: readonly Listed[] = [
  listed('stack', (s) => stack(small(s), ...adapters(s))),
  listed('parallel', (s) => parallel(small(s), ia3({ where: ['q', 'down'] }))),
  listed('average', (s) => average(adapters(s))),
  listed('gate', (s) => gate(small(s), s)),
  listed('route', (s) => route(adapters(s), s)),
  listed('fuse', (s) => fuse(adapters(s), { seed: s })),
  listed('mask', (s) => mask(small(s), (at, r) => Float32Array.from({ length: size(at.answers) }, () => r.below(2)), s)),
  listed('split', (s) => split(adapters(s), [2])),
  listed('a hybrid of them', (s) =>
    stack(gate(parallel(small(s), ia3({ where: ['q', 'down'] })), s), mask(fuse(adapters(s), { seed: s }), 0.5, s)),
  ),
];
