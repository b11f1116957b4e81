// Files of X-LoRA: the gate's MLP in the adapter's own folder, and each expert a LoRA in a folder of its own, which `adapters` names by "0", "1", ….
//   base_model.internal_xlora_classifier.layers.<i>.weight [out, in], .bias [out];   i counts the ReLU and the dropout between two layers too
import { join } from 'node:path';
import { z } from 'zod';
import { show } from '../../core/shape.ts';
import type { XloraConfig } from '../../peft/reparameterized/xlora.ts';
import { xloraOf } from '../../peft/reparameterized/xloraOf.ts';
import { sitesOf } from '../../peft/site.ts';
import { count, orNull, whole } from './config.ts';
import { count1, number, yes } from './fields.ts';
import {
  type AnyFormat,
  asAny,
  type ConfigOf,
  type FactorTables,
  type Format,
  field,
  type Get,
  type Over,
  type Spot,
  Unsupported,
} from './format.ts';

const FIELDS = {
  hidden_size: field(orNull(count), 4096),
  adapters: field(orNull(z.record(z.string(), z.string())), {}),
  enable_softmax: yes(true),
  enable_softmax_topk: yes(false),
  layerwise_scalings: yes(false),
  xlora_depth: count1(1),
  xlora_size: count1(2048),
  xlora_dropout_p: number(0.2),
  use_trainable_adapters: yes(false),
  softmax_temperature: number(1),
  top_k_lora: field(orNull(whole.min(1)), null),
  scaling_pass_value: number(0),
  global_scaling_weight: number(1),
} as const;
type Xlora = ConfigOf<typeof FIELDS>;
type Own = Omit<XloraConfig, 'experts' | 'linears'>;

const ADVICE =
  'Hugging Face PEFT 0.21 loses tensors when it saves X-LoRA: every key with a number in it that is also the name of an expert, so the gate’s first layer always, and layers of the experts. ' +
  'Where the model is, write the gate with safetensors.torch.save_file({k: v for k, v in model.state_dict().items() if "internal_xlora_classifier" in k}, folder + "/adapter_model.safetensors", metadata={"format": "pt"}), and take the experts from the folders they came from (docs/interop.md says how to write trained ones)';

/** Names in order. The library calls experts by their number whatever their names are, and reads more than ten in the order of a dictionary: 0, 1, 10, 2. */
function namesIn({ adapters }: Pick<Xlora, 'adapters'>): readonly string[] {
  const names = Object.keys(adapters ?? {}).sort((a, b) => Number(a) - Number(b));
  const shown = names.slice(0, 12).map((n) => JSON.stringify(n.slice(0, 30)));
  if (names.length === 0) throw new Unsupported('adapters names no expert; X-LoRA has at least one');
  if (names.some((n, k) => n !== String(k)))
    throw new Unsupported(
      `adapters names ${shown.join(', ')}: which answer of the gate is whose is known only where they are "0", "1", … (with other names Hugging Face PEFT 0.21 itself finds none of them)`,
    );
  if (names.length > 10)
    throw new Unsupported(
      `adapters names ${names.length} experts, of which Hugging Face PEFT 0.21 mixes up the order on reading; it keeps that of ten`,
    );
  return names;
}

/** Where the library looks for them: paths in `adapters` are from where it runs, not from the folder. */
function placed(length: number, folder: string): Readonly<Record<string, string>> {
  const adapters = Object.fromEntries(Array.from({ length }, (_, k) => [String(k), join(folder, String(k))]));
  namesIn({ adapters });
  return adapters;
}

/** Number of the gate's linear layer k among the library's. */
const layerAt = (k: number, dropout: number): number => k * (dropout > 0 ? 3 : 2);
const keyAt = (k: number, dropout: number, part: 'weight' | 'bias'): string =>
  `base_model.internal_xlora_classifier.layers.${layerAt(k, dropout)}.${part}`;
const layersOf = ({ depth, dropout }: Own) =>
  Array.from({ length: depth }, (_, k) => [`${k}`, keyAt(k, dropout, 'weight'), keyAt(k, dropout, 'bias')] as const);

/** The gate fits the network and the experts: said here in the configuration's words. */
function gateFits(get: Get, { options, own, size, config }: Spot<Own>): void {
  const width = config === null ? size('width') : ((config as Xlora).hidden_size ?? 4096); // as the library takes it
  if (width !== size('width'))
    throw new Unsupported(`hidden_size is ${width}, and this network's is ${size('width')}. Is it the adapter of another network?`);
  for (const [, ...keys] of layersOf(options))
    for (const key of keys) if (!get.has(key)) throw new Unsupported(`the gate's ${key} is not in the file. ${ADVICE}`);
  const last = options.depth - 1;
  const [is, must] = [get(keyAt(last, options.dropout, 'bias')).shape, own.get(`biases.${last}`)!];
  if (is[0] !== must[0])
    throw new Unsupported(
      `the gate answers ${show(is)} numbers, and ${options.layerwise ? 'experts × adapted layers are' : 'the experts are'} ${show(must)}. Name the experts that it was trained with`,
    );
}

