// LoRA-drop: layers whose update hardly changes their output share one LoRA; the others keep their own.
//   importance of layer i: g_i = Σ_x ‖ΔW_i x‖² after a short training on a part of the data, divided by the sum over all layers
//   the largest keep their own until their sum reaches T; the rest share one pair (A, B) per kind of projection
// Zhou et al. 2024, arXiv 2402.07721, §3; `dropLora` (loraDropRecipe.ts) goes through all stages. Count: (n_own + the projections that share)·r(in + out).
import { nearest } from '../../core/nearest.ts';
import type { Rng } from '../../core/rng.ts';
import { defineMethod } from '../attach.ts';
import { matches, PLACES, type Site, type Where } from '../site.ts';
import { checkUpdate, type Factors, factors, type LoraConfig, STARTS, update } from './lora.ts';

export interface LoraDropConfig extends LoraConfig {
  readonly keep: Where; // layers with a LoRA of their own; it need not match any
}
const role = (path: string): string => path.split('.').at(-1)!;
const owns = ({ keep }: LoraDropConfig, { path }: { readonly path: string }): boolean => matches(keep, path);

/** The first site of every projection type that shares. */
function sharing(sites: readonly Site<'linear'>[], c: LoraDropConfig): Map<string, Site<'linear'>> {
  const first = new Map<string, Site<'linear'>>();
  for (const s of sites) {
    if (owns(c, s)) continue;
    const one = first.get(role(s.path)) ?? s;
    first.set(role(s.path), one);
    if (one.shape.join() !== s.shape.join())
      throw new RangeError(
        `loraDrop: ${s.path} [${s.shape}] cannot share a LoRA with ${one.path} [${one.shape}]: their sizes differ; keep one of them`,
      );
  }
  return first;
}

/** What `keep` names must be there; only a function may match nothing. */
function checkKept(sites: readonly Site<'linear'>[], { keep }: LoraDropConfig): void {
  const paths = sites.map((s) => s.path);
  for (const one of typeof keep === 'function' ? [] : [keep].flat())
    if (!paths.some((p) => matches(one, p)))
      throw new RangeError(
        `loraDrop: keep ${one} matches none of the layers it attaches to. Nearest: ${nearest(`${one}`, [...new Set(paths.map(role)), ...paths]).join(', ')}`,
      );
}

export const loraDrop = defineMethod<'linear', LoraDropConfig, Factors, ReadonlyMap<string, Factors>>({
  name: 'loraDrop',
  family: 'reparameterized',
  paper: 'arXiv:2402.07721',
  at: 'linear',
  defaults: { rank: 8, alpha: 8, rankStabilized: false, dropout: 0, init: 'kaiming', keep: [], where: ['q', 'v'] },
  takes: { init: STARTS, keep: PLACES },
  check: checkUpdate('loraDrop'),
  shared: (sites, c, r: Rng) => {
    checkKept(sites, c);
    return new Map([...sharing(sites, c)].map(([name, site]) => [name, factors(site, c, r.split(name))]));
  },
  init: (site, c, r, { shared }) => ({ train: owns(c, site) ? factors(site, c, r) : shared.get(role(site.path))! }),
  ...update,
  count: (sites, c) => update.count([...sites.filter((s) => owns(c, s)), ...sharing(sites, c).values()], c),
  startsAsBase: () => 'close', // adds an exact zero
});
