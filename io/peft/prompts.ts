// Files of prompts: prompt tuning, P-tuning, multitask prompts, CPT, prefixes, cartridges, and LLaMA-Adapter's rows in attention.
//   prompt_embeddings, without any prefix: [p, d], or for prefixes [p, L·2·Hk·D], layer by layer keys, then values
import { z } from 'zod';
import { type CartridgeConfig, cartridge } from '../../peft/additive/cartridge.ts';
import type { CptConfig } from '../../peft/additive/cpt.ts';
import { type LlamaAdapterConfig, llamaAdapter } from '../../peft/additive/llamaAdapter.ts';
import { type MptConfig, mpt } from '../../peft/additive/mpt.ts';
import { type PrefixTuningConfig, prefixTuning } from '../../peft/additive/prefixTuning.ts';
import { type PromptTuningConfig, promptTuning } from '../../peft/additive/promptTuning.ts';
import { count, orNull, share, whole } from './config.ts';
import { count1, number, yes } from './fields.ts';
import {
  type AnyFormat,
  asAny,
  type ConfigOf,
  type Format,
  field,
  type NewConfig,
  type Shown,
  type Table,
  Unsupported,
  type Whole,
} from './format.ts';

const EMBEDDINGS = 'prompt_embeddings';
const PROMPT_FIELDS = {
  num_virtual_tokens: field(count, 20),
  token_dim: field(orNull(count), null),
  num_transformer_submodules: field(orNull(count), 1),
  num_attention_heads: field(orNull(count), null),
  num_layers: field(orNull(count), null),
} as const;
const TEXT = {
  prompt_tuning_init: field(z.string().optional(), 'RANDOM'),
  prompt_tuning_init_text: field(orNull(z.string()), null),
  tokenizer_name_or_path: field(orNull(z.string()), null),
  tokenizer_kwargs: field(z.unknown().optional(), null),
} as const;
const sizes = ({ size }: Whole, length: number): NewConfig<typeof PROMPT_FIELDS> => ({
  num_virtual_tokens: length,
  token_dim: size('width'),
  num_attention_heads: size('heads'),
  num_layers: size('layers'),
});
const checked = ({ num_transformer_submodules: n }: ConfigOf<typeof PROMPT_FIELDS>): void => {
  if ((n ?? 1) !== 1)
    throw new Unsupported(`num_transformer_submodules is ${n}: prompts for an encoder and a decoder, and this network is one of them`);
};
const shared = { on: 'network', conv1d: true } as const;
const onEncoder =
  (what: string) =>
  ({ encoder }: Shown): string | null =>
    encoder
      ? `on an encoder Hugging Face PEFT reads its answer at the first row of the ${what}, not at the text's first token, so that the same numbers answer something else here; use a method that adapts layers`
      : null;
type Rows = Pick<Format<{ readonly length: number }>, 'decode' | 'encode'>;
const rows: Rows = { decode: (get) => ({ P: get(EMBEDDINGS) }), encode: ({ P }) => ({ [EMBEDDINGS]: P! }) };

/** Read as a prompt of rows, whatever made them. */
const asPrompt: Pick<Format<PromptTuningConfig, typeof PROMPT_FIELDS>, 'options' | 'normal' | 'attach' | 'decode' | 'encode'> = {
  ...(rows as Pick<Format<PromptTuningConfig>, 'decode' | 'encode'>),
  options: (c) => {
    checked(c);
    return () => ({ length: c.num_virtual_tokens, init: 'normal', place: 'embedding' });
  },
  normal: (o) => ({ ...o, init: 'normal' }),
  attach: (o) => promptTuning(o),
};

const TUNING_FIELDS = { ...PROMPT_FIELDS, ...TEXT } as const;
const PROMPT_TUNING = asAny<PromptTuningConfig, typeof TUNING_FIELDS>({
  ...shared,
  ...asPrompt,
  peftType: 'PROMPT_TUNING',
  method: 'promptTuning',
  fields: TUNING_FIELDS,
  refuses: onEncoder('prompt'),
  config: (at, of) => {
    const { place, length } = at[0]!.options;
    if (place !== 'embedding')
      throw new Error(
        "savePeft: this promptTuning stands behind the positions (place: 'blocks'), and Hugging Face PEFT puts a prompt before them; save it with saveAdapter",
      );
    return sizes(of, length);
  },
});