const own: Format<Own, typeof FIELDS> = {
  peftType: 'XLORA',
  method: 'xlora',
  fields: FIELDS,
  on: 'network',
  conv1d: true,
  refuses: ({ prefix }) =>
    prefix === 'model.'
      ? null
      : 'Hugging Face PEFT reads the experts of X-LoRA only where the network proper is called `model` (LLaMA and its like, with a head); saveAdapter(model, folder) writes this one in our own format',
  options: (c) => {
    const { length } = namesIn(c);
    const topK = c.top_k_lora ?? (c.enable_softmax_topk === true ? length : null); // a softmax over all of them
    if (topK !== null && topK > length)
      throw new Unsupported(`top_k_lora is ${topK}, and adapters names ${length} experts; it can be 1 to ${length}`);
    return () => ({
      ...{ depth: c.xlora_depth ?? 1, hidden: c.xlora_size ?? 2048, dropout: c.xlora_dropout_p ?? 0.2 },
      ...{ layerwise: c.layerwise_scalings ?? false, softmax: c.enable_softmax ?? true, temperature: c.softmax_temperature ?? 1 },
      ...{ topK, topKSoftmax: c.enable_softmax_topk ?? false, weight: c.global_scaling_weight ?? 1 },
      ...{ firstPass: c.scaling_pass_value ?? 0, trainExperts: c.use_trainable_adapters ?? false },
    });
  },
  attach: () => {
    throw new Error('X-LoRA is attached over its experts'); // `over.made` has the format that does
  },
  config: (at, { size, folder }) => {
    const { options: o } = at[0]!;
    const { experts } = o as unknown as XloraConfig; // a seam: what is attached has all of its options
    return {
      ...{ hidden_size: size('width'), adapters: placed(experts.length, folder) },
      ...{ xlora_depth: o.depth, xlora_size: o.hidden, xlora_dropout_p: o.dropout, layerwise_scalings: o.layerwise },
      ...{ enable_softmax: o.softmax, softmax_temperature: o.temperature, top_k_lora: o.topK, enable_softmax_topk: o.topKSoftmax },
      ...{ global_scaling_weight: o.weight, scaling_pass_value: o.firstPass, use_trainable_adapters: o.trainExperts },
    };
  },
  unsaved: ['A', 'B'], // the experts' folders have them
  decode: (get, spot) => {
    gateFits(get, spot);
    return Object.fromEntries(
      layersOf(spot.options).flatMap(([k, w, b]) => [
        [`weights.${k}`, get(w)],
        [`biases.${k}`, get(b)],
      ]),
    );
  },
  encode: (t, { options }) =>
    Object.fromEntries(
      layersOf(options).flatMap(([k, w, b]) => [
        [w, t[`weights.${k}`]!],
        [b, t[`biases.${k}`]!],
      ]),
    ),
};

const over: Over = {
  folder: '',
  named: (c) => {
    const { adapters } = c as Xlora;
    return { experts: namesIn(c as Xlora).map((name) => ({ name, path: adapters![name]! })), general: [] };
  },
  made: (models) => {
    xloraOf(models); // throws where they do not fit each other
    return asAny<Own, typeof FIELDS>({ ...own, attach: ({ where: _, ...o }) => xloraOf(models, o) });
  },
  factors: ([held], model) => {
    const { experts, linears } = held!.options as unknown as XloraConfig; // a seam: X-LoRA's own
    const trunk = sitesOf(model, 'trunk').find((s) => s.path === held!.path)!;
    const paths = trunk.within('linear', linears).map((s) => s.path);
    const at = (l: number, e: number): FactorTables => ({
      A: held!.own[`A.${l * experts.length + e}`]!,
      B: held!.own[`B.${l * experts.length + e}`]!,
    });
    const is = ({ A, B }: FactorTables): boolean => A.data.some((v) => v !== 0) || B.data.some((v) => v !== 0); // an expert that is not here is 0
    return experts.map((_, e) => new Map(paths.map((path, l) => [path, at(l, e)] as const).filter(([, f]) => is(f))));
  },
  scales: (options) => (options as unknown as XloraConfig).experts.map((e) => e.scale),
  moved: ({ adapters }, folder) => ({ adapters: placed(Object.keys(adapters as object).length, folder) }),
  advice: ADVICE,
};
export const XLORA: AnyFormat = asAny<Own, typeof FIELDS>({ ...own, over });
