// S4's sizes for a model and a budget: the spindle of groups, and how much of each method a layer can pay for.
// Chen et al. 2023, arXiv 2301.01821, §5.
import type { Model } from '../../nn/layer.ts';
import { sitesOf } from '../site.ts';
import type { S4Group, Strategy } from './s4.ts';
import { PAPER, spindle } from './s4Spaces.ts';

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
