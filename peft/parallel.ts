// Methods side by side at one place: each sees the layer as it was, and a rule makes one answer of theirs.
//   parallel: y + Σ (y_i − y);   average: Σ w_i y_i;   gate: y + σ(w·x + b)(y₁ − y);   route: Σ softmax(R x)_i y_i
// y is what the place computed, y_i what it computes with method i. One after the other (a stack) is `compose`
// (peft/combine.ts); attention over adapters is `fused` (peft/additive/adapterFusionStages.ts); leaving places out is `where`.
import { softmax } from '../core/ops/fused.ts';
import { add, mul, sigmoid, sub } from '../core/ops/map.ts';
import { type Rng, rng } from '../core/rng.ts';
import { size } from '../core/shape.ts';
import { type Param, param, type Tensor } from '../core/tensor.ts';
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

/** How one answer is made of several. */
interface Rule {
  readonly name: string;
  readonly paper: `arXiv:${string}`;
  /** y, what each method makes of it, and where the rule has tensors of its own: x [B, T, in] and those. */
  readonly mix: (y: Tensor, ys: readonly Tensor[], x: Tensor, own: readonly Tensor[]) => Tensor;
  /** Shapes and starts of the rule's tensors at a place that reads vectors of width d; null: it has none, and is linear in y and ys. */
  readonly own: ((d: number, n: number, r: Rng) => readonly Tensor[]) | null;
}
type Call = (...args: readonly unknown[]) => Tensor; // a layer of a kind that was forgotten: the seam of this file
type Own = { readonly members: readonly Fields[]; readonly rule: readonly Tensor[] };

/** Kinds whose call is (x, ctx) with x [B, T, in]. */
const READS_X: ReadonlySet<Kind> = new Set(['linear', 'norm', 'branch', 'block', 'trunk']);
const widthOf = (l: AnyLayer, path: string): number => {
  const { width } = bare(l).fields;
  return typeof width === 'number' ? width : effective(bare(l), path).weight.shape.at(-1)!;
};

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
        `${title}: a member attaches twice around ${path}, and only one layer per member and place can stand side by side; compose outside of it`,
      );
    if (l.attached.application.control !== null)
      throw new Error(
        `${title}: ${l.attached.method} decides between steps for all its places at once, which it cannot do side by side; compose it instead`,
      );
    found.set(path, l);
  }
  return found;
}

function sideBySide(rule: Rule, members: readonly Transform[], seed: number): Transform {
  const title = `${rule.name}(${members.map((t) => t.title).join(', ')})`;
  if (members.length === 0) throw new RangeError(`${rule.name}: it needs a method to put side by side, got none`);
  const apply = (model: Model): Model => {
    const made = members.map((t) => added(model, t(model), title));
    const paths = new Set(made.flatMap((m) => [...m.keys()]));
    for (const p of paths)
      for (const q of paths)
        if (p !== q && (q === '' || p.startsWith(`${q}.`)))
          throw new Error(`${title}: ${p} is inside ${q || 'the model'}, so methods at the two are not side by side; compose them instead`);
    const application: Application = { method: title, config: {}, control: null };
    return rewrite(model, (base, path) => {
      const own = made.map((m) => m.get(path) ?? null);
      if (!own.some((l) => l?.kind === base.kind)) return null;
      if (own.some((l) => l !== null && l.kind !== base.kind))
        throw new Error(`${title}: at ${path} its members attach to layers of different kinds; compose them instead`);
      if (rule.own !== null && !READS_X.has(base.kind))
        throw new Error(
          `${title}: ${path} is a ${base.kind}, which reads no vectors that ${rule.name} could decide by; use parallel or average`,
        );
      const tensors = rule.own?.(rule.own === null ? 0 : widthOf(base, path), own.length, rng(seed).split(rule.name).split(path)) ?? [];
      return wrap(rule, title, application, base, own, tensors);
    });
  };
  return Object.assign(apply, {
    title,
    parts: [...members.flatMap((t) => t.parts), ...partOf(rule, members)],
    prepare: async (model: Model, env: Env): Promise<Transform> => {
      const ready: Transform[] = [];
      for (const t of members) ready.push(await t.prepare(model, env)); // all on the same model: none sees another
      return sideBySide(rule, ready, seed);
    },
  });
}

