// What a tuned model trains, keeps frozen, stores and costs: by site and in all, as numbers and as text.
import { account, short } from '../core/account.ts';
import { columns } from '../core/columns.ts';
import { grad } from '../core/grad.ts';
import { size } from '../core/shape.ts';
import { type Param, paramOf, stateOf, type Tensor } from '../core/tensor.ts';
import { BASE, type Field, type Model } from '../nn/layer.ts';
import { layers, tensors, trainable } from '../nn/tree.ts';
import type { Optimizer } from '../optim/optimizer.ts';
import { detach, finish } from './merge.ts';
import { bare } from './site.ts';

/** One attachment, or one tensor of the network that is not frozen. */
export interface SiteReport {
  readonly path: string;
  /** The field that holds the method's tensors (lora, lora2, …); 'unfrozen' for a tensor of the network itself. */
  readonly method: string;
  /** Scalars an optimizer changes. A tensor shared by several sites counts at the first. */
  readonly trainable: number;
  /** Scalars the method brought and does not train: fixed matrices, indices, buffers. */
  readonly fixed: number;
  /** Scalars of the network at this place that stay as they are. */
  readonly frozen: number;
  /** trainable / (trainable + fixed + frozen) */
  readonly ratio: number;
  /** What saving this place takes after `finish`, without file headers: all that the method brought, or the unfrozen tensor. */
  readonly bytes: number;
  /** Bytes of values computed at this place, by network and methods together, that wait for backward; null without a loss. */
  readonly saved: number | null;
}
export interface Total {
  readonly trainable: number;
  readonly fixed: number;
  readonly frozen: number;
  /** trainable / everything, methods included: what Hugging Face PEFT prints. */
  readonly ofAll: number;
  /** trainable / the network without methods: what most papers quote. */
  readonly ofBase: number;
  readonly bytes: number;
}
export interface Report {
  readonly sites: readonly SiteReport[];
  readonly total: Total;
  /** Bytes of optimizer state (float32); null where no optimizer was given. */
  readonly optimizer: { readonly name: string; readonly bytes: number } | null;
  /** What one step of training computes, counted without running it; null without a loss. */
  readonly step: {
    /** Bytes of forward values that backward reads. */
    readonly saved: number;
    /** Most bytes of intermediate values alive at once. */
    readonly peak: number;
    readonly flops: { readonly forward: number; readonly backward: number };
  } | null;
}
export interface ReportOptions {
  /** Counts the bytes of its state. */
  readonly optimizer?: Optimizer | null;
  /** The training loss on a typical batch: counts what a step keeps and computes. */
  readonly loss?: ((model: Model) => Tensor) | null;
}

const identity = (t: Tensor): Tensor | Param => paramOf(t) ?? t;
const isTrained = (t: Tensor): boolean => paramOf(t)?.active ?? false;
/** Bytes a tensor takes in a file: as it is held, or as float32 where it is still a recipe. */
const bytesOf = (t: Tensor): number =>
  t.source.kind === 'leaf' ? t.source.data.byteLength : (paramOf(t)?.value.byteLength ?? 4 * size(t.shape));
const scalars = (ts: Iterable<Tensor>): number => [...ts].reduce((n, t) => n + size(t.shape), 0);

/** Each tensor of a part of the tree once, those in `seen` left out and the others put there. */
function fresh(part: Field | undefined, seen: Set<unknown>): Tensor[] {
  const found: Tensor[] = [];
  for (const { tensor } of tensors(part ?? null)) {
    if (seen.has(identity(tensor))) continue;
    seen.add(identity(tensor));
    found.push(tensor);
  }
  return found;
}

/** Every attachment with what it brought, once each; and what it takes stored, which `finish` may have made smaller. */
function attachments(model: Model): { path: string; method: string; own: Tensor[]; replaced: Tensor[]; beneath: Field }[] {
  const seen = new Set<unknown>();
  return [...layers(model)].flatMap(({ path, layer }) => {
    if (layer.attached === null) return [];
    const { field, under } = layer.attached;
    const base = layer.fields[BASE];
    const known = new Set<unknown>(fresh(under, new Set()));
    const replaced = base === under ? [] : fresh(base, known).filter((t) => !seen.has(identity(t)));
    return [{ path, method: field, own: fresh(layer.fields[field], seen), replaced, beneath: bare(layer) }];
  });
}

/**
 * Counts what a model trains, keeps and stores; with an optimizer, the bytes of its state; with a loss, what a step keeps for
 * backward and computes. Runs nothing. The ratio per site is of what is at that site; the two ratios of the total say which
 * denominator they have.
 */
