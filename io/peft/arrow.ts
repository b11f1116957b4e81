// Files of Arrow: each expert a LoRA in a folder of its own (task_0, …, and gks_0, … of general knowledge), and arrow_router, whose configuration says how
// they are routed. The router's own factors have no part in any answer: they are kept as they were, and new ones are 0.
import { leaf } from '../../core/tensor.ts';
import { type ArrowConfig, arrowOver } from '../../peft/reparameterized/arrow.ts';
import { prototype } from '../../peft/reparameterized/arrowPrototype.ts';
import { genKnowSub } from '../../peft/reparameterized/genKnowSub.ts';
import { loraExperts } from '../../peft/reparameterized/loraExperts.ts';
import { some } from '../files.ts';
import type { Place } from '../names.ts';
import {
  type AnyFormat,
  asAny,
  type FactorTables,
  type Format,
  type Held,
  type NamedExpert,
  type Over,
  same,
  type Table,
  Unsupported,
} from './format.ts';
import { LORA_FIELDS, type Lora, names, refuseVariants } from './lora.ts';

export const ROUTER = 'arrow_router';
type Own = Pick<ArrowConfig, 'topK' | 'temperature'>;

/** Names that are those of folders beside the router's, and of nothing else. */
function folders(list: readonly string[] | null | undefined, what: string): readonly NamedExpert[] {
  if (list == null || list.length === 0)
    throw new Unsupported(`arrow_config.${what} is empty; it names the folders of the experts, as task_0`);
  const odd = list.find((n) => !/^\w[\w.-]{0,99}$/.test(n) || n === ROUTER);
  if (odd !== undefined)
    throw new Unsupported(
      `arrow_config.${what} has ${JSON.stringify(odd.slice(0, 60))}, which is no name of a folder beside ${ROUTER}; nothing else is opened`,
    );
  const twice = list.find((n, k) => list.indexOf(n) !== k);
  if (twice !== undefined) throw new Unsupported(`arrow_config.${what} has ${twice} twice`);
  return list.map((name) => ({ name, path: null }));
}
/** The file has no directions: whoever reads it takes them anew, which must give those that are used here. */
function directionStands({ path, own: t }: Held, e: number): void {
  const [A, B] = [t[`A.${e}`]!, t[`B.${e}`]!];
  const now = prototype({ A: leaf(A.data, A.shape), B: leaf(B.data, B.shape) });
  const used = t.prototypes!.data.slice(e * now.length, (e + 1) * now.length);
  const sign = Math.sign(now.reduce((sum, v, i) => sum + v * used[i]!, 0)); // a direction is one up to its sign
  if (now.every((v, i) => Math.abs(v * sign - used[i]!) < 1e-5)) return;
  throw new Unsupported(
    `savePeft: expert ${e} at ${path} was trained after Arrow took its direction, and Hugging Face PEFT would take another; combine the trained LoRAs anew (arrowOf), or write saveAdapter(model, folder)`,
  );
}
const lastOf = (module: string): string => module.split('.').at(-1)!;

const own: Format<Own, typeof LORA_FIELDS> = {
  peftType: 'LORA',
  method: 'arrow',
  fields: LORA_FIELDS,
  is: (c) => c.arrow_config != null,
  on: 'linear',
  conv1d: true,
  options: (c) => {
    refuseVariants(c, 'arrow_config');
    const a = c.arrow_config!;
    const { length } = folders(a.task_adapter_names, 'task_adapter_names');
    const topK = a.top_k ?? 3;
    if (topK > length)
      throw new Unsupported(`arrow_config.top_k is ${topK}, and task_adapter_names has ${length} experts; it can be 1 to ${length}`);
    return () => ({ topK, temperature: a.router_temperature ?? 1 });
  },
  attach: () => {
    throw new Error('Arrow is attached over its experts'); // `over.made` has the format that does
  },
  config: (at, { modules }) => {
    const experts = same(at, 'the experts', (o) => JSON.stringify((o as unknown as ArrowConfig).experts)); // a seam: what is attached has all of its options
    const ranks = (JSON.parse(experts) as ArrowConfig['experts']).map((e) => e.rank);
    if (new Set(ranks).size > 1)
      throw new Unsupported(`the experts have ranks ${ranks.join(', ')}, and Hugging Face PEFT's Arrow wants one`);
    const here = new Set(at.map((a) => a.module));
    const ends = new Set([...here].map(lastOf));
    const others = modules.filter((m) => ends.has(lastOf(m)) && !here.has(m));
    if (others.length > 0)
      throw new Unsupported(
        `Hugging Face PEFT's Arrow routes every module with the name of an adapted one, and no expert is at ${some(others)}; train them there too, or write saveAdapter(model, folder)`,
      );
    return {
      r: ranks[0]!,
      target_modules: [...ends].sort(),
      arrow_config: {
        ...{ top_k: same(at, 'topK', (o) => o.topK), router_temperature: same(at, 'temperature', (o) => o.temperature) },
        ...{ use_gks: false, gks_adapter_names: [], rng_seed: null },
        task_adapter_names: ranks.map((_, k) => `task_${k}`),
      },
    };
  },
  leftovers: /\.lora_[AB]\.weight$/,
  unsaved: ['A', 'B', 'prototypes'], // the experts' folders have them, and v follows
  decode: () => ({}),
  encode: (t, { config }) => {
    const zero = ({ shape }: Table): Table => ({ data: new Float32Array(shape.reduce((n, d) => n * d, 1)), shape });
    return config === null ? { [names.A]: zero(t['A.0']!), [names.B]: zero(t['B.0']!) } : {};
  },
};

const over: Over = {
  folder: ROUTER,
  named: (c) => {
    const { task_adapter_names: tasks, gks_adapter_names: general, use_gks: subtract } = (c as Lora).arrow_config!;
    return { experts: folders(tasks, 'task_adapter_names'), general: subtract === true ? folders(general, 'gks_adapter_names') : [] };
  },
  made: (models, general) => {
    const all = loraExperts('Arrow', models);
    const at = general.length === 0 ? all.at : genKnowSub(all, loraExperts('Arrow, general', general));
    const placed = (places: readonly Place[]): void => {
      const odd = places.find((p) => !at.has(p.path))?.module ?? [...at.keys()].find((path) => !places.some((p) => p.path === path));
      if (odd !== undefined)
        throw new Unsupported(`target_modules, where the router is, and the layers that the experts adapt differ at ${odd}`);
    };
    return asAny<Own, typeof LORA_FIELDS>({
      ...own,
      options: (c, places) => {
        placed(places);
        return own.options(c, places);
      },
      attach: ({ where, ...o }) => arrowOver(at)({ ...o, where, experts: all.configs }),
    });
  },
  factors: (held) => {
    const { experts } = held[0]!.options as unknown as ArrowConfig; // a seam: Arrow's own
    for (const one of held) for (const e of experts.keys()) directionStands(one, e);
    return experts.map(
      (_, e) => new Map(held.map(({ path, own: t }): [string, FactorTables] => [path, { A: t[`A.${e}`]!, B: t[`B.${e}`]! }])),
    );
  },
  scales: (options) => (options as unknown as ArrowConfig).experts.map((e) => e.scale),
  moved: () => ({}),
  advice: '',
};
export const ARROW: AnyFormat = asAny<Own, typeof LORA_FIELDS>({ ...own, over });
