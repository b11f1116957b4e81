// Mixed-adapter batches: rows of one batch served by different adapters of one network.
//   row b of y = row b of what model n_b computes,   n [B] is an input
// Where adapters are alike (the same methods, configurations and shapes) and their equation holds row by row, each row's tensors are
// gathered by n and one call serves all: for LoRA, A_{n_b} and B_{n_b} in a batched product (the idea of Sheng et al. 2023, arXiv
// 2311.03285). Elsewhere every kind of adapter computes its answer for all rows, and each row takes the one of its own.
import { gather, iota } from '../core/ops/index.ts';
import { eq, max, where } from '../core/ops/map.ts';
import { reshape, stack } from '../core/ops/move.ts';
import { size } from '../core/shape.ts';
import { input, Tensor } from '../core/tensor.ts';
import {
  type AnyLayer,
  type Application,
  BASE,
  type Batch,
  type Calls,
  type Field,
  type Fields,
  isLayer,
  isRecord,
  type Kind,
  layer,
  type Model,
  ofKind,
} from '../nn/layer.ts';
import { join } from '../nn/tree.ts';
import { bare } from './site.ts';

/** Which model serves each of B rows: [B], whole numbers from 0. */
export type Rows = (rows: number) => Tensor;

/**
 * One model that serves row b as `models[n_b]` would. n is fed on every run under `rows` (the trainer takes it as a part of its
 * batches, `generate` as its `feed`), or made by a function of the number of rows. One of the models may be the base itself. It trains
 * its adapters together, without their hooks; save them one by one, from the models it is made of. Throws where the models are not over
 * one network, and where a method sits on a weight, which all rows of a batch share.
 */
export function mixed(models: readonly Model[], rows: string | Rows = 'adapter'): Model {
  if (models.length === 0) throw new RangeError('mixed: no models given; give one or more over one frozen network');
  return ofKind(togetherLayers(models, '', typeof rows === 'string' ? (n) => input(rows, [n]) : rows), 'model');
}

const differ = (path: string): never => {
  throw new Error(
    `mixed: the models are not the same at ${path === '' ? 'the top' : path}, which belongs to no method; attach all methods to one frozen network`,
  );
};

/** A field of several trees as one: it must be the same in all, except for methods. */
function together(fs: readonly Field[], path: string, of: Rows): Field {
  const [f] = fs as readonly [Field];
  if (fs.every((o) => o === f)) return f;
  if (isLayer(f)) return togetherLayers(fs as readonly AnyLayer[], path, of);
  const keys = (x: Field): string[] => (Array.isArray(x) || isRecord(x) ? Object.keys(x) : differ(path));
  if (fs.some((o) => keys(o).join() !== keys(f).join())) differ(path);
  const at = (x: Field, k: string): Field => (x as Fields)[k]!; // a list's places are its keys too
  const made = keys(f).map(
    (k) =>
      [
        k,
        together(
          fs.map((o) => at(o, k)),
          join(path, k),
          of,
        ),
      ] as const,
  );
  return Array.isArray(f) ? made.map(([, v]) => v) : Object.fromEntries(made);
}

function togetherLayers(ls: readonly AnyLayer[], path: string, of: Rows): AnyLayer {
  const [l] = ls as readonly [AnyLayer];
  if (ls.some((o) => !isLayer(o) || o.kind !== l.kind)) differ(path);
  if (ls.every((o) => o.attached === null)) {
    const fields = together(
      ls.map((o) => o.fields),
      path,
      of,
    ) as Fields;
    return fields === l.fields ? l : l.with(fields);
  }
  if (l.kind === 'weight')
    throw new Error(
      `mixed: ${ls.find((o) => o.attached !== null)!.attached!.method} changes the weight ${path}, which all rows of a batch share; merge that model and run it by itself`,
    );
  const across = ls.find((o) => o.attached?.acrossRows !== undefined)?.attached;
  if (across !== undefined && across !== null)
    throw new Error(`mixed: ${across.method} at ${path}: ${across.acrossRows}; run that model on a batch of its own`);
  const groups: number[][] = [];
  for (const [n, own] of ls.entries()) {
    const mine = groups.find((g) => alike(ls[g[0]!]!, own));
    if (mine === undefined) groups.push([n]);
    else mine.push(n);
  }
  const calls = groups.map((g) => {
    const members = ls.map((own, n) => (g.includes(n) ? own : ls[g[0]!]!)); // rows of other groups are computed, and then ignored
    if (members.every((own) => own === members[0])) return members[0]!;
    return members[0]!.attached === null ? togetherLayers(members, path, of) : byRow(members, path, of);
  });
  return choosing(l, calls, groups, of, ls.length);
}

