// What peft-rest.json (hf_peft_rest.py) holds, as methods of this library: where each of our tensors is in theirs, and what is drawn.

import { float64 } from '../../core/engines/float64.ts';
import { leaf, param, paramOf } from '../../core/tensor.ts';
import type { Model } from '../../nn/layer.ts';
import { mapTensors } from '../../nn/tree.ts';
import { cartridge } from '../../peft/additive/cartridge.ts';
import { cpt } from '../../peft/additive/cpt.ts';
import { cptLoss } from '../../peft/additive/cptLoss.ts';
import type { Transform } from '../../peft/method.ts';
import { adamss } from '../../peft/reparameterized/adamss.ts';
import { alora } from '../../peft/reparameterized/alora.ts';
import { frod } from '../../peft/reparameterized/frod.ts';
import { kasa } from '../../peft/reparameterized/kasa.ts';
import { monteclora } from '../../peft/reparameterized/monteclora.ts';
import { velora } from '../../peft/reparameterized/velora.ts';
import { trainableTokens } from '../../peft/selective/trainableTokens.ts';
import type { Table } from './fixtures.ts';
import { rows } from './fixtures.ts';
import type { Compared, Recorded } from './hfPeftCases.ts';
import { compared, named } from './hfPeftUpdates.ts';
import { type Network, networks } from './networks.ts';

const AT = ['v', 'down'];
const DENSE = ['q', 'up'];
const LORA = { A: 'lora_A.default.weight', B: 'lora_B.default.weight' };
const r2 = { rank: 2, alpha: 3 };
const engine = float64();
const group = 'rest';

/** trunk.blocks.0.attn.v.adamss.A.1 → the place, A, and 1. */
function parts(path: string): { readonly site: string; readonly name: string; readonly k: number } {
  const [, site, name, k] = /^(.*?(?:attn|mlp)\.\w+)\.\w+\.(\w+)(?:\.(\d+))?$/.exec(path)!;
  return { site: site!, name: name!, k: Number(k) };
}
const at = (network: keyof typeof networks, site: string): string => `base_model.model.${networks[network].moduleOf(site)}`;

/** AdaMSS with the library's clusters: as many of them, of other sizes. */
function adamssCase(title: string, network: 'llama' | 'bert', method: Transform): [string, Compared] {
  const own = (path: string): string => {
    const { site, name, k } = parts(path);
    return `${at(network, site)}.adamss_${name}.default.${k}`;
  };
  const make = async ({ base }: Network, f: Recorded): Promise<Model> =>
    mapTensors((await method.prepare(base, { engine, batches: [] }))(base), (t, path) => {
      if (!path.includes('.adamss.')) return t;
      const { site, name, k } = parts(path);
      const module = at(network, site);
      if (name === 'A' || name === 'B') {
        const { data, shape } = f.tensors[own(path)]!;
        return param(Float32Array.from(data), shape);
      }
      if (name === 'average' || name === 'spread') {
        const K = Object.keys(f.tensors).filter((n) => n.startsWith(`${module}.adamss_A`)).length;
        const { shape } = f.tensors[`${module}.adamss_${k < K ? 'A' : 'B'}.default.${k % K}`]!;
        return param(new Float64Array(shape[0]! * shape[1]!), shape, { active: false });
      }
      if (paramOf(t) !== null) return t; // which clusters go on
      const { data: V, shape } = f.fixed[`${module}.adamss_newB.default`]!;
      const scattered = f.fixed[`${module}.scatter_index`]!.data;
      if (name === 'place')
        return leaf(
          Int32Array.from(scattered, (_, o) => scattered.indexOf(o)),
          t.shape,
        );
      const into = t.shape.length === 2 ? t.shape[1]! : shape[1]! - 1; // theirs has a column for the bias
      return leaf(Float32Array.from(V.filter((_, i) => (name === 'V' ? i % shape[1]! < into : i % shape[1]! === into))), t.shape);
    });
  return [
    `${title} ${network}`,
    {
      network,
      group,
      feed: {},
      make,
      from: (path, table) => table(own(path))!.data,
    },
  ];
}

/** FRoD on the library's basis: U and the first λ of each layer, V and the places of S of each kind. */
function frodCase(network: 'llama' | 'bert', where: readonly string[]): [string, Compared] {
  const fixed = (f: Recorded, site: string, name: string): Table => {
    const whole = `${at(network, site)}.${name}`;
    return f.fixed[whole] ?? f.fixed[whole.replace(/\.\d\./, '.0.')]!;
  };
  const method = frod({ sparsity: 0.03, where });
  return [
    `frod ${network}`,
    {
      network,
      group,
      feed: {},
      make: async ({ base }, f) =>
        mapTensors((await method.prepare(base, { engine, batches: [] }))(base), (t, path) => {
          if (!path.includes('.frod.') || paramOf(t) !== null) return t;
          const { site, name } = parts(path);
          if (name !== 'row' && name !== 'col') return leaf(Float64Array.from(fixed(f, site, name).data), t.shape);
          const { data } = fixed(f, site, 'places');
          return leaf(Int32Array.from(name === 'row' ? data.slice(0, data.length / 2) : data.slice(data.length / 2)), t.shape);
        }),
      from: (path, table) => {
        const { site, name } = parts(path);
        return table(`${at(network, site)}.${name === 'lambda' ? 'frod_lambda_l' : 'frod_lambda_s_values'}.default`)!.data;
      },
    },
  ];
}

