// What a PEFT method is: a decorator on a named place of a frozen network, plus the parameters it brings.
import type { Engine } from '../core/engine.ts';
import type { Rng } from '../core/rng.ts';
import type { Data, Tensor } from '../core/tensor.ts';
import type { Controller, Hooks } from '../nn/hooks.ts';
import type { Batch, Calls, Kind, Layer, Model, Weights } from '../nn/layer.ts';
import type { AnyTakes } from './options.ts';
import type { Site, Where } from './site.ts';

/** Tensors by name; a list where the number is a hyper-parameter (experts). */
export type Tensors = { readonly [name: string]: Tensor | readonly Tensor[] };

/** What `init` brings to one site. */
export interface Brought<T extends Tensors> {
  readonly train: Partial<T>; // trained (params)
  readonly fixed?: Partial<T>; // frozen leaves, saved with the method (VeRA's random matrices)
  readonly buffer?: Partial<T>; // not trained but changed by hooks (masks, score averages)
  readonly base?: Tensor | Layer<'weight'>; // replaces the site's weight (PiSSA's residual); a layer where it is packed (LoftQ's)
}

/** What `init` is given besides its site. */
export interface Given<S, P> {
  readonly shared: S;
  readonly prepared: P;
  /** The numbers of the site's weight in use, row by row; only for a method that declares `readsWeight`. */
  weight(): Data;
}

/** What data-dependent methods may use before they attach. */
export interface Env {
  readonly engine: Engine;
  readonly batches?: readonly Batch[];
  readonly loss?: (model: Model, batch: Batch) => Tensor;
  /** Trains what is trainable in a model and answers it with its new values: for methods whose first stage is training. */
  readonly train?: (model: Model) => Promise<Model>;
  readonly seed?: number;
}

/** How a fresh attachment relates to the base: bit for bit the same, the same up to rounding, or not the same. */
export type Start = 'bitwise' | 'close' | 'no';

export interface Method<K extends Kind, C, T extends Tensors, S = null, P = null> {
  readonly name: string;
  readonly family: 'additive' | 'selective' | 'reparameterized' | 'hybrid';
  readonly paper: `arXiv:${string}` | `https://${string}`;
  readonly at: K;
  readonly defaults: C & { readonly where: Where };
  /** Refuses a configuration or site before anything is built: throw with reason and remedy. */
  readonly check?: (site: Site<K>, c: C) => void;
  /** What to do in a network where `where` finds no site; said with the error. */
  readonly otherwise?: string;
  /** Numbers needed before attaching (an SVD, a pass over data). Runs once per application; without it `prepared` is null. */
  readonly prepare?: (sites: readonly Site<K>[], c: C, env: Env, r: Rng) => Promise<P>;
  /** Which configurations need `prepare`; all when omitted. */
  readonly prepareIf?: (c: C) => boolean;
  /** Tensors used by several sites. */
  readonly shared?: (sites: readonly Site<K>[], c: C, r: Rng) => S;
  /** On a weight that two places share (a tied head) the method changes both, which is what it means; without this `where` must name both. */
  readonly followsTied?: true;
  /** At a layer whose weight another layer shares (an embedding and its head) the method changes this layer's answer alone; merged, each has a weight of its own. */
  readonly leavesTied?: true;
  /** `init` asks for the numbers of the weight in use. Plain weights have them at hand; others are computed by `prepare`. */
  readonly readsWeight?: true;
  /** Null where a choice over all sites leaves nothing for this one: the layer stays as it is. */
  readonly init: (site: Site<K>, c: C, r: Rng, given: Given<S, P>) => Brought<T> | null;
  /** The paper's forward equation: what the place computes now. The call is a layer: `substitute` may rebuild what is beneath it. */
  readonly around: (call: Layer<K>, p: T, c: C, site: Site<K>) => Calls[K];
  /**
   * `around` also computes the right thing when every row of a batch has tensors of its own: matrices [B, n, m], vectors [B, 1, n].
   * Then rows served by different adapters share one call (peft/mixed.ts); without it they are computed adapter by adapter.
   */
  readonly byRow?: true;
  /** Why what a row computes depends on the other rows of its batch, where it does: mixed batches refuse such a method. */
  readonly acrossRows?: string;
  /** The same method as new weights, where that is exact. */
  readonly fold?: (w: Weights, p: T, c: C, site: Site<K>) => Weights;
  readonly hooks?: (p: T, c: C, site: Site<K>) => Hooks;
  readonly control?: (at: readonly { readonly path: string; readonly own: T }[], c: C, prepared: P) => Controller;
  /** A smaller equivalent of the trained tensors (a flattened prefix). `around` must understand it. */
  readonly finish?: (p: T, c: C) => Partial<T>;
  /** The paper's count: scalars trained, and scalars stored after `finish`; of what `prepare` chose, where that matters and is known. */
  count(sites: readonly Site<K>[], c: C, prepared?: P | null): { readonly train: number; readonly stored: number };
  readonly startsAsBase: (c: C) => Start;
  /** Trained tensors whose gradient is zero by theory, by name, with the reason; they are there because the paper and its counts have them. */
  readonly idle?: Readonly<Record<string, string>>;
  /** Trained tensors whose gradient is on purpose not the loss's derivative, by name, with the reason (VeLoRA's compressed input). */
  readonly inexact?: Readonly<Record<string, string>>;
}

/** A method with its kind, configuration and tensors forgotten: what tables and laws hold. */
export interface AnyMethod {
  readonly name: string;
  readonly family: string;
  readonly paper: string;
  readonly at: Kind;
  readonly defaults: { readonly where: Where };
  /** What options take whose default does not say all. */
  readonly takes?: AnyTakes;
  readonly mergeable: boolean;
  readonly needsPreparing: boolean;
  readonly count: (sites: readonly Site<Kind>[], c: unknown, prepared?: unknown) => { readonly train: number; readonly stored: number };
  readonly startsAsBase: (c: unknown) => Start;
  readonly acrossRows?: string;
  readonly idle?: Readonly<Record<string, string>>;
  readonly inexact?: Readonly<Record<string, string>>;
}

/** A configured method: a function from models to models. */
export interface Transform {
  (model: Model): Model;
  readonly title: string;
  readonly parts: readonly Part[];
  /** Computes what the method needs from the model and data, and answers the transform that uses it. */
  prepare(model: Model, env: Env): Promise<Transform>;
}
export interface Part {
  readonly method: AnyMethod;
  readonly config: { readonly where: Where };
  /** What `prepare` answered, or null. */
  readonly prepared: unknown;
}

export type Options<C> = Partial<C> & { readonly where?: Where; readonly seed?: number | Rng };
