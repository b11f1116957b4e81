// What the fixtures of hf_peft.py hold, as methods of this library: configurations, and where each of our tensors is in theirs.
import { leaf, type Tensor } from '../../core/tensor.ts';
import type { Context } from '../../nn/context.ts';
import type { Model } from '../../nn/layer.ts';
import { mapTensors } from '../../nn/tree.ts';
import { adamw } from '../../optim/adamw.ts';
import type { Optimizer } from '../../optim/optimizer.ts';
import { ia3 } from '../../peft/additive/ia3.ts';
import { lnTuning } from '../../peft/additive/lnTuning.ts';
import { mpt } from '../../peft/additive/mpt.ts';
import { prefixTuning } from '../../peft/additive/prefixTuning.ts';
import { promptTuning } from '../../peft/additive/promptTuning.ts';
import { pTuning } from '../../peft/additive/pTuning.ts';
import type { Transform } from '../../peft/method.ts';
import { adalora } from '../../peft/reparameterized/adalora.ts';
import { boft } from '../../peft/reparameterized/boft.ts';
import { bone } from '../../peft/reparameterized/bone.ts';
import { dora } from '../../peft/reparameterized/dora.ts';
import { fourierft } from '../../peft/reparameterized/fourierft.ts';
import { hira } from '../../peft/reparameterized/hira.ts';
import { hra } from '../../peft/reparameterized/hra.ts';
import { loha } from '../../peft/reparameterized/loha.ts';
import { lokr } from '../../peft/reparameterized/lokr.ts';
import { lora } from '../../peft/reparameterized/lora.ts';
import { loraFa } from '../../peft/reparameterized/loraFa.ts';
import { loraPlus } from '../../peft/reparameterized/loraPlus.ts';
import { miss } from '../../peft/reparameterized/miss.ts';
import { oft } from '../../peft/reparameterized/oft.ts';
import { poly } from '../../peft/reparameterized/poly.ts';
import { vblora } from '../../peft/reparameterized/vblora.ts';
import { vera } from '../../peft/reparameterized/vera.ts';
import { placesAt } from '../../peft/select.ts';
import { bitfit } from '../../peft/selective/bitfit.ts';
import { shira } from '../../peft/selective/shira.ts';
import { fixture, type Table } from './fixtures.ts';
import { type Network, networks } from './networks.ts';

export type Tables = Readonly<Record<string, Table | undefined>>;
export interface Recorded {
  readonly tensors: Readonly<Record<string, Table>>;
  readonly fixed: Readonly<Record<string, Table>>;
  readonly logits: Table;
  readonly loss: number;
  readonly grads: Readonly<Record<string, Table>>;
  readonly losses: readonly number[];
  readonly after: Readonly<Record<string, Table>>;
}
export type Part = 'tensors' | 'grads' | 'after';
type From = (path: string, table: (name: string) => Table | undefined, part: Part) => readonly number[];
export interface Compared {
  readonly network: keyof typeof networks;
  readonly group: string;
  readonly make: (n: Network, f: Recorded) => Model | Promise<Model>;
  /** The numbers of our tensor at a path, out of their tables. */
  readonly from: From;
  readonly feed: Readonly<Record<string, readonly number[]>>;
  readonly optimizer?: Optimizer;
  /** Run as in training, with the library's random numbers: by the names that ours are drawn under. */
  readonly training?: boolean;
  readonly draws?: (f: Recorded) => Readonly<Record<string, readonly number[]>>;
  /** In place of the cross-entropy of all tokens. */
  readonly measure?: (n: Network) => (model: Model, ctx: Context) => Tensor;
}

