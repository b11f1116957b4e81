// Which modules a configuration means: target_modules, exclude_modules, layers_to_transform, modules_to_save, rank_pattern.
import type { Names, Place } from '../names.ts';
import type { Common } from './config.ts';
import type { AnyFormat } from './format.ts';
import { matching } from './patterns.ts';

/** A list entry names a module by its whole name or by its end. */
const named = (list: readonly string[], module: string): boolean => list.some((e) => module === e || module.endsWith(`.${e}`));
const chosen = (which: string | readonly string[], modules: readonly string[]): ReadonlySet<string> =>
  new Set(typeof which === 'string' ? matching(which, modules).keys() : modules.filter((m) => named(which, m)));

export const isAllLinear = (t: unknown): boolean => typeof t === 'string' && t.toLowerCase() === 'all-linear';

/** Modules that are saved whole, and what is in them: each entry is a pattern for a part of the name. */
export const savedWhole = ({ modules_to_save: list }: Pick<Common, 'modules_to_save'>, modules: readonly string[]): ReadonlySet<string> =>
  new Set((list ?? []).flatMap((entry) => [...matching(entry, modules, { before: '^(?:|.*\\.)', after: '(?:$|\\..*)' }).keys()]));

/** The number of the layer that a module is in, as the library finds it: the first numbered part after two others, or that after `patterns`. */
function layersOf(modules: readonly string[], patterns: string | readonly string[] | null): ReadonlyMap<string, number> {
  const list = typeof patterns === 'string' ? [patterns] : (patterns ?? []);
  const found = new Map<string, number>();
  const each =
    list.length === 0
      ? [matching('[^.]*', modules, { before: '^.*?\\.', after: '\\.(?<idx>\\d+)\\.' })]
      : list.map((p) => matching(p, modules, { before: '^(?:|.*?\\.)', after: '\\.(?<idx>\\d+)\\.' }));
  for (const one of each) for (const [m, idx] of one) if (!found.has(m)) found.set(m, Number(idx));
  return found;
}

/** The modules that a configuration targets, of those given. */
export function targets(c: Common, names: Names, places: readonly Place[]): readonly Place[] {
  const modules = [...new Set(places.map((p) => p.module))];
  const { target_modules: target } = c;
  if (target === null || target === undefined) return [];
  const head = isAllLinear(target) ? headOf(names) : null;
  let hit = isAllLinear(target)
    ? new Set(places.filter((p) => p.kind === 'linear' && p.path !== head).map((p) => p.module))
    : chosen(target, modules);
  const layers = c.layers_to_transform;
  if (Array.isArray(target) && layers !== null && layers !== undefined && !(Array.isArray(layers) && layers.length === 0)) {
    const wanted = new Set<number>(typeof layers === 'number' ? [layers] : layers);
    const numbers = layersOf([...hit], c.layers_pattern ?? null);
    // A module that is named whole is taken whatever its layer.
    hit = new Set([...hit].filter((m) => target.includes(m) || wanted.has(numbers.get(m) ?? -1)));
  }
  const excluded = c.exclude_modules == null ? new Set<string>() : chosen(c.exclude_modules, modules);
  const whole = savedWhole(c, modules);
  return places.filter((p) => hit.has(p.module) && !excluded.has(p.module) && !whole.has(p.module));
}
/** The same, of the places of a format, which may read its targets from elsewhere. */
export const targetsIn = (f: AnyFormat, c: Common, names: Names, places: readonly Place[]): readonly Place[] =>
  f.targets?.(c as never, places) ?? targets(c, names, places);

/** all-linear leaves out the head: the output embedding of a language model, the classifier of a text classifier. */
const headOf = (names: Names): string | null => (names.byPath.has('head') ? 'head' : null);

/** For each module the value of the first pattern that matches its end, or `otherwise`. */
export function byPattern<V>(
  patterns: Readonly<Record<string, V>> | null | undefined,
  modules: readonly string[],
  otherwise: V,
): (module: string) => V {
  const found = new Map<string, V>();
  for (const [pattern, v] of Object.entries(patterns ?? {}))
    for (const m of matching(pattern, modules, { before: '^(?:.*\\.)?(?:', after: ')$' }).keys()) if (!found.has(m)) found.set(m, v);
  return (module) => found.get(module) ?? otherwise;
}

/**
 * The shortest honest way to name modules: by their ends when those name nothing else of the network, and whole otherwise.
 */
export function namedShortly(wanted: readonly string[], all: readonly string[]): string[] {
  const last = (m: string): string => m.split('.').at(-1)!;
  const ends = [...new Set(wanted.map(last))].sort();
  const set = new Set(wanted);
  const meant = all.filter((m) => named(ends, m));
  if (meant.every((m) => set.has(m))) return ends;
  const twoParts = [...new Set(wanted.map((m) => m.split('.').slice(-2).join('.')))].sort();
  return all.filter((m) => named(twoParts, m)).every((m) => set.has(m)) ? twoParts : [...wanted];
}
