// The side network of Ladder Side Tuning: what it consists of, how it climbs along the hidden states, and how large it is.
//   s₀ = D₀ h₀;   s_i = Side_i( μ_i s_{i−1} + (1 − μ_i) D_i sg(h_i) ),   μ_i = sigmoid(α_i / T);   y = U norm(s_L)
// Sung et al. 2022, arXiv 2206.06522, §3.
import { add, mul, sigmoid, stopGradient, sub } from '../../core/ops/map.ts';
import type { Rng } from '../../core/rng.ts';
import { named } from '../../core/scope.ts';
import { param, type Tensor } from '../../core/tensor.ts';
import type { Site } from '../site.ts';
import { type Heard, lastRows } from './blocksHeard.ts';
import { blockOf, linearParts, made, normed, normParts, parts, scalars, through } from './sideBlock.ts';
import { makeOf } from './sideMake.ts';

export interface LstConfig {
  readonly reduction: number; // ρ
  readonly temperature: number; // T of the gates
  readonly bias: boolean; // of D_i and U
  readonly blocks: readonly number[] | null; // backbone blocks that have a side block; null: all (the paper drops some)
}
export type Ladder = {
  readonly first: readonly Tensor[]; // D₀, and its bias
  readonly down: readonly Tensor[]; // D_i, each followed by its bias
  readonly alpha: readonly Tensor[];
  readonly side: readonly Tensor[]; // all blocks' tensors, in the order of `parts`
  readonly norm: readonly Tensor[];
  readonly up: readonly Tensor[]; // U, and its bias
};

const which = (site: Site<'trunk'>, c: LstConfig): readonly number[] => c.blocks ?? site.within('block').map((_, k) => k);

/** The starts are those `lst` names. */
export function newLadder(site: Site<'trunk'>, c: LstConfig, r: Rng): Ladder {
  const m = makeOf(site, c.reduction);
  const d = site.dim('width');
  const own = which(site, c);
  const each = (name: string, f: (r: Rng) => Tensor[]): Tensor[] => own.flatMap((k) => f(r.split(name).split(k)));
  return {
    first: made(linearParts(m.d, d, c.bias), r.split('first'), 0.01),
    down: each('down', (own) => made(linearParts(m.d, d, c.bias), own, 0.01)),
    alpha: own.map(() => param([0], [1], { decay: false })),
    side: each('side', (own) => made(parts(m), own, 0.02)),
    norm: made(normParts(m), r, 0),
    up: made(linearParts(d, m.d, c.bias), r.split('up'), 0.01),
  };
}

/** norm(s_L) [B, T, d/ρ] beside a trunk whose blocks said `heard`. */
export function climbed(site: Site<'trunk'>, p: Ladder, c: LstConfig, heard: readonly Heard[]): Tensor {
  const m = makeOf(site, c.reduction);
  const [perBlock, perDown] = [parts(m).length, c.bias ? 2 : 1];
  const T = Math.min(...heard.flatMap(({ into, out }) => [into.shape[1]!, out.shape[1]!])); // rows may enter between two blocks
  const rows = (h: Tensor): Tensor => stopGradient(lastRows(h, T));
  const short = heard.find(({ into }) => into.shape[1] === T) ?? heard[0]!;
  let s = through(rows(heard[0]!.into), p.first); // [B, T, d/ρ]
  for (const [i, k] of which(site, c).entries()) {
    const mu = sigmoid(p.alpha[i]!.mul(1 / c.temperature));
    const x = through(rows(heard[k]!.out), p.down.slice(i * perDown, (i + 1) * perDown));
    const mixed = add(mul(mu, s), mul(sub(1, mu), x));
    s = named(`${site.field}.blocks.${k}`, () =>
      blockOf(m, p.side.slice(i * perBlock, (i + 1) * perBlock))(mixed, (heard[k]!.into.shape[1] === T ? heard[k]! : short).ctx),
    );
  }
  return normed(m, s, p.norm);
}

export function ladderSize(site: Site<'trunk'>, c: LstConfig): number {
  const [m, d] = [makeOf(site, c.reduction), site.dim('width')];
  const sampler = scalars(linearParts(m.d, d, c.bias));
  const each = scalars(parts(m)) + sampler + 1;
  return which(site, c).length * each + sampler + scalars(normParts(m)) + scalars(linearParts(d, m.d, c.bias));
}
