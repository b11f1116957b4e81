// TPT, prompt transfer between models: a prompt trained for one network, projected into the space of another.
//   P = LN(W₂ σ(W₁ vec(P_s) + b₁) + b₂), row by row,   P_s ∈ ℝ^{p×d_s} frozen, W₁ ∈ ℝ^{m×p·d_s}, W₂ ∈ ℝ^{p·d×m};   h = trunk([P; embed(x)])[p:]
// Su et al. 2022, arXiv 2111.06719, §5, and the authors' code. The projector is for training: `finish` leaves the rows. Transfer: tptTransfer.ts.
import { reshape } from '../../core/ops/move.ts';
import { leaf, param, type Tensor } from '../../core/tensor.ts';
import { defineMethod } from '../attach.ts';
import { lengthFits, wholeNumber } from '../check.ts';
import { promptInFront } from './promptRows.ts';
import { projected, type Tpt, type TptConfig } from './tptProjector.ts';

const rowsOf = (t: Tpt, c: TptConfig): Tensor => {
  if (t.P !== undefined) return t.P;
  const one = projected(t, t.source!, c); // [1, p, d]
  return reshape(one, [c.length, one.shape[2]!]);
};

/**
 * The source prompt comes from a model with prompt tuning (`tptSource`); until then it is N(0, 1). Trained on the target network's task
 * (task tuning), or to bring prompts of tasks that both networks have near each other (`tptDistance`); either way it then serves other
 * tasks: put their source prompt in its place. Within one network a prompt is transferred as it is (`transferred` of SPoT). Defaults: 100
 * rows, m = 768, linear layers U(±1/√in) (the authors draw N(0, 1) for T5). Count: p·d_s·m + m + (m + 1)p·d, + 2d with the norm; p·d stored.
 */
export const tpt = defineMethod<'trunk', TptConfig, Tpt>({
  name: 'tpt',
  family: 'additive',
  paper: 'arXiv:2111.06719',
  at: 'trunk',
  defaults: { length: 100, sourceWidth: null, hidden: 768, activation: 'leakyRelu', norm: true, where: 'trunk' },
  takes: { sourceWidth: [null, Number], activation: ['leakyRelu', 'tanh'] },
  check: (site, c) => {
    lengthFits('tpt', site, c.length);
    for (const name of ['length', 'hidden'] as const) wholeNumber('tpt', name, c[name]);
    wholeNumber('tpt', 'sourceWidth', c.sourceWidth ?? site.dim('width'));
  },
  init: (site, c, r) => {
    const [d, p, m] = [site.dim('width'), c.length, c.hidden];
    const from = p * (c.sourceWidth ?? d);
    const draw = (name: string, n: number, into: number): Float32Array =>
      r.split(name).uniform(n, -1 / Math.sqrt(into), 1 / Math.sqrt(into));
    const norm = {
      gain: param(new Float32Array(d).fill(1), [d], { decay: false }),
      shift: param(new Float32Array(d), [d], { decay: false }),
    };
    return {
      train: {
        W1: param(draw('W1', m * from, from), [m, from]),
        b1: param(draw('b1', m, from), [m], { decay: false }),
        W2: param(draw('W2', p * d * m, m), [p * d, m]),
        b2: param(draw('b2', p * d, m), [p * d], { decay: false }),
        ...(c.norm ? norm : {}),
      },
      fixed: { source: leaf(r.split('source').normal(from), [1, p, from / p]) },
    };
  },
  around: (call, t, c) => promptInFront(call, rowsOf(t, c)),
  finish: (t, c) => ({ P: rowsOf(t, c) }),
  count: (sites, { length: p, sourceWidth, hidden: m, norm }) => {
    const all = (f: (d: number) => number): number => sites.reduce((s, site) => s + f(site.dim('width')), 0);
    return { train: all((d) => p * (sourceWidth ?? d) * m + m + (m + 1) * p * d + (norm ? 2 * d : 0)), stored: all((d) => p * d) };
  },
  startsAsBase: () => 'no',
});
