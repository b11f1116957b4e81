// Files of LoRA's variants that have methods of their own here: MiCA, the orthogonal start, KaSA, BD-LoRA, aLoRA, VeLoRA, MonteCLoRA.
import { type AloraConfig, alora } from '../../peft/reparameterized/alora.ts';
import { type BdLoraConfig, bdLora } from '../../peft/reparameterized/bdLora.ts';
import { type KasaConfig, kasa } from '../../peft/reparameterized/kasa.ts';
import type { UpdateConfig } from '../../peft/reparameterized/lora.ts';
import { loraOrthogonal } from '../../peft/reparameterized/loraOrthogonal.ts';
import { mica } from '../../peft/reparameterized/mica.ts';
import { type MontecloraConfig, monteclora } from '../../peft/reparameterized/monteclora.ts';
import { type VeloraConfig, velora } from '../../peft/reparameterized/velora.ts';
import { matches } from '../../peft/site.ts';
import type { Place } from '../names.ts';
import { weightShape } from './adapter.ts';
import { type AnyFormat, asAny, type Format, renamed, same, type Table, Unsupported } from './format.ts';
import { configOf, LORA_FIELDS, type Lora, type LoraVariant, names, optionsOf, WORDS } from './lora.ts';
import { TOKENS_BESIDE } from './words.ts';

type Variant<C> = Format<C, typeof LORA_FIELDS>;
/** Rank, alpha, scaling and dropout at each module. */
function updates(c: Lora, places: readonly Place[], but?: LoraVariant): (place: Place | null) => UpdateConfig {
  const of = optionsOf(c, places, but);
  return (place) => {
    const { init: _, ...o } = of(place);
    return o;
  };
}
const shared = { ...renamed(names), peftType: 'LORA', fields: LORA_FIELDS, on: 'linear', conv1d: true, beside: [TOKENS_BESIDE] } as const;

/** Another start; the file holds both factors all the same. */
const started = (name: string, method: string, attach: Variant<UpdateConfig>['attach']): AnyFormat =>
  asAny<UpdateConfig, typeof LORA_FIELDS>({
    ...shared,
    beside: WORDS,
    method,
    is: (c) => c.use_dora !== true && c.init_lora_weights === name,
    options: updates,
    attach,
    config: (at) => ({ ...configOf(at), init_lora_weights: name }),
  });

/** lora_diag [r] besides. The same directions are dropped from the same weight again. */
const KASA = asAny<KasaConfig, typeof LORA_FIELDS>({
  ...shared,
  ...renamed({ ...names, sigma: 'lora_diag' }),
  method: 'kasa',
  conv1d: false,
  is: (c) => c.kasa_config != null,
  options: (c, places) => {
    const of = updates(c, places, 'kasa_config');
    return (place) => ({ ...of(place), beta: c.kasa_config?.beta ?? 1e-4, gamma: c.kasa_config?.gamma ?? 1e-3 });
  },
  attach: (o) => kasa(o),
  config: (at) => ({
    ...configOf(at),
    kasa_config: { beta: same(at, 'beta', (o) => o.beta), gamma: same(at, 'gamma', (o) => o.gamma) },
  }),
});

const last = (name: string): string => name.split('.').at(-1)!;
const asShape = ({ data }: Table, shape: readonly number[]): Table => ({ data, shape });
/** A factor's blocks under each other: lora_A.weight [r, in/n] or lora_B.weight [out, r/n]. A name's part says which of them is cut. */
const BDLORA = asAny<BdLoraConfig, typeof LORA_FIELDS>({
  ...shared,
  method: 'bdLora',
  conv1d: false,
  is: (c) => c.use_bdlora != null,
  options: (c, places) => {
    const of = updates(c, places, 'use_bdlora');
    const { target_modules_bd_a: a, target_modules_bd_b: b, nblocks } = c.use_bdlora ?? {};
    return (place) => {
      const name = last(place!.module);
      const [cutA, cutB] = [a, b].map((list) => list?.some((part) => name.includes(part)) ?? false);
      if (cutA === cutB)
        throw new Unsupported(
          `use_bdlora cuts ${cutA ? 'both factors' : 'neither factor'} of ${place!.module}; name it in one of target_modules_bd_a and target_modules_bd_b`,
        );
      return { ...of(place), blocks: nblocks ?? 1, byInput: cutA ? [last(place!.path)] : [] };
    };
  },
  attach: (o) => bdLora(o),
  config: (at) => {
    const byInput = at.map(({ options: { byInput: list }, path }) => list.length > 0 && matches(list, path));
    const parts = (cut: boolean): string[] => [...new Set(at.flatMap((a, k) => (byInput[k] === cut ? [last(a.module)] : [])))];
    const [a, b] = [parts(true), parts(false)];
    const both = a.find((name) => b.some((other) => name.includes(other) || other.includes(name)));
    if (both !== undefined)
      throw new Unsupported(`bdLora cuts A at some ${both} and B at others, which a file does not say apart; save them apart`);
    return {
      ...configOf(at),
      use_bdlora: { target_modules_bd_a: a, target_modules_bd_b: b, nblocks: same(at, 'blocks', (o) => o.blocks), match_strict: true },
    };
  },
  decode: (get, { own }) => ({ A: asShape(get(names.A), own.get('A')!), B: asShape(get(names.B), own.get('B')!) }),
  encode: ({ A, B }, { options: { rank, blocks }, place }) => {
    const [out, into] = weightShape(place!);
    return {
      [names.A]: asShape(A!, [rank, A!.shape.length === 3 ? into / blocks : into]),
      [names.B]: asShape(B!, [out, B!.shape.length === 3 ? rank / blocks : rank]),
    };
  },
});

