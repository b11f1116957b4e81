// Methods side by side at one place: each sees the layer as it was, and a rule makes one answer of theirs (combinators.ts has the rules).
import { add } from '../core/ops/map.ts';
import { type Rng, rng } from '../core/rng.ts';
import { type Shape, size } from '../core/shape.ts';
import { type Param, paramOf, type Tensor } from '../core/tensor.ts';
import type { Context } from '../nn/context.ts';
import type { Hooks } from '../nn/hooks.ts';
import {
  type AnyLayer,
  type Application,
  BASE,
  type Field,
  type Fields,
  isLayer,
  type Kind,
  layer,
  type Model,
  type Weights,
} from '../nn/layer.ts';
import { layers, rewrite } from '../nn/tree.ts';
import type { AnyMethod, Env, Part, Transform } from './method.ts';
import { bare, effective, matches } from './site.ts';

/** Where a rule decides: the width of what the place reads, and the shape of what it puts out, without batch and tokens. */
export interface Place {
  readonly path: string;
  /** Numbers of each vector x that the place reads; null where it reads no vectors (an embedding, attention itself, a weight). */
  readonly reads: number | null;
  /** [d] of each vector that the place answers with; the whole shape of a weight. */
  readonly answers: Shape;
}
/** How one answer is made of several. */
export interface Rule {
  readonly name: string;
  readonly paper: `arXiv:${string}`;
  /** y, what each method makes of it, what the place reads (x [B, T, in]), the rule's own tensors, and the context (null on weights). */
  readonly mix: (y: Tensor, ys: readonly Tensor[], x: Tensor, own: readonly Tensor[], ctx: Context | null) => Tensor;
  /** The tensors that the rule brings to a place where n methods meet; params are trained, leaves kept. */
  readonly own: (at: Place, n: number, r: Rng) => readonly Tensor[];
  /** Decides by x, or by where x stands: then it is no change of weights, and needs a place that reads vectors. */
  readonly readsX: boolean;
}
type Call = (...args: readonly unknown[]) => Tensor; // a layer of a kind that was forgotten: the seam of this file
type Own = { readonly members: readonly Fields[]; readonly rule: readonly Tensor[] };

/** Kinds whose call is (x, ctx) with x [B, T, in]. */
const READS_X: ReadonlySet<Kind> = new Set(['linear', 'norm', 'branch', 'block', 'trunk']);
function placeOf(l: AnyLayer, path: string, title: string): Place {
  const plain = bare(l);
  const { width, headWidth } = plain.fields;
  const reads = READS_X.has(l.kind);
  if (l.kind === 'attend' && typeof headWidth === 'number') return { path, reads: null, answers: [headWidth] };
  if (typeof width === 'number') return { path, reads: reads ? width : null, answers: [width] };
  if (l.kind === 'model') throw new Error(`${title}: a model answers in as many numbers as its head has; attach to the trunk instead`);
  const { shape } = effective(plain, path).weight;
  if (l.kind === 'weight') return { path, reads: null, answers: shape };
  return { path, reads: reads ? shape.at(-1)! : null, answers: [l.kind === 'linear' ? shape[0]! : shape.at(-1)!] };
}

/** Applications that a transform added to a model, as the layers it made, by path. */
function added(model: Model, made: Model, title: string): Map<string, AnyLayer> {
  const before = new Set<Application>();
  const old = new Map<string, AnyLayer>();
  for (const { path, layer: l } of layers(model)) {
    if (l.attached !== null) before.add(l.attached.application);
    if (!old.has(`${l.kind} ${path}`)) old.set(`${l.kind} ${path}`, l);
  }
  const found = new Map<string, AnyLayer>();
  for (const { path, layer: l } of layers(made)) {
    if (l.attached === null || before.has(l.attached.application)) continue;
    if (l.attached.under !== old.get(`${l.kind} ${path}`))
      throw new Error(
        `${title}: a member attaches twice around ${path}, and only one layer per member and place can stand side by side; stack outside of it`,
      );
    if (l.attached.application.control !== null)
      throw new Error(
        `${title}: ${l.attached.method} decides between steps for all its places at once, which it cannot do side by side; stack it instead`,
      );
    found.set(path, l);
  }
  return found;
}