export function report(model: Model, { optimizer = null, loss = null }: ReportOptions = {}): Report {
  const step = loss === null ? null : accountOf(model, loss);
  const savedAt = (path: string): number | null => step?.savedAt(path) ?? null;
  const stored = new Map(attachments(finish(model)).map((a) => [`${a.path} ${a.method}`, [...a.own, ...a.replaced]]));
  const all = attachments(model);
  const owned = new Set<unknown>(all.flatMap(({ own }) => own.map(identity)));
  const sites: SiteReport[] = all.map(({ path, method, own, beneath }) => {
    const trained = scalars(own.filter(isTrained));
    const fixed = scalars(own) - trained;
    const frozen = scalars(fresh(beneath, new Set(owned)).filter((t) => paramOf(t) === null));
    const bytes = (stored.get(`${path} ${method}`) ?? []).reduce((n, t) => n + bytesOf(t), 0);
    return {
      path,
      method,
      trainable: trained,
      fixed,
      frozen,
      ratio: share(trained, trained + fixed + frozen),
      bytes,
      saved: savedAt(path),
    };
  });
  const known = new Set(owned);
  for (const { path, tensor } of tensors(model)) {
    if (paramOf(tensor) === null || known.has(identity(tensor))) continue;
    known.add(identity(tensor));
    const n = size(tensor.shape);
    sites.push({ path, method: 'unfrozen', trainable: n, fixed: 0, frozen: 0, ratio: 1, bytes: bytesOf(tensor), saved: savedAt(path) });
  }
  const sum = (of: (s: SiteReport) => number): number => sites.reduce((n, s) => n + of(s), 0);
  const [trained, fixed] = [sum((s) => s.trainable), sum((s) => s.fixed)];
  const network = fresh(detach(model), new Set());
  const frozen = scalars(network.filter((t) => paramOf(t) === null));
  const params = new Set([...tensors(model)].map(({ tensor }) => paramOf(tensor)).filter((p): p is Param => p?.active ?? false));
  const state = (o: Optimizer): number => [...params].reduce((n, p) => n + 4 * scalars(Object.values(o.init(p))), 0);
  return {
    sites,
    total: {
      trainable: trained,
      fixed,
      frozen,
      ofAll: share(trained, trained + fixed + frozen),
      ofBase: share(trained, scalars(network)),
      bytes: sum((s) => s.bytes),
    },
    optimizer: optimizer === null ? null : { name: optimizer.name, bytes: state(optimizer) },
    step: step?.total ?? null,
  };
}
/** One step's loss and gradients, counted. */
function accountOf(
  model: Model,
  loss: (model: Model) => Tensor,
): { total: NonNullable<Report['step']>; savedAt: (path: string) => number } {
  const value = loss(model);
  const trained = trainable(model);
  const a = account([value, ...grad(value, [...trained.keys()].map(stateOf))], { params: trained.keys() });
  const { forward, backward } = a.phases;
  const at = (path: string, place: string): boolean => place === '' || path === place || path.startsWith(`${place}.`);
  return {
    total: { saved: forward.saved, peak: a.peak, flops: { forward: forward.flops, backward: backward.flops } },
    savedAt: (place) => a.lines.reduce((n, l) => n + (l.phase === 'forward' && at(l.path, place) ? l.saved : 0), 0),
  };
}
const share = (part: number, whole: number): number => (whole === 0 ? 0 : part / whole);

const percent = (x: number): string => `${(100 * x).toPrecision(3)} %`;
const count = (n: number): string => n.toLocaleString('en-US');

/** The report for a terminal; of more than `most` (24) sites the rest is summed into one line. */
export function reportTable(r: Report, most = 24): string {
  const shown = r.sites.length > most ? r.sites.slice(0, most - 1) : r.sites;
  const rest = r.sites.slice(shown.length);
  const sum = (of: (s: SiteReport) => number): number => rest.reduce((n, s) => n + of(s), 0);
  const [trained, fixed, frozen] = [sum((s) => s.trainable), sum((s) => s.fixed), sum((s) => s.frozen)];
  const others: SiteReport = {
    path: `… ${rest.length} more`,
    method: '',
    trainable: trained,
    fixed,
    frozen,
    ratio: share(trained, trained + fixed + frozen),
    bytes: sum((s) => s.bytes),
    saved: r.step === null ? null : sum((s) => s.saved ?? 0),
  };
  const row = (s: SiteReport): string[] => [
    s.path === '' ? '(model)' : s.path,
    s.method,
    count(s.trainable),
    count(s.fixed),
    count(s.frozen),
    percent(s.ratio),
    short(s.bytes, 'B'),
    ...(s.saved === null ? [] : [short(s.saved, 'B')]),
  ];
  const heading = [
    'site',
    'method',
    'trained',
    'fixed',
    'frozen here',
    'trained here',
    'stored',
    ...(r.step === null ? [] : ['kept here']),
  ];
  const t = r.total;
  return [
    columns(heading, [...shown, ...(rest.length === 0 ? [] : [others])].map(row)),
    '',
    `trained   ${count(t.trainable)} of ${count(t.trainable + t.fixed + t.frozen)} scalars: ${percent(t.ofAll)} of all, methods included; ${percent(t.ofBase)} of the network alone`,
    `stored    ${short(t.bytes, 'B')} without file headers`,
    ...(r.optimizer === null ? [] : [`optimizer ${short(r.optimizer.bytes, 'B')} (${r.optimizer.name})`]),
    ...(r.step === null
      ? []
      : [
          `step      keeps ${short(r.step.saved, 'B')} for backward, ${short(r.step.peak, 'B')} alive at most; ${short(r.step.flops.forward, 'FLOP')} forward, ${short(r.step.flops.backward, 'FLOP')} backward`,
        ]),
  ].join('\n');
}
