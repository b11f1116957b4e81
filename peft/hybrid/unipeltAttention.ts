// UniPELT on an attention sublayer: LoRA on q and v and a prefix, each behind a gate that reads the sublayer's input.
//   q = W_q x + g_q·B_q A_q x (v alike);   attend(q, [g_p P_k; k], [g_p P_v; v])
// Mao et al. 2022, arXiv 2110.07577, §3.
import type { Rng } from '../../core/rng.ts';
import { param, type Tensor } from '../../core/tensor.ts';
import type { Layer } from '../../nn/layer.ts';
import { substitute } from '../../nn/tree.ts';
import { flatten, newPrefix, type Prefix, type PrefixHidden, prefixSize } from '../additive/prefix.ts';
import type { Site } from '../site.ts';
import { type Gate, type GateConfig, gatedPrefix, gates, lowRank, newGate } from './unipeltGates.ts';

export interface AttentionConfig extends GateConfig {
  readonly rank: number; // of LoRA; 0 leaves it out (the variant AP)
  readonly length: number; // p of the prefix; 0 leaves it out
  readonly prefixBottleneck: number | null; // of the prefix's MLP, which all layers share; null: tables
}

/** LoRA as A [r, in] and B [out, r] of q, then of v. */
export type OnAttention = Prefix & { readonly lora: readonly Tensor[]; readonly gateQ: Gate; readonly gateV: Gate; readonly gateP: Gate };

/** q and v, where LoRA goes. */
export const projections = (s: Site<'branch'>): Site<'linear'>[] => ['q', 'v'].map((name) => s.within('linear', name)[0]!);

/** Hk·D of the key table and the value table. */
const widths = (s: Site<'branch'>): number[] =>
  s.within('attend').flatMap((a) => Array<number>(2).fill(a.dim('kvHeads') * a.dim('headWidth')));

export function newOnAttention(site: Site<'branch'>, c: AttentionConfig, r: Rng, shared: PrefixHidden | null): OnAttention {
  const pair = (s: Site<'linear'>): Tensor[] => {
    const [out, into] = s.shape as readonly [number, number];
    const A = r.split(s.path).uniform(c.rank * into, -1 / Math.sqrt(into), 1 / Math.sqrt(into));
    return [param(A, [c.rank, into]), param(new Float32Array(out * c.rank), [out, c.rank])];
  };
  const gate = (name: string, wanted: boolean, n = 1): Gate => (wanted ? newGate(n, site.dim('width'), r.split(name)) : []);
  return {
    ...newPrefix(c.length === 0 ? [] : widths(site), c.length, shared, false, r),
    lora: c.rank === 0 ? [] : projections(site).flatMap(pair),
    gateQ: gate('gateQ', c.rank > 0 && !c.central),
    gateV: gate('gateV', c.rank > 0 && !c.central),
    gateP: gate('gateP', c.length > 0, c.central ? 2 : 1),
  };
}

export const onAttention = (
  call: Layer<'branch'>,
  p: OnAttention,
  c: AttentionConfig,
  { path: at }: Site<'branch'>,
  x: Tensor,
): Layer<'branch'> => {
  const g = gates(p, x, c);
  const [Aq, Bq, Av, Bv] = p.lora;
  const adapted = substitute(
    call,
    'linear',
    (l, path) => {
      if (Aq && Bq && path === `${at}.q`) return lowRank(l, Aq, Bq, g.q);
      return Av && Bv && path === `${at}.v` ? lowRank(l, Av, Bv, g.v) : null;
    },
    at,
  );
  const [keys, values] = flatten(p);
  return keys && values ? substitute(adapted, 'attend', (l) => gatedPrefix(l, keys, values, g.prefix)) : adapted;
};

/** Count: r(in + out) + d + 1 for q and for v, and (m + 1)·2HkD + d + 1 for the prefix, p·2HkD for its table (`mlp` null). */
export function attentionSize(s: Site<'branch'>, c: AttentionConfig, mlp: number | null): number {
  const gate = s.dim('width') + 1;
  const lora = c.rank === 0 ? [] : projections(s).map(({ shape: [out, into] }) => c.rank * (out! + into!));
  const prefix = c.length === 0 ? 0 : prefixSize(widths(s), c.length, mlp) + gate * (c.central ? 2 : 1);
  return prefix + lora.reduce((n, k) => n + k + (c.central ? 0 : gate), 0);
}