const ENCODER_FIELDS = {
  ...PROMPT_FIELDS,
  encoder_reparameterization_type: field(z.string().optional(), 'MLP'),
  encoder_hidden_size: field(orNull(whole), null),
  encoder_num_layers: count1(2),
  encoder_dropout: field(share.optional(), 0, true),
} as const;
/** The file has the rows that the encoder made, so it is read as a prompt; what makes them is gone. */
const pTuning = (method: string, reads: boolean): AnyFormat =>
  asAny<PromptTuningConfig, typeof ENCODER_FIELDS>({
    ...shared,
    ...asPrompt,
    peftType: 'P_TUNING',
    method,
    fields: ENCODER_FIELDS,
    is: () => reads,
    finished: true,
    refuses: onEncoder('prompt'),
    config: (at, of) => {
      const { encoder, hidden, layers } = at[0]!.options as unknown as { encoder: string; hidden: number | null; layers: number };
      return {
        ...sizes(of, at[0]!.options.length),
        encoder_reparameterization_type: encoder.toUpperCase(),
        encoder_hidden_size: hidden ?? (encoder === 'mlp' ? of.size('width') : of.size('width') / 2),
        encoder_num_layers: layers,
      };
    },
  });

const MPT_FIELDS = {
  ...PROMPT_FIELDS,
  ...TEXT,
  prompt_tuning_init_state_dict_path: field(orNull(z.string()), null),
  prompt_tuning_init_task: field(orNull(whole), 0),
  num_ranks: field(orNull(count), 1),
  num_tasks: field(orNull(count), 1),
} as const;
const MPT = asAny<MptConfig, typeof MPT_FIELDS>({
  ...shared,
  peftType: 'MULTITASK_PROMPT_TUNING',
  method: 'mpt',
  fields: MPT_FIELDS,
  refuses: onEncoder('prompt'),
  options: (c) => {
    checked(c);
    return () => ({ length: c.num_virtual_tokens, tasks: c.num_tasks ?? 1, ranks: c.num_ranks ?? 1 });
  },
  attach: (o) => mpt(o),
  config: (at, of) => {
    const { length, tasks, ranks } = at[0]!.options;
    return { ...sizes(of, length), num_tasks: tasks, num_ranks: ranks };
  },
  decode: (get, { options: { tasks } }) => {
    const flat = (t: Table): Table => ({ data: t.data, shape: [tasks, t.data.length / tasks] });
    return { P: get(EMBEDDINGS), U: flat(get('prefix_task_cols')), V: flat(get('prefix_task_rows')) };
  },
  encode: ({ P, U, V }, { options: { tasks, ranks, length } }) => {
    if (U === undefined || V === undefined)
      throw new Error('savePeft: a finished mpt has lost its tasks; save it before finish(), or as prompt tuning');
    return {
      [EMBEDDINGS]: P!,
      prefix_task_cols: { data: U.data, shape: [tasks, length, ranks] },
      prefix_task_rows: { data: V.data, shape: [tasks, ranks, V.data.length / tasks / ranks] },
    };
  },
});