/** Whether one call can serve both. */
function alike(a: AnyLayer, b: AnyLayer): boolean {
  const [x, y] = [a.attached, b.attached];
  if (a === b || (x === null && y === null)) return true;
  if (x === null || y === null || !x.byRow || !y.byRow || x.field !== y.field) return false;
  const [under, other] = [a.fields[BASE], b.fields[BASE]] as readonly [AnyLayer, AnyLayer];
  const replaced = under.attached === null && under !== other && !HOLDS_LAYERS.has(a.kind); // a weight of its own (PiSSA)
  return (
    !replaced &&
    x.method === y.method &&
    settings(x.application) === settings(y.application) &&
    shapes(a) === shapes(b) &&
    alike(under, other)
  );
}
const HOLDS_LAYERS: ReadonlySet<Kind> = new Set(['branch', 'block', 'trunk', 'model']);
const settings = ({ config }: Application): string =>
  JSON.stringify(config, (k, v: unknown) => (k === 'where' ? null : typeof v === 'function' ? String(v) : v));
const own = (l: AnyLayer): Fields => l.fields[l.attached!.field] as Fields; // attach() puts a record of tensors there
const shapes = (l: AnyLayer): string => JSON.stringify(own(l), (_, v: unknown) => (v instanceof Tensor ? v.shape : v));

/** Layers that are alike as one, each row with the tensors of its adapter. */
function byRow(ls: readonly AnyLayer[], path: string, of: Rows): AnyLayer {
  const [l] = ls as readonly [AnyLayer];
  const beneath = ls.map((o) => o.fields[BASE] as AnyLayer);
  const base = beneath.every((o) => o.attached !== null) ? byRow(beneath, path, of) : togetherLayers(beneath, path, of);
  return layer(l.kind, { [BASE]: base, own: ls.map(own) }, (f) =>
    call(l.kind, (first, args) => {
      const n = of(batchOf(first));
      return answer(l.with({ [BASE]: f[BASE]!, [l.attached!.field]: picked(f.own, n) }), args);
    }),
  );
}

/** Tensors of the same name stacked and picked by n [B]: matrices [B, …], vectors [B, 1, k]. Those that all share stay as they are. */
function picked(fs: readonly Field[], n: Tensor): Field {
  const [f] = fs as readonly [Field];
  if (fs.every((o) => o === f)) return f;
  if (!(f instanceof Tensor)) {
    const made = Object.keys(f as Fields).map(
      (k) =>
        [
          k,
          picked(
            fs.map((o) => (o as Fields)[k]!),
            n,
          ),
        ] as const,
    );
    return Array.isArray(f) ? made.map(([, v]) => v) : Object.fromEntries(made);
  }
  const all = stack(fs.map((t) => reshape(t as Tensor, [size(f.shape)])));
  return reshape(gather(all, n), [n.shape[0]!, ...(f.shape.length === 1 ? [1] : []), ...f.shape]);
}

/** Each row's answer from the call that serves it. */
function choosing(l: AnyLayer, calls: readonly AnyLayer[], groups: readonly (readonly number[])[], of: Rows, models: number): AnyLayer {
  if (calls.length === 1) return calls[0]!;
  const application: Application = { method: 'mixed', config: null, control: null };
  return layer(
    l.kind,
    { [BASE]: bare(l), mixed: calls },
    (f) =>
      call(l.kind, (first, args) => {
        const b = batchOf(first);
        const n = reshape(gather(reshape(iota(models), [models, 1]), of(b)), [b]); // n itself, refused where there is no such model
        return f.mixed
          .map((c, g) => ({ y: answer(c, args), members: groups[g]! }))
          .reduceRight((rest, { y, members }) => {
            const mine = members.map((k) => eq(n, k)).reduce(max); // [B]
            return { y: where(reshape(mine, [b, ...y.shape.slice(1).map(() => 1)]), y, rest.y), members };
          }).y;
      }),
    (f) => ({
      method: 'mixed',
      field: 'mixed',
      hooks: {},
      fold: null,
      finish: null,
      byRow: false,
      application,
      under: f[BASE] as AnyLayer,
    }),
  );
}

/** A call of any kind, by its first argument and all of them: the seam where `kind` is trusted for what follows. */
const call = <K extends Kind>(_: K, f: (first: Tensor | Batch, args: readonly unknown[]) => Tensor): Calls[K] =>
  ((...args: readonly unknown[]) => f(args[0] as Tensor | Batch, args)) as unknown as Calls[K];
const answer = (l: Field, args: readonly unknown[]): Tensor => (l as unknown as (...a: readonly unknown[]) => Tensor)(...args);
/** B: the first dimension of what every kind of layer is called with. */
const batchOf = (first: Tensor | Batch): number => (first instanceof Tensor ? first : first.ids).shape[0]!;
