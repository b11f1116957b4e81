// Files of LoRA's variants that have methods of their own here: MiCA, the orthogonal start, KaSA, BD-LoRA.
import { type BdLoraConfig, bdLora } from '../../peft/reparameterized/bdLora.ts';
import { type KasaConfig, kasa } from '../../peft/reparameterized/kasa.ts';
import type { UpdateConfig } from '../../peft/reparameterized/lora.ts';
import { loraOrthogonal } from '../../peft/reparameterized/loraOrthogonal.ts';
import { mica } from '../../peft/reparameterized/mica.ts';
import { matches } from '../../peft/site.ts';
import type { Place } from '../names.ts';
import { weightShape } from './adapter.ts';
import { type AnyFormat, asAny, type Format, renamed, same, type Table, Unsupported } from './format.ts';
import { configOf, LORA_FIELDS, type Lora, names, optionsOf } from './lora.ts';

type Variant<C> = Format<C, typeof LORA_FIELDS>;
/** Rank, alpha, scaling and dropout at each module. */
function updates(c: Lora, places: readonly Place[], but?: 'kasa_config' | 'use_bdlora'): (place: Place | null) => UpdateConfig {
  const of = optionsOf(c, places, but);
  return (place) => {
    const { init: _, ...o } = of(place);
    return o;
  };
}
const shared = { ...renamed(names), peftType: 'LORA', fields: LORA_FIELDS, on: 'linear', conv1d: true } as const;

/** Another start; the file holds both factors all the same. */
const started = (name: string, method: string, attach: Variant<UpdateConfig>['attach']): AnyFormat =>
  asAny<UpdateConfig, typeof LORA_FIELDS>({
    ...shared,
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

export const LORA_VARIANTS: readonly AnyFormat[] = [
  KASA,
  BDLORA,
  started('mica', 'mica', (o) => mica(o)),
  started('orthogonal', 'loraOrthogonal', (o) => loraOrthogonal(o)),
];
