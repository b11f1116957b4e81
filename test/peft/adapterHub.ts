// AdapterHub's configurations as entries of a list of methods, small, so that the laws of methods can judge what is AdapterHub's own in them.
import { adapterHub } from '../../peft/adapterHub.ts';
import { composition, type Listed } from '../../peft/listed.ts';
import type { Transform } from '../../peft/method.ts';

const listed = (name: string, make: (seed: number) => Transform, unfit: Readonly<Record<string, string>> = {}): Listed =>
  composition({ name, family: 'hybrid', paper: 'arXiv:2311.11077', file: 'peft/adapterHub.ts' }, make, make, unfit);
const mean = 'its gate is a mean over the tokens, and this network is causal';

export const ofHub: readonly Listed[] = [
  listed('prompt_tuning', (seed) => adapterHub.prompt_tuning({ length: 2, seed })),
  listed('prefix_tuning', (seed) => adapterHub.prefix_tuning({ length: 2, bottleneck: 3, seed })),
  listed('compacter++', (seed) => adapterHub['compacter++']({ n: 2, bottleneck: 2, std: 0.1, activation: 'silu', seed })),
  listed('dora', (seed) => adapterHub.dora({ rank: 2, seed })),
  listed('dvora', (seed) => adapterHub.dvora({ rank: 3, seed })),
  listed('unipelt', (seed) => adapterHub.unipelt({ rank: 2, length: 2, prefixBottleneck: 3, bottleneck: 3, activation: 'silu', seed }), {
    llama: mean,
    gpt2: mean,
  }),
];
