// What the fixture of hf_peft_types.py holds, as methods of this library: configurations, and where each of our tensors is in theirs.
import { leaf } from '../../core/tensor.ts';
import type { Model } from '../../nn/layer.ts';
import { mapTensors } from '../../nn/tree.ts';
import type { Transform } from '../../peft/method.ts';
import { bdLora } from '../../peft/reparameterized/bdLora.ts';
import { c3a } from '../../peft/reparameterized/c3a.ts';
import { deft } from '../../peft/reparameterized/deft.ts';
import { delora } from '../../peft/reparameterized/delora.ts';
import { glora } from '../../peft/reparameterized/glora.ts';
import { gralora } from '../../peft/reparameterized/gralora.ts';
import { kasa } from '../../peft/reparameterized/kasa.ts';
import { lily } from '../../peft/reparameterized/lily.ts';
import { mica } from '../../peft/reparameterized/mica.ts';
import { osf } from '../../peft/reparameterized/osf.ts';
import { peanut } from '../../peft/reparameterized/peanut.ts';
import { psoft } from '../../peft/reparameterized/psoft.ts';
import { pvera } from '../../peft/reparameterized/pvera.ts';
import { randlora } from '../../peft/reparameterized/randlora.ts';
import { road } from '../../peft/reparameterized/road.ts';
import { tinyLora } from '../../peft/reparameterized/tinyLora.ts';
import { uniLora } from '../../peft/reparameterized/uniLora.ts';
import { waveft } from '../../peft/reparameterized/waveft.ts';
import { beft } from '../../peft/selective/beft.ts';
import { supertuning } from '../../peft/selective/supertuning.ts';
import { fixture, type Table } from './fixtures.ts';
import type { Compared, Recorded, Tables } from './hfPeftCases.ts';
import { type Network, networks } from './networks.ts';

/** Of one place: our tensor's numbers out of their tables, by name. */
type Read = (name: string, table: (suffix: string) => Table, site: string) => readonly number[];
export interface How extends Pick<Compared, 'training' | 'draws'> {
  readonly method: Transform;
  readonly trained: Read;
  /** Frozen tensors that are random, or a singular vector with a sign of its own: theirs. Null leaves ours. */
  readonly fixed?: (name: string, table: (suffix: string) => Table | undefined, f: Recorded) => readonly number[] | null;
  readonly network?: 'llama' | 'bert';
  readonly group?: string;
}

/** trunk.blocks.0.attn.q.lora.A → the place, and A; of what stands on a weight, and of lists, as well. */
function parts(path: string): { readonly site: string; readonly name: string } {
  const [, site, name] = /^(.*?(?:attn|mlp)\.\w+?)(?:\.weight)?\.\w+\.(\w+(?:\.\d+)?)$/.exec(path)!;
  return { site: site!, name: name! };
}
export const compared = (
  title: string,
  { method, trained, fixed, network = 'llama', group = 'updates', ...more }: How,
): [string, Compared] => {
  const module = (site: string): string => `base_model.model.${networks[network].moduleOf(site)}`;
  const withFixed = (model: Model, f: Recorded): Model =>
    mapTensors(model, (t, path) => {
      if (fixed === undefined || t.source.kind !== 'leaf' || !new RegExp(`\\.${method.title}\\.`).test(path)) return t;
      const { site, name } = parts(path);
      const now = fixed(name, (suffix) => f.fixed[suffix.startsWith('base_model') ? suffix : `${module(site)}.${suffix}`], f);
      return now === null ? t : leaf(t.source.data instanceof Int32Array ? Int32Array.from(now) : Float32Array.from(now), t.shape);
    });
  return [
    `${title} ${network}`,
    {
      network,
      ...more,
      group,
      feed: {},
      make: (n: Network, f: Recorded) => withFixed(method(n.base), f),
      from: (path, table) => {
        const { site, name } = parts(path);
        return trained(
          name,
          (suffix) => {
            const whole = suffix.startsWith('base_model') ? suffix : `${module(site)}.${suffix}`;
            const t = table(whole) ?? table(whole.replace(/layers\.\d/, 'layers.0')); // what layers share is under the first
            if (t === undefined) throw new Error(`the fixture has no ${whole}`);
            return t;
          },
          site,
        );
      },
    },
  ];
};