/** Tables side by side as [p, width], and back. */
const sideBySide = (tables: readonly Table[]): Table => {
  const [length, each] = tables[0]!.shape as readonly [number, number];
  const width = each * tables.length;
  const data = Float64Array.from({ length: length * width }, (_, i) => {
    const column = i % width;
    return tables[Math.floor(column / each)]!.data[Math.floor(i / width) * each + (column % each)]!;
  });
  return { data, shape: [length, width] };
};
const apart = ({ data, shape }: Table, n: number): Table[] => {
  const [length, width] = shape as readonly [number, number];
  const each = width / n;
  return Array.from({ length: n }, (_, k) => ({
    data: Float32Array.from({ length: length * each }, (_v, i) => data[Math.floor(i / each) * width + k * each + (i % each)]!),
    shape: [length, each],
  }));
};
const PREFIX_FIELDS = {
  ...PROMPT_FIELDS,
  init_weights: field(orNull(z.string()), null),
  encoder_hidden_size: field(orNull(whole), null),
  prefix_projection: yes(false),
} as const;
/** The tables side by side, as they are once the MLP has made them. */
const PREFIX = asAny<PrefixTuningConfig, typeof PREFIX_FIELDS>({
  ...shared,
  peftType: 'PREFIX_TUNING',
  method: 'prefixTuning',
  fields: PREFIX_FIELDS,
  finished: true,
  options: (c) => {
    checked(c);
    return () => ({ length: c.num_virtual_tokens, bottleneck: null, init: 'normal', attend: 'attend', dropout: 0, shift: true });
  },
  normal: ({ length, shift }) => ({ length, bottleneck: null, init: 'normal', attend: 'attend', dropout: 0, shift }),
  attach: (o) => prefixTuning(o),
  config: (at, of) => {
    const { shift, length } = at[0]!.options;
    if (!shift)
      throw new Error(
        'savePeft: this prefixTuning leaves the positions of the text alone (shift: false), and Hugging Face PEFT moves them; save it with saveAdapter',
      );
    return {
      ...sizes(of, length),
      token_dim: of.size('kvHeads') * of.size('headWidth'),
      num_attention_heads: of.size('kvHeads'),
    };
  },
  decode: (get, { own }) => Object.fromEntries(apart(get(EMBEDDINGS), own.size).map((t, k) => [`table.${k}`, t])),
  encode: (own) => ({ [EMBEDDINGS]: sideBySide(Object.keys(own).map((_, k) => own[`table.${k}`]!)) }),
});

const CARTRIDGE_FIELDS = { ...PROMPT_FIELDS, num_frozen_tokens: field(whole.optional(), 1) } as const;
/** As a prefix's; the first rows are the frozen ones. */
const CARTRIDGE = asAny<CartridgeConfig, typeof CARTRIDGE_FIELDS>({
  ...shared,
  peftType: 'CARTRIDGE',
  method: 'cartridge',
  fields: CARTRIDGE_FIELDS,
  options: (c) => {
    checked(c);
    return () => ({ length: c.num_virtual_tokens, frozen: c.num_frozen_tokens ?? 1, init: 'normal', attend: 'attend' });
  },
  normal: ({ length, frozen }) => ({ length, frozen, init: 'normal', attend: 'attend' }),
  attach: (o) => cartridge(o),
  config: (at, of) => ({
    ...sizes(of, at[0]!.options.length),
    token_dim: of.size('kvHeads') * of.size('headWidth'),
    num_attention_heads: of.size('kvHeads'),
    num_frozen_tokens: at[0]!.options.frozen,
  }),
  decode: (get, { own, options: { frozen } }) => {
    const n = [...own.keys()].filter((name) => name.startsWith('table.')).length;
    const rows = ({ data, shape }: Table, from: number, to: number): Table => ({
      data: data.slice(from * shape[1]!, to * shape[1]!),
      shape: [to - from, shape[1]!],
    });
    return Object.fromEntries(
      apart(get(EMBEDDINGS), n).flatMap((t, k) => [
        [`table.${k}`, rows(t, frozen, t.shape[0]!)] as const,
        ...(frozen === 0 ? [] : [[`frozen.${k}`, rows(t, 0, frozen)] as const]),
      ]),
    );
  },
  encode: (own) => {
    const tables = Object.keys(own).flatMap((name) => /^table\.(\d+)$/.exec(name)?.[1] ?? []);
    return {
      [EMBEDDINGS]: sideBySide(
        tables.map((_, k) => {
          const [f, t] = [own[`frozen.${k}`], own[`table.${k}`]!];
          if (f === undefined) return t;
          return { data: Float64Array.from([...f.data, ...t.data]), shape: [f.shape[0]! + t.shape[0]!, t.shape[1]!] };
        }),
      ),
    };
  },
});

