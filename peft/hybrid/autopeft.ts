// AutoPEFT: serial adapter, parallel adapter and prefix together, of sizes and on layers that a search chooses by loss and size at once
// (bayesianSearch.ts).
// Zhou et al. 2024, arXiv 2301.12132, §3.
import type { Rng } from '../../core/rng.ts';
import type { Model } from '../../nn/layer.ts';
import type { Activation } from '../../nn/mlp.ts';
import { parallelAdapter } from '../additive/parallelAdapter.ts';
import { pfeiffer } from '../additive/pfeiffer.ts';
import { prefixTuning } from '../additive/prefixTuning.ts';
import type { EncodedSpace } from '../bayesianSearch.ts';
import { hybrid } from '../combine.ts';
import type { Transform } from '../method.ts';
import { pick, sitesOf } from '../site.ts';

export interface AutopeftConfig {
  readonly serial: number; // bottleneck; 0: none
  readonly parallel: number;
  readonly prefix: number; // length
  readonly layers: readonly boolean[]; // which blocks have them
}

/** The composition. Throws for a configuration that is nothing at all. */
export function autopeft(
  { serial, parallel, prefix, layers }: AutopeftConfig,
  { seed = 0, activation = 'relu' }: { readonly seed?: number; readonly activation?: Activation } = {},
): Transform {
  const on = layers.flatMap((l, k) => (l ? [k] : []));
  if (on.length === 0 || serial + parallel + prefix === 0)
    throw new RangeError('autopeft: this configuration has no layer or no module, so it trains nothing; its loss is that of the base');
  const at = (rest: string): RegExp => new RegExp(`blocks\\.(${on.join('|')})\\.${rest}$`);
  return hybrid(
    'autopeft',
    ...(parallel > 0 ? [parallelAdapter({ bottleneck: parallel, where: at('mlp'), activation, seed })] : []),
    ...(serial > 0 ? [pfeiffer({ bottleneck: serial, where: at('mlp'), activation, seed })] : []),
    ...(prefix > 0 ? [prefixTuning({ length: prefix, bottleneck: null, attend: at('attn\\.attend'), seed })] : []),
  );
}

/**
 * The paper's space for a model: three sizes out of ⌊width/2^k⌋, k = 0 … 10 (for width 768: 768, 384, … 3, 1, 0), and a bit for every layer.
 * `sizes` puts others in their place, in order of size. `bayesianSearch` searches it as the authors do. Empty configurations are not drawn, as in the authors' code.
 */
export function autopeftSpace(model: Model, sizes?: readonly number[]): EncodedSpace<AutopeftConfig> {
  const blocks = sitesOf(model, 'block').length;
  const width = pick(model, 'branch', 'mlp', 'autopeft')[0]!.dim('width');
  const all = sizes ?? [...new Set(Array.from({ length: 11 }, (_, k) => Math.floor(width / 2 ** k)))];
  const modules = ['serial', 'parallel', 'prefix'] as const;
  const longest = pick(model, 'trunk', 'trunk', 'autopeft')[0]!.dim('longest');
  const of = (m: (typeof modules)[number], r: Rng): number => {
    const fit = m === 'prefix' ? all.filter((n) => n < longest) : all; // a prefix leaves room for a token
    return fit.length === 0 ? 0 : fit[r.below(fit.length)]!;
  };
  const something = (c: AutopeftConfig): boolean => c.layers.includes(true) && modules.some((m) => c[m] > 0);
  const again = (make: () => AutopeftConfig): AutopeftConfig => {
    for (let c = make(); ; c = make()) if (something(c)) return c;
  };
  if (!all.some((n) => n > 0)) throw new RangeError('autopeft: sizes hold nothing but 0');
  return {
    draw: (r) =>
      again(() => ({
        serial: of('serial', r),
        parallel: of('parallel', r),
        prefix: of('prefix', r),
        layers: Array.from({ length: blocks }, () => r.next() < 0.5),
      })),
    mutate: (c, r) =>
      again(() => {
        const k = r.below(modules.length + blocks);
        const module = modules[k];
        return module === undefined
          ? { ...c, layers: c.layers.with(k - modules.length, !c.layers[k - modules.length]) }
          : { ...c, [module]: of(module, r) };
      }),
    size: (c) =>
      autopeft(c).parts.reduce((n, p) => n + p.method.count(pick(model, p.method.at, p.config.where, p.method.name), p.config).train, 0),
    key: (c) => JSON.stringify(c),
    encode: (c) => [...modules.map((m) => all.indexOf(c[m]) / Math.max(all.length - 1, 1)), ...c.layers.map(Number)],
  };
}
