// The description in an adapter file: which methods, with which options, at which sites, and what each tensor is.
import type { Tensor } from '../core/tensor.ts';
import { type Application, BASE, type Field, isLayer, type Model } from '../nn/layer.ts';
import { join, layers, tensors } from '../nn/tree.ts';

export const FORMAT_VERSION = 1;

export type Json = string | number | boolean | null | readonly Json[] | { readonly [key: string]: Json };
/** One application of a method. */
export interface AppliedMethod {
  readonly method: string;
  readonly config: { readonly [option: string]: Json }; // without `where`, which `sites` replaces
  readonly omitted: readonly string[]; // options that are not JSON (functions, tensors)
  readonly sites: readonly string[];
}
export type Role = { readonly role: 'train'; readonly lr: number; readonly decay: boolean } | { readonly role: 'fixed' | 'buffer' };
export interface Description {
  readonly format: 'tinypeft adapter';
  readonly version: number;
  readonly applications: readonly AppliedMethod[]; // in the order of attaching
  readonly tensors: ReadonlyMap<string, Role>;
  toJSON(): Json;
}

/** Tensors that methods brought, by path, and the paths of weights that a method replaced. */
export function applied(model: Model): { own: { path: string; tensor: Tensor }[]; replaced: ReadonlySet<string> } {
  const own: { path: string; tensor: Tensor }[] = [];
  const replaced = new Set<string>();
  for (const { path, layer } of layers(model)) {
    const a = layer.attached;
    if (a === null) continue;
    own.push(...tensors(layer.fields[a.field] ?? null, join(path, a.field)));
    if (a.under !== layer.fields[BASE]) replaced.add(layer.kind === 'weight' ? path : join(path, 'weight'));
  }
  return { own, replaced };
}

/** The applications in an order in which attaching them again gives the same tree: at each site, the inner one first. */
function inOrder(model: Model): { application: Application; sites: string[] }[] {
  const stacks = new Map<string, Application[]>();
  const sites = new Map<Application, string[]>();
  for (const { path, layer } of layers(model)) {
    if (layer.attached === null) continue;
    const { application } = layer.attached;
    const known = sites.get(application) ?? [];
    if (!known.includes(path)) sites.set(application, [...known, path]);
    if (!stacks.has(path)) stacks.set(path, stack(layer));
  }
  const placed = new Set<Application>();
  const order: { application: Application; sites: string[] }[] = [];
  while (order.length < sites.size) {
    const next = [...sites].find(
      ([a]) => !placed.has(a) && [...stacks.values()].every((s) => !s.includes(a) || s.slice(0, s.indexOf(a)).every((b) => placed.has(b))),
    );
    if (next === undefined)
      throw new Error('saveAdapter: two methods lie each beneath the other, so no order of attaching makes this model');
    placed.add(next[0]);
    order.push({ application: next[0], sites: next[1] });
  }
  return order;
}
/** The applications at one place, innermost first. */
function stack(l: Field | undefined): Application[] {
  return isLayer(l) && l.attached !== null ? [...stack(l.fields[BASE]), l.attached.application] : [];
}

export function describe(model: Model, roles: ReadonlyMap<string, Role>): Description {
  const applications = inOrder(model).map(({ application: { method, config, defaults = {} }, sites }): AppliedMethod => {
    const options = Object.entries(config ?? {}).filter(([k, v]) => k !== 'where' && v !== undefined);
    const json = options.flatMap(([k, v]) => {
      const j = asJson(v);
      return j === undefined ? [] : [[k, j] as const];
    });
    const usual = defaults as Readonly<Record<string, unknown>>; // a way to pack (Scheme) is no JSON, but the default is known to whoever loads
    const omitted = options.flatMap(([k, v]) => (asJson(v) === undefined && v !== usual[k] ? [k] : []));
    return { method, config: Object.fromEntries(json), omitted, sites };
  });
  return description(FORMAT_VERSION, applications, roles);
}

const description = (version: number, applications: readonly AppliedMethod[], roles: ReadonlyMap<string, Role>): Description => ({
  format: 'tinypeft adapter',
  version,
  applications,
  tensors: roles,
  toJSON: () =>
    asJson({ format: 'tinypeft adapter', version, applications: [...applications], tensors: Object.fromEntries(roles) }) ?? null,
});

/** The value when JSON holds it exactly; undefined for functions, tensors, typed arrays, infinities. */
export function asJson(v: unknown): Json | undefined {
  if (v === null || typeof v === 'string' || typeof v === 'boolean') return v;
  if (typeof v === 'number') return Number.isFinite(v) && !Object.is(v, -0) ? v : undefined;
  if (Array.isArray(v)) {
    const items = v.map(asJson);
    return items.every((i) => i !== undefined) ? items : undefined;
  }
  if (typeof v !== 'object' || Object.getPrototypeOf(v) !== Object.prototype) return undefined;
  const entries = Object.entries(v).filter(([, x]) => x !== undefined);
  const items = entries.map(([k, x]) => [k, asJson(x)] as const);
  return items.every((i): i is readonly [string, Json] => i[1] !== undefined) ? Object.fromEntries(items) : undefined;
}

/** A description read from a file, every field checked. */
export function parseDescription(text: string | undefined, file: string): Description {
  const refuse = (what: string): never => {
    throw new Error(`${file}: ${what}`);
  };
  if (text === undefined)
    return refuse(
      "is a safetensors file without the metadata key 'tinypeft', so it is no adapter of this library (adapters of Hugging Face PEFT are another format)",
    );
  const json = parseJson(text) ?? refuse('its description is not JSON');
  if (!isJsonObject(json) || json.format !== 'tinypeft adapter') return refuse("its description is not that of a 'tinypeft adapter'");
  if (json.version !== FORMAT_VERSION)
    return refuse(
      `has format version ${JSON.stringify(json.version)}; this library reads version ${FORMAT_VERSION}. Update tinypeft, or save the adapter again`,
    );
  if (!Array.isArray(json.applications) || !isJsonObject(json.tensors)) return refuse('its description lacks applications or tensors');
  const applications = json.applications.map((a: unknown): AppliedMethod => {
    if (!isJsonObject(a) || typeof a.method !== 'string' || !isJsonObject(a.config) || !isTexts(a.omitted) || !isTexts(a.sites))
      return refuse('an application in its description needs method, config, omitted and sites');
    return { method: a.method, config: a.config, omitted: a.omitted, sites: a.sites };
  });
  const roles = new Map(
    Object.entries(json.tensors).map(([name, r]): [string, Role] => {
      if (isJsonObject(r) && (r.role === 'fixed' || r.role === 'buffer')) return [name, { role: r.role }];
      if (isJsonObject(r) && r.role === 'train' && typeof r.lr === 'number' && typeof r.decay === 'boolean')
        return [name, { role: 'train', lr: r.lr, decay: r.decay }];
      return refuse(`does not say what ${name} is: role must be train (with lr and decay), fixed or buffer`);
    }),
  );
  return description(FORMAT_VERSION, applications, roles);
}
/** JSON without the keys that could reach a prototype. */
export function parseJson(text: string): unknown {
  try {
    return JSON.parse(text, function (this: unknown, k, v: unknown) {
      if (k === '__proto__' || k === 'constructor' || k === 'prototype') throw new SyntaxError(k);
      return v;
    });
  } catch {
    return null;
  }
}
export const isJsonObject = (v: unknown): v is { readonly [key: string]: Json } => typeof v === 'object' && v !== null && !Array.isArray(v);
const isTexts = (v: unknown): v is readonly string[] => Array.isArray(v) && v.every((s) => typeof s === 'string');