/** The token after each, where it is part of the answer: the text's last three tokens are. */
const ANSWERS = {
  llama: [
    [-100, -100, 6, 12, 2, -100],
    [-100, -100, 11, -100, -100, -100],
  ],
  gpt2: [
    [-100, -100, 1, 6, 1, -100],
    [-100, -100, 9, -100, -100, -100],
  ],
};
const cptCase = (network: 'llama' | 'gpt2'): [string, Compared] => [
  `cpt ${network}`,
  {
    network,
    group,
    feed: {},
    make: async ({ base }) => {
      const t = cpt({ ids: [1, 5, 2, 7, 3, 9], types: [2, 3, 4, 4, 5, 8], epsilon: 9, formatEpsilon: 6 });
      return (await t.prepare(base, { engine, batches: [] }))(base);
    },
    from: (_, table) => table('prompt_encoder.default.delta_embedding.weight')!.data,
    measure:
      ({ batch }) =>
      (m, ctx) =>
        cptLoss(0.7)(m, { ...batch, targets: rows(ANSWERS[network]) }, ctx),
  },
];

/** z is theirs with inputs last; of a Wishart sample the diagonal counts, and its roots are numbers of which the squares add up to it. */
function monteCase(title: string, entropy: boolean): [string, Compared] {
  const RHO = { rho: 'lora_monteclora_sampler.default.std_prior', omega: 'lora_monteclora_sampler.default.expert_weights_prior' };
  return compared(title, {
    method: monteclora({ ...r2, samples: 3, sampleScale: 0.3, prior: 0.4, klWeight: 0.01, entropy, where: AT }),
    group,
    training: true,
    trained: named({ ...LORA, ...RHO }),
    draws: ({ fixed }) =>
      Object.fromEntries(
        [0, 1].flatMap((block) =>
          ['attn.v', 'mlp.down'].flatMap((place) => {
            const site = `trunk.blocks.${block}.${place}`;
            const of = (name: string): readonly number[] =>
              fixed[`${at('llama', site)}.lora_monteclora_sampler.default.z_${name}`]!.data.map(Math.fround);
            const [z, wishart, tilt] = [of('mvn'), of('wishart'), of('dirichlet')];
            const into = z.length / 6;
            const turned = z.map((_, i) => z[Math.floor(i / (2 * into)) * 2 * into + (i % into) * 2 + (Math.floor(i / into) % 2)]!);
            const chi = [Math.sqrt(wishart[0]!), 0, 0, Math.sqrt(wishart[3]!)];
            return Object.entries({ z: turned, chi, tilt }).map(([k, v]) => [`${site}.monteclora.${k}`, v]);
          }),
        ),
      ),
  });
}

const aloraOn = (invocation: readonly number[]): Transform => alora({ ...r2, invocation, where: AT });
const veloraBy = (direction: 'average' | 'random'): Transform => velora({ ...r2, groups: 3, scale: 0.7, direction, where: AT });
/** Rows of tokens 12, 5 and 7; of a tied head too. */
const tokensCase = (network: 'llama' | 'gpt2'): [string, Compared] => [
  `trainableTokens ${network}`,
  {
    network,
    group,
    feed: {},
    make: ({ base }) => trainableTokens({ tokens: [12, 5, 7] })(base),
    from: (_, table) => table(`base_model.model.${networks[network].moduleOf('embed')}.trainable_tokens_delta.default`)!.data,
  },
];
/** Tables of keys and values are runs of columns of theirs. */
function cartridgeCase(network: 'llama' | 'gpt2', frozen: number, width: number): [string, Compared] {
  const columns = ({ data }: Table, k: number): number[] => data.filter((_, i) => Math.floor((i % (4 * width)) / width) === k);
  return [
    `cartridge ${network}`,
    {
      network,
      group,
      feed: {},
      make: ({ base }, f) =>
        mapTensors(cartridge({ length: 3, frozen })(base), (t, path) => {
          const k = /\.frozen\.(\d)$/.exec(path)?.[1];
          return k === undefined
            ? t
            : leaf(Float32Array.from(columns(f.fixed['prompt_encoder.default.frozen_embedding']!, Number(k))), t.shape);
        }),
      from: (path, table) => columns(table('prompt_encoder.default.trainable_embedding')!, Number(path.at(-1))),
    },
  ];
}

const clusters = { directions: 5, subspaces: 3, rank: 2 };
const budget = { target: 4, from: 2, to: 8, interval: 3, beta1: 0.85, beta2: 0.85, exponent: 2 };
export const rest: Readonly<Record<string, Compared>> = Object.fromEntries([
  adamssCase('adamss', 'llama', adamss({ ...clusters, where: AT })),
  adamssCase('adamss', 'bert', adamss({ ...clusters, directions: 100, where: DENSE })),
  adamssCase('adamss threshold', 'bert', adamss({ ...clusters, directions: 4, threshold: 0.3, where: DENSE })),
  adamssCase('adamss budget', 'llama', adamss({ ...clusters, budget, where: AT })),
  frodCase('llama', AT),
  frodCase('bert', DENSE),
  cptCase('llama'),
  cptCase('gpt2'),
  monteCase('monteclora', false),
  monteCase('monteclora entropy', true),
  compared('alora', { method: aloraOn([12]), trained: named(LORA), group }),
  compared('alora two', { method: aloraOn([8, 6]), trained: named(LORA), group }),
  compared('velora', { method: veloraBy('average'), trained: named(LORA), group, training: true }),
  compared('velora random', {
    method: veloraBy('random'),
    trained: named(LORA),
    fixed: (_, table) => table('lora_velora_embed.default')!.data,
    group,
    training: true,
  }),
  compared('kasa penalty', {
    method: kasa({ ...r2, beta: 0.02, gamma: 0.03, where: AT }),
    trained: named({ ...LORA, sigma: 'lora_diag.default' }),
    group,
  }),
  tokensCase('llama'),
  tokensCase('gpt2'),
  cartridgeCase('llama', 1, 8),
  cartridgeCase('gpt2', 0, 16),
]);
