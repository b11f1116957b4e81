// S4: a design found by searching design spaces. Layers in four groups, more in the middle; each group its own mixture of methods; equal
// numbers of parameters for every layer.
//   G₁ {adapter, LoRA}   G₂ {adapter, prefix}   G₃ {adapter, prefix, BitFit}   G₄ {prefix, BitFit, LoRA}
// Chen et al. 2023, arXiv 2301.01821, §5.
import type { Model } from '../../nn/layer.ts';
import { pfeiffer } from '../additive/pfeiffer.ts';
import { prefixTuning } from '../additive/prefixTuning.ts';
import { hybrid } from '../combine.ts';
import type { Transform } from '../method.ts';
import { lora } from '../reparameterized/lora.ts';
import { bitfit } from '../selective/bitfit.ts';
import { sitesOf } from '../site.ts';

export const STRATEGIES = ['adapter', 'lora', 'prefix', 'bitfit'] as const;
export type Strategy = (typeof STRATEGIES)[number];
/** One group: its blocks, and the size of each method on each of them (0: it is not there). */
export interface S4Group {
  readonly blocks: readonly number[];
  readonly adapter: number; // bottleneck m
  readonly lora: number; // rank, on q and v, with α = rank
  readonly prefix: number; // length p
  readonly bitfit: boolean;
}

/** The composition. A prefix of one group moves the positions of the whole text, as every prefix does. */
export function s4(groups: readonly S4Group[], seed = 0): Transform {
  const at = (blocks: readonly number[], rest: string): RegExp => new RegExp(`blocks\\.(${blocks.join('|')})\\.${rest}$`);
  return hybrid(
    's4',
    ...groups.flatMap(({ blocks, ...g }, k) => [
      ...(g.bitfit ? [bitfit({ where: at(blocks, '.*bias') })] : []),
      ...(g.lora > 0 ? [lora({ rank: g.lora, alpha: g.lora, where: at(blocks, 'attn\\.(q|v)'), seed: seed + k })] : []),
      ...(g.adapter > 0 ? [pfeiffer({ bottleneck: g.adapter, where: at(blocks, 'mlp'), seed: seed + k })] : []),
      ...(g.prefix > 0 ? [prefixTuning({ length: g.prefix, bottleneck: null, attend: at(blocks, 'attn\\.attend'), seed: seed + k })] : []),
    ]),
  );
}

/** Four groups that grow and shrink again: about L/6, L/3, L/3, L/6 blocks. The paper says spindle, and not how many. L ≥ 4. */
export function spindle(layers: number): number[] {
  if (!Number.isInteger(layers) || layers < 4)
    throw new RangeError(`spindle: ${layers} layers do not make four groups; it takes 4 or more`);
  const end = Math.max(1, Math.floor(layers / 6));
  const middle = layers - 2 * end;
  return [end, Math.ceil(middle / 2), Math.floor(middle / 2), end];
}
/** The paper's assignment, on T5-base. */
export const PAPER: readonly (readonly Strategy[])[] = [
  ['adapter', 'lora'],
  ['adapter', 'prefix'],
  ['adapter', 'prefix', 'bitfit'],
  ['prefix', 'bitfit', 'lora'],
];

export interface S4Options {
  /** Scalars trained in all. The paper's budget is 0.5 % of the base. */
  readonly budget: number;
  readonly sizes?: readonly number[]; // blocks of each group; spindle(L)
  readonly strategies?: readonly (readonly Strategy[])[]; // of each group; PAPER
  /** How a group's layers count when the budget is shared out (all equally); 0: the group is not tuned. */
  readonly shares?: readonly number[];
}

/**
 * Sizes for a model and a budget: every layer gets its share, BitFit takes what it costs, and the others divide the rest equally, rounded
 * down. What is left unused is less than one unit of each method of each layer (m, r or p one larger). Throws where a method gets nothing.
 */
export function s4Plan(model: Model, { budget, sizes, strategies = PAPER, shares }: S4Options): S4Group[] {
  const blocks = sitesOf(model, 'block');
  const groups = sizes ?? spindle(blocks.length);
  if (
    groups.reduce((a, b) => a + b, 0) !== blocks.length ||
    strategies.length !== groups.length ||
    (shares ?? groups).length !== groups.length
  )
    throw new RangeError(
      `s4: groups of ${groups.join(', ')} blocks with ${strategies.length} mixtures do not cover the ${blocks.length} blocks of this model`,
    );
  const weight = (k: number): number => shares?.[k] ?? 1;
  const whole = groups.reduce((n, size, k) => n + size * weight(k), 0);
  let first = 0;
  return groups.flatMap((size, k) => {
    const own = Array.from({ length: size }, (_, i) => first + i);
    first += size;
    const mixture = strategies[k]!;
    if (weight(k) === 0 || size === 0) return [];
    const site = blocks[own[0]!]!;
    const unit = unitsOf(site.path, model);
    const layer = (budget * weight(k)) / whole;
    const left = layer - (mixture.includes('bitfit') ? unit.bitfit : 0);
    const sized = mixture.filter((s) => s !== 'bitfit');
    const of = (s: 'adapter' | 'lora' | 'prefix'): number => {
      if (!mixture.includes(s)) return 0;
      const n = Math.floor((left / sized.length - unit[s].fixed) / unit[s].each);
      if (n < 1)
        throw new RangeError(
          `s4: group ${k + 1} gets ${Math.floor(layer)} scalars per layer, too few for ${mixture.join(' + ')} (${s} takes at least ${unit[s].fixed + unit[s].each}); raise the budget above ${budget}, or name fewer methods`,
        );
      return n;
    };
    return [{ blocks: own, adapter: of('adapter'), lora: of('lora'), prefix: of('prefix'), bitfit: mixture.includes('bitfit') }];
  });
}

/** What one more unit of each method costs in a block. */
function unitsOf(path: string, model: Model) {
  const inside = <K extends 'linear' | 'attend' | 'weight' | 'branch'>(kind: K, end: RegExp) =>
    sitesOf(model, kind).filter((s) => s.path.startsWith(`${path}.`) && end.test(s.path));
  const width = inside('branch', /mlp$/)[0]!.dim('width');
  const projections = inside('linear', /attn\.(q|v)$/);
  if (projections.length === 0) throw new Error(`s4: ${path} has no q and v of their own for LoRA; use a model without fused projections`);
  const attend = inside('attend', /attend$/)[0]!;
  return {
    adapter: { fixed: width, each: 2 * width + 1 },
    lora: { fixed: 0, each: projections.reduce((n, { shape: [out, into] }) => n + out! + into!, 0) },
    prefix: { fixed: 0, each: 2 * attend.dim('kvHeads') * attend.dim('headWidth') },
    bitfit: inside('weight', /\.bias$/).reduce((n, s) => n + s.layer().shape.reduce((a, b) => a * b, 1), 0),
  };
}