/** lora_velora_embed [in/groups], the direction: where it is the inputs' mean, that of the last batch, and nobody's answer. */
const EMBED = 'lora_velora_embed';
const VELORA = (drawn: boolean): AnyFormat =>
  asAny<VeloraConfig, typeof LORA_FIELDS>({
    ...shared,
    method: 'velora',
    conv1d: false,
    is: (c) => c.velora_config != null && (c.velora_config.init_type === 'random') === drawn,
    options: (c, places) => {
      const { num_groups: groups, scale, init_type: init = 'batch_average' } = c.velora_config ?? {};
      if (init !== 'batch_average' && init !== 'random')
        throw new Unsupported(`velora_config.init_type is ${JSON.stringify(init)}; "batch_average" and "random" are there`);
      const of = optionsOf(c, places, 'velora_config');
      return (place) => ({ ...of(place), groups: groups ?? 64, scale: scale ?? 1, direction: drawn ? 'random' : 'average' });
    },
    attach: (o) => velora(o),
    config: (at) => ({
      ...configOf(at),
      velora_config: {
        num_groups: same(at, 'groups', (o) => o.groups),
        scale: same(at, 'scale', (o) => o.scale),
        init_type: same(at, 'direction', (o) => o.direction) === 'random' ? 'random' : 'batch_average',
      },
    }),
    ...(drawn ? {} : { leftovers: /\.lora_velora_embed$/ }),
    decode: (get) => ({ A: get(names.A), B: get(names.B), ...(drawn ? { v: get(EMBED) } : {}) }),
    encode: ({ A, B, v }, { options: { groups }, config }) => {
      const n = Math.ceil(A!.shape[1]! / groups);
      const none: Table = { data: new Float32Array(n), shape: [n] };
      return { [names.A]: A!, [names.B]: B!, ...(v !== undefined ? { [EMBED]: v } : config === null ? { [EMBED]: none } : {}) };
    },
  });

/** lora_monteclora_sampler.std_prior [r], .expert_weights_prior [E]; its .expert_weights and .gaussian_var_prior are the last step's sample. */
const SAMPLER = 'lora_monteclora_sampler';
const MONTECLORA = asAny<MontecloraConfig, typeof LORA_FIELDS>({
  ...shared,
  method: 'monteclora',
  conv1d: false,
  is: (c) => c.monteclora_config != null,
  options: (c, places) => {
    const of = optionsOf(c, places, 'monteclora_config');
    const m = c.monteclora_config ?? {};
    return (place) => ({
      ...of(place),
      samples: m.num_samples ?? 8,
      sampleScale: m.sample_scaler ?? 1e-4,
      prior: m.dirichlet_prior ?? 0.1,
      klWeight: m.kl_loss_weight ?? 1e-5,
      entropy: m.use_entropy ?? false,
      divergence: 'peft',
    });
  },
  normal: (o, own) => {
    if (own.rho === undefined) throw new Error('savePeft: a finished monteclora is an ordinary LoRA; save it before finish()');
    return { ...o, divergence: 'peft' }; // of training, and nothing that a file says
  },
  attach: (o) => monteclora(o),
  config: (at) => ({
    ...configOf(at),
    monteclora_config: {
      num_samples: same(at, 'samples', (o) => o.samples),
      use_entropy: same(at, 'entropy', (o) => o.entropy),
      dirichlet_prior: same(at, 'prior', (o) => o.prior),
      sample_scaler: same(at, 'sampleScale', (o) => o.sampleScale),
      kl_loss_weight: same(at, 'klWeight', (o) => o.klWeight),
      buffer_size: 150,
    },
  }),
  leftovers: /\.lora_monteclora_sampler\.(expert_weights|gaussian_var_prior)$/,
  decode: (get) => ({
    A: get(names.A),
    B: get(names.B),
    rho: get(`${SAMPLER}.std_prior`),
    omega: get(`${SAMPLER}.expert_weights_prior`),
  }),
  encode: ({ A, B, rho, omega }, { options: { rank, samples }, config }) => ({
    [names.A]: A!,
    [names.B]: B!,
    [`${SAMPLER}.std_prior`]: rho!,
    [`${SAMPLER}.expert_weights_prior`]: omega!,
    ...(config !== null
      ? {}
      : {
          [`${SAMPLER}.expert_weights`]: { data: new Float32Array(samples).fill(1 / samples), shape: [samples] },
          [`${SAMPLER}.gaussian_var_prior`]: {
            data: Float32Array.from({ length: rank ** 2 }, (_, k) => (k % (rank + 1) === 0 ? 1 : 0)),
            shape: [rank, rank],
          },
        }),
  }),
});

const ALORA = asAny<AloraConfig, typeof LORA_FIELDS>({
  ...shared,
  method: 'alora',
  is: (c) => c.alora_invocation_tokens != null && c.alora_invocation_tokens.length > 0,
  options: (c, places) => {
    const of = optionsOf(c, places, 'alora_invocation_tokens');
    return (place) => ({ ...of(place), invocation: c.alora_invocation_tokens ?? [], absent: 'base' });
  },
  attach: (o) => alora(o),
  config: (at) => {
    const invocation: string = same(at, 'invocation', (o) => o.invocation.join(' '));
    if (same(at, 'absent', (o) => o.absent) !== 'base')
      throw new Unsupported("alora adapts all of a text without its invocation (absent: 'all'), and Hugging Face PEFT none of it");
    return { ...configOf(at), alora_invocation_tokens: invocation.split(' ').map(Number) };
  },
});

export const LORA_VARIANTS: readonly AnyFormat[] = [
  ALORA,
  VELORA(true),
  VELORA(false),
  MONTECLORA,
  KASA,
  BDLORA,
  started('mica', 'mica', (o) => mica(o)),
  started('orthogonal', 'loraOrthogonal', (o) => loraOrthogonal(o)),
];
