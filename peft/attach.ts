// Turns a method into a function from models to models, and attaches it: the same few lines for every method.
import { type Rng, rng } from '../core/rng.ts';
import { type Data, paramOf, type Tensor } from '../core/tensor.ts';
import {
  type AnyLayer,
  type Application,
  BASE,
  type Field,
  type Fields,
  isLayer,
  type Kind,
  type Layer,
  layer,
  type Model,
  ofKind,
} from '../nn/layer.ts';
import { weight } from '../nn/linear.ts';
import { layers, substitute, tensors } from '../nn/tree.ts';
import { replaceable } from './check.ts';
import type { AnyMethod, Brought, Env, Method, Options, Tensors, Transform } from './method.ts';
import { checkOptions, type Taking } from './options.ts';
import { atHand, bare, matches, orFused, pick, type Site, type Where } from './site.ts';

export interface Configurable<C> {
  (options?: Options<C>): Transform;
  readonly method: AnyMethod;
}

/** A method as a function of its options. `seed` (0) starts its random initialisation; numbers of your own (an Rng) serve as well. */
export function defineMethod<K extends Kind, C, T extends Tensors, S = null, P = null>(
  m: Method<K, C, T, S, P> & Taking<C>,
): Configurable<C> {
  const method: AnyMethod = { ...m, mergeable: m.fold !== undefined, needsPreparing: m.prepare !== undefined } as unknown as AnyMethod; // the seam that forgets K, C and T
  const configured = (options: Options<C> = {}): Transform => {
    checkOptions(m.name, m.defaults, method.takes ?? {}, options);
    const { seed = 0, ...own } = options;
    const c = { ...m.defaults, where: orFused(m.defaults.where), ...own } as C & { where: Where };
    const needs = m.prepare !== undefined && (m.prepareIf?.(c) ?? true);
    const transform = (given: P | undefined, weights: ReadonlyMap<string, Data>): Transform =>
      Object.assign(
        (model: Model): Model => {
          if (needs && given === undefined) {
            sitesFor(m, c, model); // what is wrong anyway is said first
            throw new Error(
              `${m.name}: needs numbers from the model before it can attach; write: const method = await ${m.name}({ … }).prepare(model, { engine })`,
            );
          }
          return attach(m, c, seed, (given ?? null) as P, weights, model);
        },
        {
          title: m.name,
          parts: [{ method, config: c, prepared: given ?? null }],
          prepare: async (model: Model, env: Env): Promise<Transform> => {
            const sites = needs || m.readsWeight ? sitesFor(m, c, model) : [];
            return transform(
              needs ? await m.prepare!(sites, c, env, drawsOf(seed).split(m.name).split('prepare')) : given,
              m.readsWeight ? await computed(sites, env) : weights,
            );
          },
        },
      );
    return transform(undefined, new Map());
  };
  return Object.assign(configured, { method });
}

/** The sites of an application, each one checked: nothing has been built or computed yet. */
function sitesFor<K extends Kind, C, T extends Tensors, S, P>(
  m: Method<K, C, T, S, P>,
  c: C & { where: Where },
  model: Model,
): readonly Site<K>[] {
  const sites = pick(model, m.at, c.where, m.name, m.otherwise);
  for (const s of sites) m.check?.(s, c);
  return sites;
}

/** The other weights, which methods beneath or packed storage make recipes, by path. */
async function computed(sites: readonly Site<Kind>[], { engine }: Env): Promise<ReadonlyMap<string, Data>> {
  const numbers = new Map<string, Data>();
  for (const s of sites) {
    const w = s.weight();
    if (atHand(w) === null) numbers.set(s.path, (await engine.read(w)).slice());
  }
  return numbers;
}

/** Places whose weight another layer may share. A method that is no change of weights (it has no fold) unties nothing there. */
const REPLACES_WEIGHT: ReadonlySet<Kind> = new Set(['weight', 'linear', 'embedding', 'norm']);

const drawsOf = (seed: number | Rng): Rng => (typeof seed === 'number' ? rng(seed) : seed);

function attach<K extends Kind, C, T extends Tensors, S, P>(
  m: Method<K, C, T, S, P>,
  c: C & { where: Where },
  seed: number | Rng,
  prepared: P,
  weights: ReadonlyMap<string, Data>,
  model: Model,
): Model {
  const sites = sitesFor(m, c, model);
  if (REPLACES_WEIGHT.has(m.at) && m.fold !== undefined && m.leavesTied !== true)
    refuseTied(model, sites as readonly Site<Kind>[], m.name, m.at === 'weight' ? c.where : null, m.followsTied === true);
  const r = drawsOf(seed).split(m.name);
  const shared = (m.shared?.(sites, c, r.split('shared')) ?? null) as S;
  const application: Application = {
    method: m.name,
    config: c,
    defaults: m.defaults,
    control:
      m.control === undefined
        ? null
        : (at) =>
            m.control!(at.filter(({ path, own }) => live.get(path)!(own)) as unknown as readonly { path: string; own: T }[], c, prepared),
  };
  const live = new Map<string, (own: Fields) => boolean>();
  const byPath = new Map(sites.map((s) => [s.path, s]));
  return substitute(model, m.at, (base, path) => {
    const found = byPath.get(path);
    if (found === undefined) return null;
    const site = Object.create(found, { field: { value: freeName(m.name, base), enumerable: true } }) as Site<K>;
    const weight = (): Data => {
      const numbers = atHand(site.weight()) ?? weights.get(path);
      if (numbers === undefined)
        throw new Error(
          `${m.name}: the weight of ${path} has to be computed before its numbers can be read; write: const method = await ${m.name}({ … }).prepare(model, { engine })`,
        );
      return numbers;
    };
    const brought = m.init(site, c, r.split(path), { shared, prepared, weight });
    if (brought === null) return null;
    live.set(path, stillTraining(brought));
    return wrap(m, c, site, base, brought, application);
  });
}