/** Methods of which `rule` makes one. Refused: places inside one another, controllers, two layers of one member at a place. */
export function sideBySide(rule: Rule, members: readonly Transform[], seed: number): Transform {
  const title = `${rule.name}(${members.map((t) => t.title).join(', ')})`;
  if (members.length === 0) throw new RangeError(`${rule.name}: it needs a method to put side by side, got none`);
  const apply = (model: Model): Model => {
    const made = members.map((t) => added(model, t(model), title));
    const paths = new Set(made.flatMap((m) => [...m.keys()]));
    for (const p of paths)
      for (const q of paths)
        if (p !== q && (q === '' || p.startsWith(`${q}.`)))
          throw new Error(`${title}: ${p} is inside ${q || 'the model'}, so methods at the two are not side by side; stack them instead`);
    const application: Application = { method: title, config: {}, control: null };
    return rewrite(model, (base, path) => {
      const own = made.map((m) => m.get(path) ?? null);
      if (!own.some((l) => l?.kind === base.kind)) return null;
      if (own.some((l) => l !== null && l.kind !== base.kind))
        throw new Error(`${title}: at ${path} its members attach to layers of different kinds; stack them instead`);
      if (rule.readsX && !READS_X.has(base.kind))
        throw new Error(
          `${title}: ${path} is a ${base.kind}, which reads no vectors that ${rule.name} could decide by; use parallel or average`,
        );
      const tensors = rule.own(placeOf(base, path, title), own.length, rng(seed).split(rule.name).split(path));
      return wrap(rule, title, application, base, own, tensors);
    });
  };
  return Object.assign(apply, {
    title,
    parts: [...members.flatMap((t) => t.parts), ...partOf(rule, members, title)],
    prepare: async (model: Model, env: Env): Promise<Transform> => {
      const ready: Transform[] = [];
      for (const t of members) ready.push(await t.prepare(model, env)); // all on the same model: none sees another
      return sideBySide(rule, ready, seed);
    },
  });
}

/** The rule's own tensors, for counts: one part for each kind of place. */
function partOf(rule: Rule, members: readonly Transform[], title: string): Part[] {
  const parts = members.flatMap((t) => t.parts);
  const count: AnyMethod['count'] = (sites) => {
    const own = sites.flatMap((s) => rule.own(placeOf(s.layer, s.path, title), members.length, rng(0)));
    const sum = (ts: readonly Tensor[]): number => ts.reduce((n, t) => n + size(t.shape), 0);
    return { train: sum(own.filter((t) => paramOf(t) !== null)), stored: sum(own) };
  };
  return [...new Set(parts.map((p) => p.method.at))].map((at) => {
    const here = parts.filter((p) => p.method.at === at);
    const where = (path: string): boolean => here.some((p) => matches(p.config.where, path));
    const method: AnyMethod = {
      ...{ name: rule.name, family: 'hybrid', paper: rule.paper, at, defaults: { where } },
      ...{ mergeable: !rule.readsX, needsPreparing: false, count, startsAsBase: () => 'close' },
    };
    return { method, config: { where }, prepared: null };
  });
}