const found = (t: Table | undefined, name: string): readonly number[] => {
  if (t === undefined) throw new Error(`the fixture has no ${name}`);
  return t.data;
};
/** trunk.blocks.0.attn.q.lora.A → the place, and A. What stands on a weight has `weight` or `bias` in between. */
export function parts(path: string): { readonly site: string; readonly of: string; readonly name: string } {
  const [, site, of = '', name] = /^(.*?)(?:\.(weight|bias))?\.\w+\.(\w+)$/.exec(path)!;
  return { site: site!, of, name: name! };
}
/** At each place of the network, tensors by name. */
const placed =
  (network: keyof typeof networks, names: Readonly<Record<string, string>>): From =>
  (path, table) => {
    const { site, name } = parts(path);
    const theirs = `base_model.model.${networks[network].moduleOf(site)}.${names[name]}`;
    return found(table(theirs), theirs);
  };
/** Columns `from` to `to` of a table. */
const columns = ({ data, shape }: Table, from: number, to: number): number[] =>
  data.filter((_, k) => k % shape.at(-1)! >= from && k % shape.at(-1)! < to);

type Names = Readonly<Record<string, string>>;
type Build = (n: Network, f: Recorded) => Model;
const simple =
  (t: Transform): Build =>
  (n) =>
    t(n.base);
/** Several networks with one method. */
const on = (
  group: string,
  title: string,
  names: Names,
  each: Partial<Record<keyof typeof networks, Transform | Build>>,
  more: { readonly optimizer?: Optimizer } = {},
): Record<string, Compared> =>
  Object.fromEntries(
    Object.entries(each).map(([key, how]) => {
      const network = key as keyof typeof networks;
      const make: Build = 'parts' in how ? simple(how) : how;
      return [`${title} ${network}`, { network, group, make, from: placed(network, names), feed: {}, ...more }];
    }),
  );
/** The leaves at the paths that `numbers` knows, replaced. */
const withFixed = (model: Model, numbers: (path: string) => readonly number[] | null): Model =>
  mapTensors(model, (t, path) => {
    const now = numbers(path);
    return now === null ? t : leaf(Float32Array.from(now), t.shape);
  });
const withFixedAt = (
  t: Transform,
  network: keyof typeof networks,
  theirs: (site: string, f: Recorded) => Names | Record<string, readonly number[]>,
): Build => {
  const { moduleOf } = networks[network];
  return (n, f) =>
    withFixed(t(n.base), (path) => {
      if (!/\.(vera|fourierft|shira|loraFa)\.\w+$/.test(path)) return null;
      const { site, name } = parts(path);
      return (theirs(`base_model.model.${moduleOf(site)}`, f)[name] as readonly number[] | undefined) ?? null;
    });
};

const AT = ['v', 'down'];
const DENSE = ['q', 'up'];
const FUSED = ['qkv', 'down'];
const onWeights = (where: readonly string[]): string[] => where.map((w) => `${w}.weight`);
const LORA = { A: 'lora_A.default.weight', B: 'lora_B.default.weight' };
const DORA = { ...LORA, m: 'lora_magnitude_vector.default.weight' };
const r2 = { rank: 2, alpha: 3 };
const triplets = { rank: 3, targetRank: 1, alpha: 3, tinit: 0, tfinal: 1, deltaT: 1, orthogonality: 0.1 };

const fa = withFixedAt(loraFa({ ...r2, where: AT }), 'llama', (site, f) => ({ A: f.fixed[`${site}.${LORA.A}`]!.data }));
const loraLike = {
  ...on('lora', 'lora', LORA, {
    llama: lora({ ...r2, where: AT }),
    gpt2: lora({ ...r2, where: FUSED }),
    bert: lora({ ...r2, where: DENSE }),
  }),
  ...on('lora', 'rslora', LORA, { llama: lora({ ...r2, rankStabilized: true, where: AT }) }),
  ...on('dora', 'dora', DORA, {
    llama: dora({ ...r2, where: AT }),
    gpt2: dora({ ...r2, where: FUSED }),
    bert: dora({ ...r2, where: DENSE }),
  }),
  ...on('lora-optimizers', 'loraPlus', LORA, { llama: loraPlus({ ...r2, ratio: 4, where: AT }) }),
  ...on('lora-optimizers', 'loraFa', LORA, { llama: fa }, { optimizer: adamw({ lr: 0.01, eps: 1e-15, weightDecay: 0 }) }),
  ...on(
    'lora-optimizers',
    'loraFa epsilon',
    LORA,
    { llama: fa },
    { optimizer: adamw({ lr: 0.01, eps: 0.01 / Math.sqrt(1 - 0.999), weightDecay: 0 }) },
  ),
  ...on(
    'adalora',
    'adalora',
    { A: 'lora_A.default', E: 'lora_E.default', B: 'lora_B.default' },
    {
      llama: adalora({ ...triplets, where: AT }),
      gpt2: adalora({ ...triplets, where: FUSED }),
    },
  ),
};