/** The rule's own tensors, for counts. */
function partOf(rule: Rule, members: readonly Transform[]): Part[] {
  const make = rule.own;
  if (make === null) return [];
  const parts = members.flatMap((t) => t.parts);
  const at = parts[0]!.method.at;
  const where = (path: string): boolean => parts.some((p) => matches(p.config.where, path));
  const count: AnyMethod['count'] = (sites) => {
    const train = sites.reduce(
      (n, s) => n + make(widthOf(s.layer, s.path), members.length, rng(0)).reduce((k, t) => k + size(t.shape), 0),
      0,
    );
    return { train, stored: train };
  };
  const method: AnyMethod = {
    name: rule.name,
    family: 'hybrid',
    paper: rule.paper,
    at,
    defaults: { where },
    mergeable: false,
    needsPreparing: false,
    count,
    startsAsBase: () => 'close',
  };
  return [{ method, config: { where }, prepared: null }];
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
    layer(call.kind, { [BASE]: call }, () => ((...args: readonly unknown[]) => (call as unknown as Call)(...args.map(hushed))) as never);
  return layer(
    base.kind,
    fields,
    (f) =>
      ((...args: readonly unknown[]) => {
        const beneath = f[BASE] as AnyLayer;
        const y = (beneath as unknown as Call)(...args);
        const ys = members(f, silent(beneath)).map((l) => (l === null ? y : (l as unknown as Call)(...args)));
        return rule.mix(y, ys, args[0] as Tensor, (f[FIELD] as unknown as Own).rule);
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
          rule.own !== null || folds.includes(null)
            ? null
            : (w) =>
                folded(
                  rule,
                  w,
                  made.map((l, i) => (l === null ? w : members(f, f[BASE]!)[i]!.attached!.fold!(w))),
                ),
        finish: () => ({
          members: members(f, f[BASE]!).map((l) => l?.attached?.finish?.() ?? (l === null ? {} : l.fields[l.attached!.field]!)),
          rule: (f[FIELD] as unknown as Own).rule,
        }),
        byRow: rule.own === null && all.every((a) => a.byRow),
        under: base === f[BASE] || !isLayer(f[BASE]) ? base : f[BASE],
      };
    },
  );
}
const hushed = (a: unknown): unknown => (typeof a === 'object' && a !== null && 'aux' in a ? { ...(a as Context), aux: () => {} } : a);
const folded = (rule: Rule, w: Weights, all: readonly Weights[]): Weights => {
  const bias = all.find((o) => o.bias !== null)?.bias ?? w.bias;
  const or0 = (b: Tensor | null): Tensor => b ?? bias!.mul(0);
  return {
    weight: rule.mix(
      w.weight,
      all.map((o) => o.weight),
      w.weight,
      [],
    ),
    bias:
      bias === null
        ? null
        : rule.mix(
            or0(w.bias),
            all.map((o) => or0(o.bias)),
            or0(w.bias),
            [],
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

/**
 * y + Σ (y_i − y): changes add up, each made to the layer as it was. Commutative and associative; one member is that member; for LoRA the
 * same as compose, for methods that read what the one before computed it is not. Merges where all members do.
 */
export const parallel = (...members: readonly Transform[]): Transform =>
  sideBySide(
    { name: 'parallel', paper: 'arXiv:2110.04366', own: null, mix: (y, ys) => ys.map((v) => sub(v, y)).reduce(add, y) },
    members,
    0,
  );

/** Σ w_i y_i with weights that sum to 1 (equal ones by default): the mean of what the methods make of a place (He et al. 2022; AdapterSoup). */
export function average(members: readonly Transform[], weights: readonly number[] = members.map(() => 1 / members.length)): Transform {
  const sum = weights.reduce((a, b) => a + b, 0);
  if (weights.length !== members.length || !(Math.abs(sum - 1) < 1e-9))
    throw new RangeError(`average: ${members.length} methods need as many weights that sum to 1, got ${weights.join(', ')}`);
  const mix: Rule['mix'] = (_, ys) => ys.map((v, i) => v.mul(weights[i]!)).reduce(add);
  return sideBySide({ name: 'average', paper: 'arXiv:2302.07027', own: null, mix }, members, 0);
}

/** y + g(y₁ − y), g = σ(w·x + b) for each token (Mao et al. 2022, UniPELT's gate). w ~ N(0, 0.02²), b = 0. Count: d + 1 at each place. */
export const gate = (member: Transform, seed = 0): Transform =>
  sideBySide(
    {
      name: 'gate',
      paper: 'arXiv:2110.07577',
      own: (d, _, r) => [param(r.normal(d, 0.02), [1, d]), param([0], [1], { decay: false })],
      mix: (y, [y1], x, [w, b]) => add(y, mul(sigmoid(x.matmul(w!.T).add(b!)), sub(y1!, y))),
    },
    [member],
    seed,
  );

/** Σ softmax(R x)_i y_i for each token, all members computed (soft merging, Zadouri et al. 2023). R ~ N(0, 0.02²). Count: n·d at each place. */
export const route = (members: readonly Transform[], seed = 0): Transform =>
  sideBySide(
    {
      name: 'route',
      paper: 'arXiv:2309.05444',
      own: (d, n, r) => [param(r.normal(n * d, 0.02), [n, d])],
      mix: (_, ys, x, [R]) => {
        const p = softmax(x.matmul(R!.T)); // [B, T, n]
        return ys.map((v, i) => v.mul(p.slice(p.shape.length - 1, i, i + 1))).reduce(add);
      },
    },
    members,
    seed,
  );
