// The make of a frozen network's blocks, its sizes divided: what a side block beside it is built after.
import type { Rope } from '../../nn/attention.ts';
import { type AnyLayer, type Field, isLayer, type Kind, ofKind } from '../../nn/layer.ts';
import type { Activation } from '../../nn/mlp.ts';
import { bare, type Site } from '../site.ts';

/** The make of a backbone block, its sizes divided by ρ. */
export interface Make {
  readonly d: number;
  readonly inner: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly rope: Rope | null;
  readonly bias: boolean;
  readonly post: boolean; // norms after the additions
  readonly rms: boolean;
  readonly eps: number;
  readonly activation: Activation;
  readonly gated: boolean;
}

const part = <K extends Kind>(l: AnyLayer<K>, name: string): AnyLayer => {
  const found: Field | undefined = bare(l).fields[name];
  if (!isLayer(found))
    throw new Error(`side block: a ${l.kind} of this model has no ${name}; the method needs blocks with norm1, attn and mlp`);
  return bare(found);
};

export function makeOf(site: Site<'trunk'>, reduction: number): Make {
  const block = site.within('block')[0]!.layer;
  const [attn, feed, norm] = [part(block, 'attn'), part(block, 'mlp'), part(block, 'norm1')];
  const { heads, kvHeads } = part(attn, 'attend').fields as { heads: number; kvHeads: number };
  const up = part(feed, 'up');
  const [inner] = ofKind(part(up, 'weight'), 'weight')().shape as readonly [number];
  return {
    d: site.dim('width') / reduction,
    inner: inner / reduction,
    heads,
    kvHeads,
    rope: attn.fields.rope as Rope | null,
    bias: up.fields.bias !== null,
    post: bare(site.layer).fields.norm === null,
    rms: norm.fields.bias === null,
    eps: norm.fields.eps as number,
    activation: feed.fields.activation as Activation,
    gated: feed.fields.gate !== undefined,
  };
}

/** Refuses a reduction that leaves heads or the feed-forward without a whole width. */
export function wholeMake(method: string, site: Site<'trunk'>, reduction: number): void {
  const m = makeOf(site, reduction);
  const head = m.d / m.heads;
  if (!Number.isInteger(head) || !Number.isInteger(m.inner) || (m.rope !== null && head % 2))
    throw new RangeError(
      `${method}: at ${site.path} a reduction of ${reduction} makes width ${m.d} on ${m.heads} heads and feed-forward ${m.inner}; heads must get a whole${m.rope === null ? '' : ', even'} width each, so choose a smaller reduction`,
    );
}
