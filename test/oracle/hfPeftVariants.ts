// What peft-variants.json (hf_peft_rest.py) holds, as methods of this library: mixtures of experts, starts and optimizers of LoRA, numbers drawn in training.
import { float64 } from '../../core/engines/float64.ts';
import { leaf, paramOf } from '../../core/tensor.ts';
import { mapTensors } from '../../nn/tree.ts';
import type { Options, Transform } from '../../peft/method.ts';
import { arrow } from '../../peft/reparameterized/arrow.ts';
import { eva } from '../../peft/reparameterized/eva.ts';
import { loraOrthogonal } from '../../peft/reparameterized/loraOrthogonal.ts';
import { poly } from '../../peft/reparameterized/poly.ts';
import { pvera } from '../../peft/reparameterized/pvera.ts';
import { qaLora } from '../../peft/reparameterized/qaLora.ts';
import { riemannianLora } from '../../peft/reparameterized/riemannianLora.ts';
import { type XloraConfig, xlora } from '../../peft/reparameterized/xlora.ts';
import { fixture, type Table } from './fixtures.ts';
import type { Compared, Recorded } from './hfPeftCases.ts';
import { compared, named } from './hfPeftUpdates.ts';
import { networks } from './networks.ts';

const AT = ['v', 'down'];
const LORA = { A: 'lora_A.default.weight', B: 'lora_B.default.weight' };
const r2 = { rank: 2, alpha: 3 };
const group = 'variants';
const experts = (n: number): { rank: number; scale: number }[] => Array.from({ length: n }, () => ({ rank: 2, scale: 1.5 }));
/** In the order of the network's layers. */
const PLACES = ['trunk.blocks.0.attn.v', 'trunk.blocks.0.mlp.down', 'trunk.blocks.1.attn.v', 'trunk.blocks.1.mlp.down'];
const { cases: recorded } = fixture<{ readonly cases: Readonly<Record<string, Recorded>> }>('peft-variants');
const moduleOf = (site: string): string => networks.llama.moduleOf(site);

/** The MLP's layers stand between activations; expert e of layer l is at l·E + e. */
function xloraName(path: string, E: number): string {
  const [, name, k] = /\.xlora\.(\w+)\.(\d+)$/.exec(path)!;
  if (name === 'A' || name === 'B')
    return `base_model.lora_model.model.${moduleOf(PLACES[Math.floor(Number(k) / E)]!)}.lora_${name}.${Number(k) % E}.weight`;
  return `base_model.internal_xlora_classifier.layers.${2 * Number(k)}.${name === 'weights' ? 'weight' : 'bias'}`;
}
const xloraCase = (title: string, options: Options<XloraConfig>, E = 2): [string, Compared] => [
  `${title} llama`,
  {
    network: 'llama',
    group,
    feed: {},
    make: ({ base }, f) =>
      mapTensors(xlora({ experts: experts(E), linears: AT, dropout: 0, ...options })(base), (t, path) =>
        path.includes('.xlora.') && paramOf(t) === null ? leaf(Float32Array.from(f.fixed[xloraName(path, E)]!.data), t.shape) : t,
      ),
    from: (path, table) => table(xloraName(path, E))!.data,
  },
];

/** Of expert k. */
const arrowCase = compared('arrow', {
  method: arrow({ experts: experts(3), topK: 2, temperature: 0.6, trainExperts: true, where: AT }),
  trained: (name, table) => table(`lora_${name[0]}.task_${name.at(-1)}.weight`).data,
  fixed: (_, table) => table('lora_arrow.arrow_router.prototypes')!.data,
  group,
});

/** The ranks that the library gave to layers; those it gave none have no method. */
const ranks = Object.fromEntries(
  [0, 1].flatMap((block) =>
    ['q', 'v', 'o'].flatMap((name): [string, number][] => {
      const path = `trunk.blocks.${block}.attn.${name}`;
      const A: Table | undefined = recorded['eva llama']!.tensors[`base_model.model.${moduleOf(path)}.${LORA.A}`];
      return A === undefined ? [] : [[path, A.shape[0]!]];
    }),
  ),
);
/** A method that looks at data, prepared where there is none to look at that counts: its numbers are the library's. */
const prepared = ([title, c]: [string, Compared], method: Transform): [string, Compared] => [
  title,
  { ...c, make: async ({ base, batch }) => (await method.prepare(base, { engine: float64(), batches: [batch] }))(base) },
];
const evaOn = eva({ rank: 4, alpha: 6, ranks, where: Object.keys(ranks) });

/** The four layers' draws, in their order. */
const drawn =
  (name: string) =>
  ({ fixed }: Recorded): Record<string, readonly number[]> =>
    Object.fromEntries(PLACES.map((site, k) => [`${site}.${name}`, fixed[`draw ${k}`]!.data.map(Math.fround)]));

export const variants: Readonly<Record<string, Compared>> = Object.fromEntries([
  xloraCase('xlora', { temperature: 0.7, weight: 1.3 }),
  xloraCase('xlora layerwise', { depth: 3, hidden: 6, layerwise: true }),
  xloraCase('xlora top', { softmax: false, topK: 1 }),
  xloraCase('xlora trained', { softmax: false, topK: 2, topKSoftmax: true, trainExperts: true }, 3),
  arrowCase,
  compared('riemannianLora', { method: riemannianLora({ ...r2, damping: 0.02, where: AT }), trained: named(LORA), group }),
  compared('loraOrthogonal', { method: loraOrthogonal({ ...r2, where: AT }), trained: named(LORA), group }),
  prepared(compared('eva', { method: evaOn, trained: named(LORA), group }), evaOn),
  compared('qaLora', { method: qaLora({ ...r2, group: 4, pool: 'peft', where: AT }), trained: named(LORA), group }),
  compared('pvera training', {
    method: pvera({ rank: 3, where: AT }),
    trained: named({ lambdaB: 'pvera_lambda_b.default', lambdaD: 'pvera_lambda_d.default' }),
    fixed: (name, _, { fixed }) => Object.entries(fixed).find(([k]) => k.includes(`pvera_${name}`))![1].data,
    group,
    training: true,
    draws: drawn('pvera.noise'),
  }),
  compared('poly training', {
    method: poly({ rank: 2, tasks: 3, skills: 3, splits: 2, where: AT }),
    trained: named({ A: 'poly_lora_A.default', B: 'poly_lora_B.default', logits: 'poly_router.default.module_logits' }),
    group,
    training: true,
    draws: (f) => ({ ...drawn('poly')(f), task: [2, 0] }),
  }),
]);
