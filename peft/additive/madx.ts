// MAD-X: language adapters, and task adapters stacked on them, so that a task trained in one language is solved in another.
// Pfeiffer et al. 2020, arXiv 2005.00052, §3. Nothing is hidden: it is the composition of two methods, attached twice.
import { BASE, type Model, ofKind } from '../../nn/layer.ts';
import { layers, rewrite } from '../../nn/tree.ts';
import { hybrid } from '../combine.ts';
import type { Options, Transform } from '../method.ts';
import { type InvertibleConfig, invertible } from './invertible.ts';
import { type PfeifferConfig, pfeiffer } from './pfeiffer.ts';

export interface MadxConfig {
  readonly invertible: Options<InvertibleConfig>;
  readonly adapter: Options<PfeifferConfig>; // the language adapter in the blocks; the authors have reduction 2
  readonly seed: number;
}
/**
 * A language adapter: the invertible one and a Pfeiffer adapter, trained together on the language's text. The task adapter is stacked on
 * it frozen: `pfeiffer()(freeze(language))`; `changeLanguage` puts it on another language.
 */
export const madx = ({ invertible: around = {}, adapter = {}, seed = 0 }: Partial<MadxConfig> = {}): Transform =>
  hybrid('madx', invertible({ seed, ...around }), pfeiffer({ reduction: 2, seed, ...adapter }));

/** The task adapters of `task` (the method attached last to each branch that has two) on the language adapters of another model. */
export function changeLanguage(task: Model, language: Model): Model {
  const adapters = new Map(
    [...layers(task)].flatMap(({ path, layer: l }) => {
      const under = l.kind === 'branch' && l.attached !== null ? ofKind(l.fields[BASE], 'branch') : null;
      return under?.attached == null ? [] : [[path, l] as const];
    }),
  );
  if (adapters.size === 0)
    throw new Error(
      'changeLanguage: no branch of this model has a task adapter on a language adapter; stack one: pfeiffer()(freeze(language))',
    );
  const placed = new Set<string>();
  const model = rewrite(language, (l, path) => {
    const adapter = adapters.get(path);
    if (adapter === undefined || l.kind !== 'branch') return null;
    placed.add(path);
    return adapter.with({ ...adapter.fields, [BASE]: l });
  });
  const missing = [...adapters.keys()].find((path) => !placed.has(path));
  if (missing !== undefined) throw new Error(`changeLanguage: the other model has no branch ${missing}; both must be of one architecture`);
  return model;
}