const CPT_FIELDS = {
  ...PROMPT_FIELDS,
  cpt_token_ids: field(orNull(z.array(whole)), null),
  cpt_mask: field(orNull(z.array(whole)), null),
  cpt_tokens_type_mask: field(orNull(z.array(whole)), null),
  opt_weighted_loss_type: field(z.string().nullable().optional(), 'none'),
  opt_loss_decay_factor: number(1),
  opt_projection_epsilon: number(0.1),
  opt_projection_format_epsilon: number(0.1),
  tokenizer_name_or_path: field(orNull(z.string()), null),
} as const;
/** The file has the examples' rows where they were moved to, so it is read as a prompt: how far they are from where they were is gone. */
const CPT = (method: 'promptTuning' | 'cpt'): AnyFormat =>
  asAny<PromptTuningConfig, typeof CPT_FIELDS>({
    ...shared,
    ...asPrompt,
    peftType: 'CPT',
    method,
    fields: CPT_FIELDS,
    is: () => method === 'promptTuning',
    refuses: onEncoder('prompt'),
    options: (c) => {
      checked(c);
      return () => ({ length: c.num_virtual_tokens, init: 'normal', place: 'embedding' });
    },
    normal: (o) => (method === 'cpt' ? o : { ...o, init: 'normal' }),
    attach: (o) => promptTuning(o),
    ...(method === 'cpt'
      ? { made: ({ P, delta }) => ({ P: { data: Float64Array.from(P!.data, (v, k) => v + delta!.data[k]!), shape: P!.shape } }) }
      : {}),
    config: (at, of) => {
      const { ids, types, epsilon, formatEpsilon } = at[0]!.options as unknown as CptConfig;
      return {
        ...sizes(of, ids.length),
        cpt_token_ids: ids,
        cpt_mask: ids.map(() => 1),
        cpt_tokens_type_mask: types,
        opt_projection_epsilon: epsilon,
        opt_projection_format_epsilon: formatEpsilon,
      };
    },
  });

const ADAPTION_FIELDS = {
  target_modules: field(orNull(z.string()), null),
  adapter_len: field(count, 10),
  adapter_layers: field(count, 1),
} as const;
/** adaption_prompt [1, K, d] and adaption_gate [1] at the attention of the last blocks. */
const ADAPTION = asAny<LlamaAdapterConfig, typeof ADAPTION_FIELDS>({
  peftType: 'ADAPTION_PROMPT',
  method: 'llamaAdapter',
  fields: ADAPTION_FIELDS,
  on: 'branch',
  conv1d: true,
  targets: (c, places) => {
    const end = c.target_modules;
    const hit = places.filter((p) => end == null || p.module.endsWith(`.${end}`));
    if (c.adapter_layers > hit.length) throw new Unsupported(`adapter_layers is ${c.adapter_layers}, and this model has ${hit.length}`);
    return hit.slice(-c.adapter_layers);
  },
  options: (c) => (place) => ({ length: c.adapter_len, gate: 'one', project: place!.module.endsWith('.self_attn') }),
  normal: (o) => {
    if (o.gate !== 'one')
      throw new Error(
        "savePeft: Hugging Face PEFT has one gate for an attention, as it is; attach llamaAdapter with gate: 'one' (and project: false on GPT-2)",
      );
    return { length: o.length, gate: o.gate, project: o.project };
  },
  attach: (o) => llamaAdapter(o),
  config: (at, { size }) => {
    const blocks = at.map((a) => Number(/blocks\.(\d+)\./.exec(a.path)?.[1])).sort((a, b) => a - b);
    const layers = size('layers');
    if (blocks.some((b, k) => b !== layers - blocks.length + k))
      throw new Error(
        `savePeft: Hugging Face PEFT has LLaMA-Adapter in the last blocks only, and here it is in ${blocks.join(', ')} of ${layers}`,
      );
    const wrong = at.find((a) => a.options.project !== a.module.endsWith('.self_attn'));
    if (wrong !== undefined)
      throw new Error(
        `savePeft: project is ${wrong.options.project} at ${wrong.path}, and Hugging Face PEFT has it ${!wrong.options.project} in this network`,
      );
    return { target_modules: at[0]!.module.split('.').at(-1)!, adapter_len: at[0]!.options.length, adapter_layers: blocks.length };
  },
  decode: (get) => {
    const P = get('adaption_prompt');
    return { P: { data: P.data, shape: P.shape.slice(1) }, gate: get('adaption_gate') };
  },
  encode: ({ P, gate }) => ({ adaption_prompt: { data: P!.data, shape: [1, ...P!.shape] }, adaption_gate: gate! }),
});

export const PROMPTS: readonly AnyFormat[] = [
  PROMPT_TUNING,
  pTuning('promptTuning', true),
  pTuning('pTuning', false),
  MPT,
  PREFIX,
  CARTRIDGE,
  CPT('promptTuning'),
  CPT('cpt'),
  ADAPTION,
];