const L = { l: 'ia3_l.default' };
/** Theirs is a copy of gain and shift, ours the change. */
const changeOf =
  (network: keyof typeof networks): From =>
  (path, table, part) => {
    const { site, of } = parts(path);
    const module = networks[network].moduleOf(site);
    const now = found(table(`base_model.model.${module}.ln_tuning_layers.default.${of}`), path);
    if (part === 'grads') return now;
    const base = fixture<{ readonly weights: Tables }>(`nn-${network}`).weights[`${module}.${of}`]!.data;
    return now.map((v, k) => v - Math.fround(base[k]!));
  };
const additive = {
  ...on('additive', 'ia3', L, {
    llama: ia3({}),
    gpt2: ia3({ where: FUSED, queries: true }),
    bert: ia3({ where: ['k', 'v', 'o', 'down'], feedforward: ['o', 'down'] }), // "output.dense" is the name of both there
  }),
  ...on('additive', 'bitfit', { delta: 'beft_bias.default' }, { bert: bitfit({ where: 'v.bias' }) }), // called BEFT there
  ...Object.fromEntries(
    (['llama', 'gpt2', 'bert'] as const).map((network) => [
      `lnTuning ${network}`,
      { network, group: 'additive', make: simple(lnTuning()), from: changeOf(network), feed: {} },
    ]),
  ),
};

