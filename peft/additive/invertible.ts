// The invertible adapter of MAD-X: it stands around all blocks, adapts the token embeddings and undoes that before the output embedding.
//   o₁ = e₁ + F(e₂),  o₂ = e₂ + G(o₁);   undone: e₂ = o₂ − G(o₁),  e₁ = o₁ − F(e₂);   F, G: a linear layer, σ, a linear layer
// Pfeiffer et al. 2020, arXiv 2005.00052, §3.2.3; the coupling is NICE's (Dinh et al. 2015, arXiv 1410.8516).
import { BASE, layer } from '../../nn/layer.ts';
import { ACTIVATIONS, type Activation } from '../../nn/mlp.ts';
import { substitute } from '../../nn/tree.ts';
import { defineMethod } from '../attach.ts';
import { type Coupling, coupled, newNet, parts, uncoupled } from './coupling.ts';

export interface InvertibleConfig {
  readonly reduction: number; // ρ: F has (d − ⌊d/2⌋)/ρ units, G ⌊d/2⌋/ρ
  readonly activation: Activation;
  readonly inverse: boolean; // undo before the head; false under a head that is no output embedding (a classifier)
  readonly init: 'bert' | 'zero'; // N(0, 0.02²), or last layers of 0, which is the identity
}

export const units = (from: number, c: InvertibleConfig): number => Math.floor(from / c.reduction);

const sizeOf = (from: number, to: number, c: InvertibleConfig): number => units(from, c) * (from + 1 + to) + to;

/**
 * The coupling stands before the first block, positions (and BERT's first norm) already in, as in the authors' library; the paper has it on
 * the token embeddings. Count: F u_F(d + 1) + ⌊d/2⌋ and G u_G(d + 1) + d − ⌊d/2⌋, where u are their units: about d²/2 + 2d for ρ = 2.
 * Starts as the base only with `init: 'zero'`.
 */
export const invertible = defineMethod<'trunk', InvertibleConfig, Coupling>({
  name: 'invertible',
  family: 'additive',
  paper: 'arXiv:2005.00052',
  at: 'trunk',
  defaults: { reduction: 2, activation: 'relu', inverse: true, init: 'bert', where: 'trunk' },
  takes: { activation: ACTIVATIONS, init: ['bert', 'zero'] },
  check: (site, c) => {
    const [half] = parts(site.dim('width'));
    if (!(c.reduction > 0 && units(half, c) >= 1))
      throw new RangeError(
        `invertible: reduction ${c.reduction} at ${site.path} must be more than 0 and at most ${half}, half of the width`,
      );
  },
  init: (site, c, r) => {
    const [half, rest] = parts(site.dim('width'));
    return { train: { F: newNet(rest, half, c, r.split('F')), G: newNet(half, rest, c, r.split('G')) } };
  },
  around: (call, p, c, site) => (x, ctx) => {
    const first = `${site.path}.blocks.0`;
    const inside = substitute(
      call,
      'block',
      (l, path) =>
        path === first
          ? layer(
              'block',
              { [BASE]: l },
              ({ [BASE]: l }) =>
                (e, at) =>
                  l(coupled(e, p, c), at),
            )
          : null,
      site.path,
    );
    const y = inside(x, ctx); // [B, T, d]
    return c.inverse ? uncoupled(y, p, c) : y;
  },
  count: (sites, c) => {
    const train = sites.reduce((n, s) => {
      const [half, rest] = parts(s.dim('width'));
      return n + sizeOf(rest, half, c) + sizeOf(half, rest, c);
    }, 0);
    return { train, stored: train };
  },
  startsAsBase: (c) => (c.init === 'zero' ? 'close' : 'no'),
});