/** Suffixes by our names. */
export const named =
  (names: Readonly<Record<string, string>>): Read =>
  (name, table) =>
    table(names[name] ?? name).data;
/** A table with its dimensions in another order. */
function permuted({ data, shape }: Table, order: readonly number[], as: readonly number[] = shape): number[] {
  const strides = as.map((_, d) => as.slice(d + 1).reduce((a, b) => a * b, 1));
  const to = order.map((d) => as[d]!);
  return Array.from({ length: data.length }, (_, k) => {
    let [rest, at] = [k, 0];
    for (let d = to.length - 1; d >= 0; d--) {
      at += (rest % to[d]!) * strides[order[d]!]!;
      rest = Math.floor(rest / to[d]!);
    }
    return data[at]!;
  });
}
const containing = (fixed: Tables, part: string): readonly number[] => Object.entries(fixed).find(([k]) => k.includes(part))![1]!.data;

const { cases: recorded } = fixture<{ readonly cases: Readonly<Record<string, Recorded>> }>('peft-updates');
const AT = ['v', 'down'];
const WEIGHTS = ['v.weight', 'down.weight'];
const DENSE = ['q', 'up'];
const LORA = { A: 'lora_A.default.weight', B: 'lora_B.default.weight' };
const r2 = { rank: 2, alpha: 3 };
const SHAPE: Readonly<Record<string, readonly [number, number]>> = { v: [8, 16], down: [16, 24] };
/** Places in ascending order, as sparse tensors keep them. */
const ascending = (places: readonly number[]): number[] => places.map((_, k) => k).sort((a, b) => places[a]! - places[b]!);
const roads = ([1, 2, 4] as const).map((variant) =>
  compared(`road ${variant}`, {
    method: road({ variant, groupSize: 8, where: DENSE }),
    network: 'bert',
    trained: named({ theta: 'road_theta.default', alpha: 'road_alpha.default' }),
  }),
);

