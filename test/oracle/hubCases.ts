// AdapterHub's configurations on the tiny BERT: our models with their numbers, for the tests of what they answer and of how they train.
import { crossEntropy } from '../../core/ops/fused.ts';
import { size } from '../../core/shape.ts';
import { leaf, type Tensor } from '../../core/tensor.ts';
import { context } from '../../nn/context.ts';
import { freeze, withValues } from '../../nn/freeze.ts';
import type { Model } from '../../nn/layer.ts';
import { mapTensors, trainable } from '../../nn/tree.ts';
import { adapterHub } from '../../peft/adapterHub.ts';
import type { Transform } from '../../peft/method.ts';
import { fixture, type Table } from './fixtures.ts';
import { hubName } from './hubNames.ts';
import { networks } from './networks.ts';

/** Two adapters in a composition block. */
export interface Block {
  readonly tensors: Readonly<Record<string, Table>>;
  readonly logits: Table;
}
export interface Case extends Block {
  readonly loss: number;
  readonly grads: Readonly<Record<string, Table>>;
  readonly losses: readonly number[];
  readonly after: Table;
}
export type Name = keyof typeof adapterHub;
type Settings = Readonly<Record<string, unknown>>;
export const hub = fixture<{
  readonly aliases: Readonly<Record<string, string>>;
  readonly settings: Readonly<Record<Name, Settings | readonly Settings[]>>;
  readonly counts: Readonly<Record<Name, number>>;
  readonly cases: Readonly<Record<Name, Case>>;
  readonly blocks: Readonly<Record<string, Block>>;
}>('hub-configurations');
export const names = Object.keys(adapterHub) as Name[];
export const TOLERANCE = 1e-5; // the fixtures are rounded to float32
const { base, batch, tokens, targets } = networks.bert;

/** Defaults, but for the sizes that a network of width 16 cannot have; a classifier is no output embedding. */
const under = { invertible: { inverse: false } };
const table = { length: 3, bottleneck: 5 };
const sized: Partial<Readonly<Record<Name, Transform>>> = {
  seq_bn: adapterHub.seq_bn({ reduction: 4 }), // 16 leaves one ReLU, which is at rest on these texts
  seq_bn_inv: adapterHub.seq_bn_inv({ ...under, adapter: { reduction: 4 } }),
  double_seq_bn_inv: adapterHub.double_seq_bn_inv(under),
  compacter: adapterHub.compacter({ reduction: 4 }),
  'compacter++': adapterHub['compacter++']({ reduction: 4 }),
  prefix_tuning: adapterHub.prefix_tuning(table),
  prefix_tuning_flat: adapterHub.prefix_tuning_flat({ length: 3 }),
  prompt_tuning: adapterHub.prompt_tuning({ length: 4 }),
  mam: adapterHub.mam({ prefix: table }),
  unipelt: adapterHub.unipelt({ length: 3, prefixBottleneck: 5 }),
};
/** DoRA is compared where q and v have no bias: theirs scales it too (peft/adapterHub.ts says more). */
const without = mapTensors(base, (t, path) => (/attn\.(q|v)\.bias$/.test(path) ? leaf(new Float32Array(size(t.shape)), t.shape) : t));
export const baseOf = (name: Name): Model => (name === 'dora' || name === 'dvora' ? freeze(without) : base);

/** The trained tensors with the numbers of adapter `a`. */
export const filledBy = (model: Model, { tensors }: Block, a: string): Model =>
  withValues(model, new Map([...trainable(model)].map(([p, path]) => [p, Float32Array.from(tensors[hubName(path, tensors, a)]!.data)])));
/** Their numbers in our tensors: trained ones by name, and VeRA's frozen pair. */
function filled(model: Model, f: Case): Model {
  const shared = (path: string): Table | null =>
    f.tensors[/vera\.[AB]$/.test(path) ? `bert.shared_parameters.a.lora_${path.at(-1)}` : ''] ?? null;
  const kept = mapTensors(model, (t, path) => {
    const own = shared(path.replace('dvora', 'vera'));
    return own === null ? t : leaf(Float32Array.from(own.data), t.shape);
  });
  return filledBy(kept, f, 'a');
}

/** As `adapterHub` makes it by default, in a form that forgets which options it has. */
export const standard = (name: Name): Transform => (adapterHub[name] as () => Transform)();
export const modelOf = (name: Name): Model => filled((sized[name] ?? standard(name))(baseOf(name)), hub.cases[name]);
export const answer = (m: Model): Tensor => m(batch, context(tokens));
export const loss = (m: Model): Tensor => crossEntropy(answer(m), targets);
