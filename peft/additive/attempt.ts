// ATTEMPT: a prompt for each text, mixed of frozen prompts of source tasks and a new one by attention, and added to the new one.
//   x̂ = max_t embed(x)_t,   z = LN(W_up silu(W_down x̂)),   a = softmax_j(z·max_rows(P_j) / τ)
//   P(x) = P + Σ_j a_j P_j,  j over N source prompts and P itself;   P_j ∈ ℝ^{p×d}, W_down ∈ ℝ^{r×d}, W_up ∈ ℝ^{d×r}
// Asai et al. 2022, arXiv 2205.11961, §3, and the authors' code.
import { layerNorm, softmax } from '../../core/ops/fused.ts';
import { silu, where } from '../../core/ops/map.ts';
import { concat, reshape } from '../../core/ops/move.ts';
import { maxOver } from '../../core/ops/reduce.ts';
import { leaf, param, type Tensor } from '../../core/tensor.ts';
import type { Model } from '../../nn/layer.ts';
import { defineMethod } from '../attach.ts';
import { between, lengthFits, wholeNumber } from '../check.ts';
import { promptInFront } from './promptRows.ts';
import { readsWhole, realTokens } from './reading.ts';
import { promptsOf, withFixed } from './sourcePrompts.ts';

export interface AttemptConfig {
  readonly length: number; // p
  readonly sources: number; // N
  readonly hidden: number; // r
  readonly temperature: number; // τ
}
/** sources [N, p, d], fixed. */
type Attempt = Record<'P' | 'down' | 'up' | 'gain' | 'shift' | 'sources', Tensor>;

/**
 * Source prompts come from models with prompt tuning (`attemptSources`); until then they are N(0, 1). Defaults are the authors': six
 * source tasks, 100 rows, r = 100, τ = 2000 (about e·d). P ~ N(0, 1) (the authors start it as a source prompt or from vocabulary),
 * projections N(0, 0.01²). Padding is left out of the maximum. Sharing one attention among several target tasks is left out.
 * Count: pd + 2dr + 2d trained; with the N source prompts stored, Npd more.
 */
export const attempt = defineMethod<'trunk', AttemptConfig, Attempt>({
  name: 'attempt',
  family: 'additive',
  paper: 'arXiv:2205.11961',
  at: 'trunk',
  defaults: { length: 100, sources: 6, hidden: 100, temperature: 2000, where: 'trunk' },
  check: (site, c) => {
    lengthFits('attempt', site, c.length);
    for (const name of ['length', 'sources', 'hidden'] as const) wholeNumber('attempt', name, c[name]);
    between('attempt', 'temperature', c.temperature, Number.MIN_VALUE, Number.MAX_VALUE);
    readsWhole('attempt', site);
  },
  init: (site, { length: p, sources: n, hidden: r }, draws) => {
    const d = site.dim('width');
    return {
      train: {
        P: param(draws.split('P').normal(p * d), [p, d]),
        down: param(draws.split('down').normal(r * d, 0.01), [r, d]),
        up: param(draws.split('up').normal(d * r, 0.01), [d, r]),
        gain: param(new Float32Array(d).fill(1), [d], { decay: false }),
        shift: param(new Float32Array(d), [d], { decay: false }),
      },
      fixed: { sources: leaf(draws.split('sources').normal(n * p * d), [n, p, d]) },
    };
  },
  around:
    (call, { P, down, up, gain, shift, sources }, { length: p, sources: n, temperature }) =>
    (h, ctx) => {
      const [b, t, d] = h.shape as readonly [number, number, number];
      const real = realTokens(h, ctx);
      const x = maxOver(real === null ? h : where(reshape(real, [b, t, 1]), h, -1e30), [1]); // [B, d]
      const z = layerNorm(silu(x.matmul(down.T)).matmul(up.T), gain, shift);
      const all = concat([sources, reshape(P, [1, p, d])], 0); // [N + 1, p, d]
      const a = softmax(z.matmul(maxOver(all, [1]).T).div(temperature)); // [B, N + 1]
      const mixed = a.matmul(reshape(all, [n + 1, p * d])); // [B, p·d]
      return promptInFront(call, P.add(reshape(mixed, [b, p, d])))(h, ctx);
    },
  count: (sites, { length: p, sources: n, hidden: r }) => {
    const all = (f: (d: number) => number): number => sites.reduce((s, site) => s + f(site.dim('width')), 0);
    return { train: all((d) => p * d + 2 * d * r + 2 * d), stored: all((d) => (n + 1) * p * d + 2 * d * r + 2 * d) };
  },
  startsAsBase: () => 'no',
});

/** A model with `attempt` just attached, its source prompts those of these models (with prompt tuning, trained on the source tasks). */
export const attemptSources = (target: Model, sources: readonly Model[]): Model =>
  withFixed(target, 'attempt', { sources: promptsOf('attempt', sources) });