export const updates: Readonly<Record<string, Compared>> = Object.fromEntries([
  compared('pvera', {
    method: pvera({ rank: 3, where: AT }),
    trained: named({ lambdaB: 'pvera_lambda_b.default', lambdaD: 'pvera_lambda_d.default' }),
    fixed: (name, _, { fixed }) => containing(fixed, `pvera_${name}`),
  }),
  compared('randlora', {
    method: randlora({ rank: 3, alpha: 6, where: AT }),
    trained: named({ lambda: 'randlora_lambda.default', gamma: 'randlora_gamma.default' }),
    fixed: (name, _, { fixed }) => containing(fixed, `randlora_${name}`),
  }),
  compared('uniLora', {
    method: uniLora({ rank: 2, size: 7, where: AT }),
    trained: named({ theta: 'base_model.model.model.layers.0.self_attn.v_proj.unilora_theta_d.default' }),
    fixed: (name, table, { fixed }) => {
      if (name !== 'norm') return table(`unilora_indices_${name.slice(-1)}.default`)!.data;
      const norm = new Array<number>(7).fill(0);
      for (const [key, { data }] of Object.entries(fixed))
        if (key.includes('indices')) for (const [k, i] of data.entries()) norm[i] = fixed[key.replace('indices', 'scales')]!.data[k]!;
      return norm;
    },
  }),
  compared('c3a', { method: c3a({ blockSize: 4, where: AT }), trained: named({ w: 'c3a_kernel.default' }) }),
  compared('gralora', {
    method: gralora({ rank: 4, alpha: 3, blocks: 2, hybrid: 1, where: AT }),
    trained: (name, table) => {
      if (name.startsWith('whole')) return table(`gralora_${name.slice(-1)}_general.default.weight`).data;
      const t = table(`gralora_${name}.default`);
      return name === 'A' ? permuted(t, [0, 2, 3, 1], [t.shape[0]!, t.shape[1]!, 2, 2]) : permuted(t, [0, 2, 1]);
    },
  }),
  compared('delora', {
    method: delora({ rank: 2, lambda: 2, where: AT }),
    trained: named({ A: 'delora_A.default', B: 'delora_B.default', lambda: 'delora_lambda.default' }),
    fixed: (_, table) => table('delora_w_norm.default')!.data,
  }),
  ...roads,
  compared('psoft', {
    method: psoft({ rank: 3, alpha: 2, where: AT }),
    trained: named({ Q: 'psoft_R.default.weight', before: 'psoft_R.default.vector_a', after: 'psoft_R.default.vector_b' }),
    fixed: (name, table) => table(`_psoft_${name}_cache.default`)!.data,
  }),
  compared('deft', { method: deft({ ...r2, where: WEIGHTS }), trained: named({ P: 'deft_P.default', R: 'deft_R.default' }) }),
  compared('peanut', {
    method: peanut({ rank: 3, depth: 2, scale: 0.5, where: WEIGHTS }),
    trained: (name, table) => {
      const [list, k] = name.split('.');
      return table(k === undefined ? `peanut_${name}.default.weight` : `peanut_${list}.default.${k}.weight`).data;
    },
  }),
  compared('glora', {
    method: glora({ rank: 2, where: DENSE }),
    network: 'bert',
    trained: (name, table) => table(`glora_${name[0]}.default.${name.endsWith('up') ? 'Xu' : 'DE'.includes(name[0]!) ? 'X' : 'Xd'}`).data,
  }),
  compared('waveft', {
    method: waveft({ coefficients: 9, scaling: 4, where: AT }),
    trained: named({ c: 'waveft_spectrum.default' }),
    fixed: (name, table) => {
      const { data } = table('indices')!;
      const [p, q] = [data.slice(0, 9), data.slice(9)];
      const [rows, cols] = (q.some((v) => v >= 16) || p.some((v) => v >= 8) ? SHAPE.down! : SHAPE.v!).map((n) => n / 2) as [number, number];
      return p.map((_, k) => (name === 'row' ? (p[k]! % rows) + (q[k]! < cols ? 0 : rows) : (q[k]! % cols) + (p[k]! < rows ? 0 : cols)));
    },
  }),
  compared('osf', {
    method: osf({ kept: 5, where: AT }),
    trained: named({ U: 'osf_svd_params.default.U_low', S: 'osf_svd_params.default.S_low', V: 'osf_svd_params.default.V_low' }),
  }),
  compared('lily', {
    method: lily({ rank: 2, stride: 2, experts: 2, scale: 2, where: AT }),
    trained: (name, table) => {
      const t = table(`lily_${name}.default.weight`);
      return name === 'B' ? permuted(t, [0, 2, 1], [2, 2, t.shape[1]!]) : t.data;
    },
  }),
  compared('beft', { method: beft({}), network: 'bert', trained: named({ delta: 'beft_bias.default' }) }),
  compared('kasa', { method: kasa({ ...r2, beta: 0, gamma: 0, where: AT }), trained: named({ ...LORA, sigma: 'lora_diag.default' }) }),
  compared('mica', { method: mica({ ...r2, where: AT }), trained: named(LORA), fixed: (_, table) => table(LORA.B)!.data }),
  compared('bdLora', { method: bdLora({ ...r2, blocks: 2, where: AT }), trained: named(LORA) }),
  compared('tinyLora', {
    method: tinyLora({ rank: 2, size: 5, where: AT }),
    trained: (_, table, site) => {
      const k = 2 * Number(/\d/.exec(site)![0]) + (site.endsWith('down') ? 1 : 0); // in the order of the network's layers
      return table(`base_model.model.model.layers.0.self_attn.v_proj.tinylora_v.default.${k}`).data;
    },
    fixed: (name, table) => table(`tinylora_${name}.default`)!.data,
  }),
  compared('supertuning', {
    method: supertuning({ sparsity: 0.9, where: WEIGHTS }),
    trained: (_, table, site) => {
      const places =
        recorded['supertuning llama']!.fixed[`base_model.model.${networks.llama.moduleOf(site)}.supertuning_indices.default`]!.data;
      const { data } = table('supertuning_values.default');
      return ascending(places).map((k) => data[k]!);
    },
  }),
]);