/** A method with buffers steers only while all it trains and keeps are parameters: not when finished, not when frozen. */
function stillTraining<T extends Tensors>({ train, buffer }: Brought<T>): (own: Fields) => boolean {
  const needed = buffer === undefined ? [] : [...Object.keys(train), ...Object.keys(buffer)];
  return (own) => needed.every((k) => own[k] !== undefined && [...tensors(own[k])].every(({ tensor }) => paramOf(tensor) !== null));
}

/** The attached layer: the base, the method's tensors under its name, and the method's equation around the base's call. */
function wrap<K extends Kind, C, T extends Tensors, S, P>(
  m: Method<K, C, T, S, P>,
  c: C,
  site: Site<K>,
  base: Layer<K>,
  brought: Brought<T>,
  application: Application,
): Layer<K> {
  const { field } = site;
  const beneath = brought.base === undefined ? base : replaceWeight(base, brought.base);
  const own = { ...brought.train, ...brought.fixed, ...brought.buffer } as unknown as Fields;
  const fields: Fields = { [BASE]: beneath, [field]: own };
  const mine = (f: Fields): T => f[field] as unknown as T;
  const live = stillTraining(brought);
  return layer<K, Fields>(
    m.at,
    fields,
    (f) => m.around(ofKind(f[BASE], m.at), mine(f), c, site),
    (f) => ({
      method: m.name,
      field,
      application,
      hooks: live(f[field] as Fields) ? (m.hooks?.(mine(f), c, site) ?? {}) : {},
      fold: m.fold === undefined ? null : (w) => m.fold!(w, mine(f), c, site),
      finish: m.finish === undefined ? null : () => m.finish!(mine(f), c) as unknown as Fields,
      ...(m.acrossRows === undefined ? {} : { acrossRows: m.acrossRows }),
      byRow: m.byRow === true,
      under: beneath === base ? ofKind(f[BASE], m.at) : base,
    }),
  );
}

/** lora, then lora2 where one is already beneath. */
function freeName(name: string, base: AnyLayer): string {
  let taken = 0;
  for (let l: Field | undefined = base; isLayer(l) && l.attached !== null; l = l.fields[BASE]) if (l.attached.method === name) taken++;
  return taken === 0 ? name : `${name}${taken + 1}`;
}

/** Wrapping one side of a tied pair would silently untie it, or adapt both: refused, unless `both` names the two sides of one weight. */
function refuseTied(model: Model, sites: readonly Site<Kind>[], method: string, both: Where | null, follows: boolean): void {
  const places = new Map<unknown, Set<string>>();
  const identity = (t: Tensor): unknown => paramOf(t) ?? t;
  for (const { path, tensor } of tensors(model)) places.set(identity(tensor), (places.get(identity(tensor)) ?? new Set()).add(path));
  const brought = new Set<unknown>(); // one tensor that a method beneath trains for several places ties no weight
  for (const { layer: l } of layers(model))
    if (l.attached !== null) for (const { tensor } of tensors(l.fields[l.attached.field] ?? null)) brought.add(identity(tensor));
  const same = new Map<AnyLayer, Set<string>>(); // the places of a layer that stands at several: `substitute` changes it at all of them
  if (follows) for (const { path, layer: l } of layers(model)) same.set(l, (same.get(l) ?? new Set()).add(path));
  const inside = (path: string, site: string): boolean => path === site || path.startsWith(`${site}.`);
  for (const s of sites)
    for (const { tensor } of tensors(bare(s.layer).fields)) {
      if (brought.has(identity(tensor))) continue;
      const elsewhere = [...(places.get(identity(tensor)) ?? [])].filter(
        (p) =>
          !sites.some((o) => inside(p, o.path)) &&
          (both === null || !matches(both, p)) &&
          ![...(same.get(s.layer) ?? [])].some((own) => inside(p, own)),
      );
      if (elsewhere.length > 0)
        throw new Error(
          `${method}: ${s.path} shares its weight with ${elsewhere.join(', ')} (tied), and wrapping one side would untie them. Choose other sites${both === null ? '' : ', name both (one change for both)'}, or untie the model first (decoder({ tied: false }))`,
        );
    }
}

/** The layer with another number table as its weight, or with another weight layer. */
function replaceWeight<K extends Kind>(base: Layer<K>, by: Tensor | Layer<'weight'>): Layer<K> {
  const l: AnyLayer<K> = base;
  replaceable(l);
  const w: AnyLayer = isLayer(by) ? by : weight(by);
  return ofKind(l.kind === 'weight' ? (isLayer(by) ? by : l.with({ value: by })) : l.with({ ...l.fields, weight: w }), l.kind);
}