/** Prompts: one encoder in front of the network, `names` by the path within the method. */
const prompt = (network: 'llama' | 'gpt2', t: Transform, names: (name: string) => string, group = 'prompts', feed = {}): Compared => ({
  network,
  group,
  feed,
  make: simple(t),
  from: (path, table) => {
    const name = `prompt_encoder.default.${names(path.replace(/^trunk\.\w+\./, ''))}`;
    return found(table(name), name);
  },
});
const LSTM = (k: number): string => {
  const [layer, way, part] = [Math.floor(k / 8), Math.floor(k / 4) % 2, k % 4];
  return `lstm_head.${['weight_ih', 'weight_hh', 'bias_ih', 'bias_hh'][part]}_l${layer}${way === 1 ? '_reverse' : ''}`;
};
/** W.1 → the second linear layer; activations stand between them. */
const encoder = (name: string): string => {
  const [kind, k] = name.split('.');
  if (kind === 'E') return 'embedding.weight';
  if (kind === 'lstm') return LSTM(Number(k));
  return `mlp_head.${2 * Number(k)}.${kind === 'W' ? 'weight' : 'bias'}`;
};
/** A table of keys or values is a run of columns of theirs, or a run of rows of the last layer's weights. */
const prefix = (network: 'llama' | 'gpt2', width: number, t: Transform): Compared => ({
  network,
  group: 'prefixes',
  feed: {},
  make: simple(t),
  from: (path, table) => {
    const [name, index] = path.replace('trunk.prefixTuning.', '').split('.');
    const whole = (n: string): Table => table(`prompt_encoder.default.${n}`)!;
    const k = Number(index);
    const run = ({ data, shape }: Table): readonly number[] =>
      data.slice((k * width * data.length) / shape[0]!, ((k + 1) * width * data.length) / shape[0]!);
    if (name === 'table') return columns(whole('embedding.weight'), k * width, (k + 1) * width);
    if (name === 'W2') return run(whole('transform.2.weight'));
    if (name === 'b2') return run(whole('transform.2.bias'));
    return whole({ E: 'embedding.weight', W1: 'transform.0.weight', b1: 'transform.0.bias' }[name!]!).data;
  },
});
const prompts: Record<string, Compared> = {
  'promptTuning llama': prompt('llama', promptTuning({ length: 3 }), () => 'embedding.weight'),
  'promptTuning gpt2': prompt('gpt2', promptTuning({ length: 3 }), () => 'embedding.weight'),
  'promptTuning bert': {
    network: 'bert',
    group: 'prompts',
    feed: {},
    make: simple(promptTuning({ length: 3 })),
    // Theirs is in front of the word embeddings and gets a segment's embedding added; ours stands where all embeddings are added up.
    from: (_, table, part) => {
      const P = found(table('prompt_encoder.default.embedding.weight'), 'prompt_embeddings');
      const segment = fixture<{ readonly weights: Tables }>('nn-bert').weights['bert.embeddings.token_type_embeddings.weight']!.data;
      return part === 'grads' ? P : P.map((v, k) => v + Math.fround(segment[k % 16]!));
    },
  },
  'prefixTuning llama': prefix('llama', 8, prefixTuning({ length: 3, bottleneck: null })),
  'prefixTuning gpt2': prefix('gpt2', 16, prefixTuning({ length: 3, bottleneck: null })),
  'prefixTuning mlp gpt2': prefix('gpt2', 16, prefixTuning({ length: 3, bottleneck: 4 })),
  'pTuning mlp llama': prompt('llama', pTuning({ length: 3, hidden: 5 }), encoder),
  'pTuning lstm llama': prompt('llama', pTuning({ length: 3, encoder: 'lstm', hidden: 3, layers: 2 }), encoder),
  'mpt llama': prompt(
    'llama',
    mpt({ length: 3, tasks: 2, ranks: 2 }),
    (name) => ({ P: 'embedding.weight', U: 'prefix_task_cols', V: 'prefix_task_rows' })[name]!,
    'prompts',
    { task: [1, 0] },
  ),
};

const HIRA = { A: 'hira_A.default', B: 'hira_B.default' };
const LOKR = Object.fromEntries(['w1', 'w1a', 'w1b', 'w2', 'w2a', 'w2b'].map((n) => [n, `lokr_${n.replace(/([ab])$/, '_$1')}.default`]));
const VBLORA = { logitsA: 'vblora_logits_A.default', logitsB: 'vblora_logits_B.default', bank: 'vblora_vector_bank.default' };
const products = {
  ...on(
    'factored',
    'loha',
    { A1: 'hada_w1_a.default', B1: 'hada_w1_b.default', A2: 'hada_w2_a.default', B2: 'hada_w2_b.default' },
    { llama: loha({ ...r2, where: AT }) },
  ),
  ...on('factored', 'lokr', LOKR, { llama: lokr({ rank: 1, alpha: 3, decomposeBoth: true, where: AT }) }),
  ...on('factored', 'lokr whole', LOKR, { llama: lokr({ rank: 5, alpha: 3, factor: 2, where: AT }) }),
  ...on('factored', 'hira', HIRA, { llama: hira({ rank: 2, where: onWeights(AT) }), gpt2: hira({ rank: 2, where: onWeights(FUSED) }) }),
  ...on(
    'shared',
    'vera',
    { lambdaB: 'vera_lambda_b.default', lambdaD: 'vera_lambda_d.default' },
    {
      llama: withFixedAt(vera({ rank: 3, where: AT }), 'llama', (_, { fixed }) => {
        const [A, B] = ['vera_A', 'vera_B'].map((n) => Object.entries(fixed).find(([k]) => k.includes(n))![1].data);
        return { A: A!, B: B! };
      }),
    },
  ),
  ...on('shared', 'vblora', VBLORA, { llama: vblora({ rank: 2, vectors: 6, vectorLength: 4, topK: 2, logitsRate: 1, where: AT }) }),
};

