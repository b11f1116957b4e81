// AdapterHub's configuration strings as methods of ours, with the defaults of its library `adapters` 1.3.
// Poth et al. 2023, arXiv 2311.11077. Where the library differs from a method's paper, its entry sets the option that says so; its blocks
// (Stack, Fuse, Split, BatchSplit, Parallel, Average) are stack, fused or fuse, split, mixed with inSpans, repeated, and average.
import { adapterPlus } from './additive/adapterPlus.ts';
import { type CompacterConfig, compacter } from './additive/compacter.ts';
import { type HoulsbyConfig, houlsby } from './additive/houlsby.ts';
import { type Ia3Config, ia3 } from './additive/ia3.ts';
import { type InvertibleConfig, invertible } from './additive/invertible.ts';
import { type ParallelAdapterConfig, parallelAdapter } from './additive/parallelAdapter.ts';
import { type PfeifferConfig, pfeiffer } from './additive/pfeiffer.ts';
import { type PrefixTuningConfig, prefixTuning } from './additive/prefixTuning.ts';
import { type PromptTuningConfig, promptTuning } from './additive/promptTuning.ts';
import { direft, loreft, noreft } from './additive/reft.ts';
import { hybrid } from './combine.ts';
import { type UnipeltConfig, unipelt } from './hybrid/unipelt.ts';
import type { Options, Transform } from './method.ts';
import { dora, type NormConfig } from './reparameterized/dora.ts';
import { dvora } from './reparameterized/dvora.ts';
import { type LoraConfig, lora } from './reparameterized/lora.ts';
import { mtlLora } from './reparameterized/mtlLora.ts';
import { type VeraConfig, vera } from './reparameterized/vera.ts';

/** The two parts of a configuration that has two. */
export interface WithInvertible<C> {
  readonly invertible?: Options<InvertibleConfig>;
  readonly adapter?: Options<C>;
}
export interface HubMam {
  readonly prefix?: Options<PrefixTuningConfig>;
  readonly adapter?: Options<ParallelAdapterConfig>;
}
type Hub<C> = (options?: Options<C>) => Transform;
const hub = <C>(make: Hub<C>): Hub<C> => make;

const prefix: Hub<PrefixTuningConfig> = (o) => prefixTuning({ length: 30, shift: false, ...o });
const parBn: Hub<ParallelAdapterConfig> = (o) => parallelAdapter({ input: 'stream', ...o });

/**
 * By the library's names: `adapterHub.seq_bn({ reduction: 8 })(base)`. Options are those of our methods. What differs from their papers:
 *
 * - `seq_bn_inv` and `double_seq_bn_inv` couple behind the embedding layer and undo it before an output embedding only: under a
 *   classifier write `{ invertible: { inverse: false } }`.
 * - `compacter++` and the adapter of `unipelt` read the (normalised) sum as `seq_bn` does. Compacter's factors start with Glorot's normal.
 * - Prefixes leave the text's positions alone, and a prompt stands in front of the first block, without positions; there, a classifier of
 *   Hugging Face's own classes pools the first row of the prompt, ours the first token of the text.
 * - `par_bn` reads the residual stream. `ia3` scales what the first feed-forward layer puts out, before the activation.
 * - `vera` and `dvora` train whole matrices where the papers (and we) have their diagonals. `dora` and `dvora` differentiate through the norm;
 *   the library's also scale the bias when they are not merged, and not when they are: ours never do.
 * - The second unit of its ReFTs, for a suffix of 0 positions, reads nothing and is not made here.
 */
export const adapterHub = {
  double_seq_bn: houlsby,
  seq_bn: pfeiffer,
  par_bn: parBn,
  scaled_par_bn: hub<ParallelAdapterConfig>((o) => parBn({ scale: 'learned', ...o })),
  seq_bn_inv: (o: WithInvertible<PfeifferConfig> = {}): Transform =>
    hybrid('seq_bn_inv', invertible({ activation: 'relu', ...o.invertible }), pfeiffer(o.adapter)),
  double_seq_bn_inv: (o: WithInvertible<HoulsbyConfig> = {}): Transform =>
    hybrid('double_seq_bn_inv', invertible({ activation: 'silu', ...o.invertible }), houlsby(o.adapter)),
  compacter: hub<CompacterConfig>((o) => compacter({ init: 'glorotNormal', ...o })),
  'compacter++': hub<CompacterConfig>((o) => compacter({ init: 'glorotNormal', reads: 'sum', where: 'mlp', ...o })),
  prefix_tuning: prefix,
  prefix_tuning_flat: hub<PrefixTuningConfig>((o) => prefix({ bottleneck: null, ...o })),
  prompt_tuning: hub<PromptTuningConfig>((o) => promptTuning({ length: 10, init: 'uniform', place: 'blocks', ...o })),
  lora,
  ia3: hub<Ia3Config>((o) => ia3({ where: ['k', 'v', 'up'], feedforward: [], ...o })),
  vera: hub<VeraConfig>((o) => vera({ rank: 8, ...o })),
  dora: hub<LoraConfig & NormConfig>((o) => dora({ norm: 'differentiated', ...o })),
  dvora: hub<Omit<VeraConfig, 'dropout'> & NormConfig>((o) => dvora({ rank: 8, norm: 'differentiated', ...o })),
  mtl_lora: mtlLora,
  loreft,
  noreft,
  direft,
  mam: (o: HubMam = {}): Transform => hybrid('mam', prefix({ bottleneck: 800, ...o.prefix }), parBn(o.adapter)),
  unipelt: hub<UnipeltConfig>((o) => unipelt({ gate: 'example', reads: 'sum', ...o })),
  'Adapter+': adapterPlus,
} as const;

/** The names that the library calls deprecated, and those that it has for them now. */
export const adapterHubAliases = {
  ...{ pfeiffer: 'seq_bn', houlsby: 'double_seq_bn', parallel: 'par_bn', scaled_parallel: 'scaled_par_bn' },
  ...{ 'pfeiffer+inv': 'seq_bn_inv', 'houlsby+inv': 'double_seq_bn_inv' },
} as const satisfies Readonly<Record<string, keyof typeof adapterHub>>;
