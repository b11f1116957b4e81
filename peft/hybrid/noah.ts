// NOAH: prompts, LoRA and adapters together, each of its own size in every block, found by evolution over subnets of one supernet.
// Zhang et al. 2022, arXiv 2206.04673, §3; facts not in the paper's text are those of the authors' code.
import { param, type Tensor } from '../../core/tensor.ts';
import type { Activation } from '../../nn/mlp.ts';
import { houlsby } from '../additive/houlsby.ts';
import { attendWith } from '../additive/prefixAttention.ts';
import { defineMethod } from '../attach.ts';
import { wholeNumber } from '../check.ts';
import { hybrid } from '../combine.ts';
import type { Transform } from '../method.ts';
import { lora } from '../reparameterized/lora.ts';

export const MODULES = ['prompt', 'lora', 'adapter'] as const;
/** Sizes block by block, 0 where a module is not there: length, rank, bottleneck. */
export type NoahConfig = { readonly [M in (typeof MODULES)[number]]: readonly number[] };

/**
 * Keys and values of its own in front of each attention, which do not move the text's positions. The authors, whose networks see images,
 * put tokens into every block's input instead (and offer such a prefix too). Tables ~ N(0, 0.02²). Count per attention: 2p·HkD.
 */
export const noahPrompt = defineMethod<'attend', { readonly length: number }, { readonly keys: Tensor; readonly values: Tensor }>({
  name: 'noahPrompt',
  family: 'additive',
  paper: 'arXiv:2206.04673',
  at: 'attend',
  defaults: { length: 10, where: 'attend' },
  check: (_, c) => wholeNumber('noahPrompt', 'length', c.length),
  init: (site, { length }, r) => {
    const width = site.dim('kvHeads') * site.dim('headWidth');
    const table = (name: string): Tensor => param(r.split(name).normal(length * width, 0.02), [length, width]);
    return { train: { keys: table('keys'), values: table('values') } };
  },
  around: (call, { keys, values }) => attendWith(call, keys, values),
  count: (sites, { length }) => {
    const train = sites.reduce((n, s) => n + 2 * length * s.dim('kvHeads') * s.dim('headWidth'), 0);
    return { train, stored: train };
  },
  startsAsBase: () => 'no',
});

/**
 * The composition for one configuration. LoRA is on q, k and v with scale 1, the adapter reads what the feed-forward network answers (Houlsby's, there only).
 * The authors' σ is x·sigmoid(1.702 x); here GELU, which that approximates. Throws for a configuration that is nothing at all.
 * Count: per block r Σ(in + out) over q, k and v, 2md + m + d, and 2p·HkD.
 */
export function noah(
  config: NoahConfig,
  { seed = 0, activation = 'gelu' }: { readonly seed?: number; readonly activation?: Activation } = {},
): Transform {
  const each = (sizes: readonly number[], make: (size: number, at: (rest: string) => RegExp) => Transform): Transform[] =>
    sizes.flatMap((size, block) => (size === 0 ? [] : [make(size, (rest) => new RegExp(`blocks\\.${block}\\.${rest}$`))]));
  const parts = [
    ...each(config.lora, (rank, at) => lora({ rank, alpha: rank, where: at('attn\\.(q|k|v|qkv)'), seed })),
    ...each(config.adapter, (bottleneck, at) => houlsby({ bottleneck, activation, where: at('mlp'), seed })),
    ...each(config.prompt, (length, at) => noahPrompt({ length, where: at('attn\\.attend'), seed })),
  ];
  if (parts.length === 0)
    throw new RangeError('noah: every size of this configuration is 0, so it trains nothing; its loss is that of the base');
  return hybrid('noah', ...parts);
}