const R = { Q: 'oft_R.default.weight' };
const X = { X: 'boft_R.default', s: 'boft_s.default' };
const U = { U: 'hra_u.default' };
const b4 = { blockSize: 4 };
const rotations = {
  ...on('rotations', 'oft', R, { bert: oft({ ...b4, where: DENSE }) }),
  ...on('rotations', 'oft neumann', R, { bert: oft({ ...b4, neumann: 5, where: DENSE }) }),
  ...on('rotations', 'oft shared', R, { bert: oft({ ...b4, share: true, where: DENSE }) }),
  ...on('rotations', 'oft constrained', R, { llama: oft({ ...b4, epsilon: 0.5, where: AT }) }),
  ...on('rotations', 'boft', X, { bert: boft({ ...b4, factors: 1, where: DENSE }) }),
  ...on('rotations', 'boft butterfly', X, { bert: boft({ ...b4, factors: 3, where: DENSE }) }),
  ...on('rotations', 'hra', U, { bert: hra({ rank: 3, where: DENSE }), llama: hra({ rank: 2, where: AT }) }),
};

/** Their [2, k] rows and columns. */
const halves = ({ data }: Table): readonly [readonly number[], readonly number[]] => [
  data.slice(0, data.length / 2),
  data.slice(data.length / 2),
];
const frequencies = (site: string, f: Recorded): Record<string, readonly number[]> => {
  const [u, v] = halves(f.fixed[`${site}.indices`]!);
  return { u, v };
};
const OF_WIDTH: Readonly<Record<string, readonly [number, number]>> = { v: [8, 16], down: [16, 24] };
const entries = (site: string, f: Recorded): Record<string, readonly number[]> => {
  const shape = OF_WIDTH[site.includes('down') ? 'down' : 'v']!;
  const [i, j] = halves(f.fixed[`${site}.shira_indices`]!);
  const { start, col } = placesAt(
    i.map((row, k) => row * shape[1] + j[k]!),
    shape,
  );
  const values = (t: typeof start): number[] => (t.source.kind === 'leaf' ? [...t.source.data] : []);
  return { start: values(start), col: values(col) };
};
const M = { M: 'miss_block.default' };
const sparse = {
  ...on(
    'places',
    'shira',
    { values: 'shira_weight.default' },
    { llama: withFixedAt(shira({ rank: 1, where: onWeights(AT) }), 'llama', entries) },
  ),
  ...on(
    'places',
    'fourierft',
    { c: 'fourierft_spectrum.default' },
    {
      llama: withFixedAt(fourierft({ coefficients: 9, scaling: 20, where: AT }), 'llama', frequencies),
      gpt2: withFixedAt(fourierft({ coefficients: 9, scaling: 20, where: FUSED }), 'gpt2', frequencies),
    },
  ),
  ...on('sums', 'miss', M, { llama: miss({ rank: 5, where: AT }) }),
  ...on('sums', 'miss mini', M, { llama: miss({ rank: 4, miniRank: 2, where: AT }) }),
  ...on('sums', 'bone', M, { llama: bone({ rank: 4, where: onWeights(AT) }), bert: bone({ rank: 4, where: onWeights(DENSE) }) }),
};

/** Each row of the batch has its task. */
const skills: Record<string, Compared> = {
  'poly llama': {
    network: 'llama',
    group: 'skills',
    feed: { task: [2, 0] },
    make: simple(poly({ rank: 2, tasks: 3, skills: 3, splits: 2, where: AT })),
    from: placed('llama', { A: 'poly_lora_A.default', B: 'poly_lora_B.default', logits: 'poly_router.default.module_logits' }),
  },
};

export const cases: Readonly<Record<string, Compared>> = {
  ...skills,
  ...loraLike,
  ...additive,
  ...prompts,
  ...products,
  ...rotations,
  ...sparse,
};
