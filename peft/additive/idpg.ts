// IDPG: a prompt for each text, made from what the frozen network itself says of the text.
//   P(x) = W₂ σ(W₁ M(x) + b₁) + b₂,   W₁ ∈ ℝ^{h×d}, W₂ ∈ ℝ^{pd×h};   M(x) the text's vector: the first token's, or the tokens' mean
// Wu et al. 2022, arXiv 2204.04497, §3.
import { stopGradient } from '../../core/ops/map.ts';
import { reshape } from '../../core/ops/move.ts';
import { param, type Tensor } from '../../core/tensor.ts';
import { ACTIVATIONS, type Activation, activations } from '../../nn/mlp.ts';
import { defineMethod } from '../attach.ts';
import { lengthFits, wholeNumber } from '../check.ts';
import { promptInFront } from './promptRows.ts';
import { meanOverText, readsWhole } from './reading.ts';

export interface IdpgConfig {
  readonly length: number; // p
  readonly hidden: number; // h
  readonly activation: Activation; // σ
  readonly reads: 'first' | 'mean' | 'embedding'; // M: of the trunk's answer without the prompt, or the mean of the embedded text
}
type Idpg = { readonly W1: Tensor; readonly b1: Tensor; readonly W2: Tensor; readonly b2: Tensor };

/**
 * M is not trained: the first pass is only read, so a step costs a forward pass more (`embedding` needs none). Layers start U(±1/√in).
 * Of the paper's generators the plain two-layer one is here; its variants with PHM layers and with a prompt for each layer are not.
 * Defaults (5 rows, h = 16) are those of the authors' scripts. Count: dh + h + (h + 1)·pd.
 */
export const idpg = defineMethod<'trunk', IdpgConfig, Idpg>({
  name: 'idpg',
  family: 'additive',
  paper: 'arXiv:2204.04497',
  at: 'trunk',
  defaults: { length: 5, hidden: 16, activation: 'relu', reads: 'first', where: 'trunk' },
  takes: { activation: ACTIVATIONS, reads: ['first', 'mean', 'embedding'] },
  check: (site, c) => {
    lengthFits('idpg', site, c.length);
    for (const name of ['length', 'hidden'] as const) wholeNumber('idpg', name, c[name]);
    readsWhole('idpg', site);
  },
  init: (site, { length: p, hidden: h }, r) => {
    const d = site.dim('width');
    const draw = (name: string, shape: readonly number[], from: number): Tensor =>
      param(
        r.split(name).uniform(
          shape.reduce((a, n) => a * n, 1),
          -1 / Math.sqrt(from),
          1 / Math.sqrt(from),
        ),
        shape,
        { decay: shape.length > 1 },
      );
    return { train: { W1: draw('W1', [h, d], d), b1: draw('b1', [h], d), W2: draw('W2', [p * d, h], h), b2: draw('b2', [p * d], h) } };
  },
  around:
    (call, { W1, b1, W2, b2 }, c) =>
    (x, ctx) => {
      const [b, , d] = x.shape as readonly [number, number, number];
      const read = c.reads === 'embedding' ? x : call(x, ctx);
      const m = stopGradient(c.reads === 'first' ? reshape(read.slice(1, 0, 1), [b, d]) : meanOverText(read, ctx)); // [B, d]
      const rows = activations[c.activation](m.matmul(W1.T).add(b1)).matmul(W2.T).add(b2); // [B, p·d]
      return promptInFront(call, reshape(rows, [b, c.length, d]))(x, ctx);
    },
  count: (sites, { length: p, hidden: h }) => {
    const train = sites.reduce((n, s) => n + s.dim('width') * h + h + (h + 1) * p * s.dim('width'), 0);
    return { train, stored: train };
  },
  startsAsBase: () => 'no',
});