const FIELD = 'sideBySide';
function wrap(
  rule: Rule,
  title: string,
  application: Application,
  base: AnyLayer,
  made: readonly (AnyLayer | null)[],
  tensors: readonly Tensor[],
): AnyLayer {
  const own: Own = { members: made.map((l) => (l === null ? {} : (l.fields[l.attached!.field] as Fields))), rule: tensors };
  const fields: Fields = { [BASE]: base, [FIELD]: own as unknown as Field };
  /** A member over another base, with the tensors the fields hold now. */
  const members = (f: Fields, beneath: Field): (AnyLayer | null)[] =>
    made.map((l, i) => l?.with({ [BASE]: beneath, [l.attached!.field]: (f[FIELD] as unknown as Own).members[i]! }) ?? null);
  // Every member calls what is beneath, but it adds its losses once.
  const silent = (call: AnyLayer): AnyLayer =>
    layer(
      call.kind,
      { [BASE]: call },
      ({ [BASE]: call }) => ((...args: readonly unknown[]) => (call as unknown as Call)(...args.map(hushed))) as never,
    );
  return layer(
    base.kind,
    fields,
    (f) =>
      ((...args: readonly unknown[]) => {
        const beneath = f[BASE] as AnyLayer;
        const y = (beneath as unknown as Call)(...args);
        const ys = members(f, silent(beneath)).map((l) => (l === null ? y : (l as unknown as Call)(...args)));
        return rule.mix(y, ys, args[0] as Tensor, (f[FIELD] as unknown as Own).rule, args.at(-1) as Context);
      }) as never,
    (f) => {
      const all = members(f, f[BASE]!).flatMap((l) => l?.attached ?? []);
      const folds = all.map((a) => a.fold);
      return {
        method: title,
        field: FIELD,
        application,
        hooks: joined(all.map((a) => a.hooks)),
        fold:
          rule.readsX || folds.includes(null)
            ? null
            : (w) =>
                folded(
                  rule,
                  base.kind,
                  w,
                  made.map((l, i) => (l === null ? w : members(f, f[BASE]!)[i]!.attached!.fold!(w))),
                  (f[FIELD] as unknown as Own).rule,
                ),
        finish: () => ({
          members: members(f, f[BASE]!).map((l) => l?.attached?.finish?.() ?? (l === null ? {} : l.fields[l.attached!.field]!)),
          rule: (f[FIELD] as unknown as Own).rule,
        }),
        byRow: tensors.length === 0 && all.every((a) => a.byRow),
        under: base === f[BASE] || !isLayer(f[BASE]) ? base : f[BASE],
      };
    },
  );
}
const hushed = (a: unknown): unknown => (typeof a === 'object' && a !== null && 'aux' in a ? { ...(a as Context), aux: () => {} } : a);
/** The rule on weights: linear in what the members make of the place, so that it is the same on what they make of its weight. */
const folded = (rule: Rule, kind: Kind, w: Weights, all: readonly Weights[], own: readonly Tensor[]): Weights => {
  const answersLast = (t: Tensor): Tensor => (kind === 'linear' && own.length > 0 ? t.T : t); // [out, in]: own tensors are for [.., out]
  const [{ weight, bias }, some] = [w, all.find((o) => o.bias !== null)?.bias ?? w.bias];
  const or0 = (b: Tensor | null): Tensor => b ?? some!.mul(0);
  const mixed = (y: Tensor, ys: readonly Tensor[]): Tensor => rule.mix(y, ys, y, own, null);
  return {
    weight: answersLast(
      mixed(
        answersLast(weight),
        all.map((o) => answersLast(o.weight)),
      ),
    ),
    bias:
      some === null
        ? null
        : mixed(
            or0(bias),
            all.map((o) => or0(o.bias)),
          ),
  };
};
/** The hooks of several attachments as those of one. Each sees the gradients of all, and answers for its own. */
function joined(all: readonly Hooks[]): Hooks {
  const penalties = all.flatMap((h) => h.penalty ?? []);
  const grads = all.flatMap((h) => h.afterGrad ?? []);
  const steps = all.flatMap((h) => h.afterStep ?? []);
  const merged = (maps: readonly ReadonlyMap<Param, Tensor>[]): Map<Param, Tensor> => new Map(maps.flatMap((m) => [...m]));
  return {
    ...(penalties.length > 0 ? { penalty: () => penalties.map((p) => p().reshape()).reduce(add) } : {}),
    ...(grads.length > 0 ? { afterGrad: (g) => merged(grads.map((f) => f(g))) } : {}),
    ...(steps.length > 0 ? { afterStep: (s) => merged(steps.map((f) => f(s))) } : {}),
  };
}
