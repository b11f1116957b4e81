// PHA, prototype-based hyper-adapter: a small network makes the adapters of all blocks from the prototype of a task; a retriever learns which
// texts belong to which prototype.
//   I_i = LN(W₂ ReLU(W₁ [k_τ; l_i] + b₁) + b₂);   D_i, c_i, U_i, e_i linear in I_i;   y = mlp(x) + U_i ReLU(D_i x + c_i) + e_i
//   z = R₂ ReLU(R₁ mean(h_L) + r₁) + r₂;   loss + λ·(instances of one task near each other) + λ·(instances near their prototype): phaLoss.ts
// Zhao et al. 2023, arXiv 2310.11670, §3, as in the authors' code. What makes the adapters: phaNetwork.ts.
import { gather } from '../../core/ops/index.ts';
import { input } from '../../core/tensor.ts';
import { substitute } from '../../nn/tree.ts';
import { defineMethod } from '../attach.ts';
import { between, wholeNumber } from '../check.ts';
import type { Site } from '../site.ts';
import { beside } from './beside.ts';
import { checkBottleneck, TAKES } from './bottleneck.ts';
import { instanceLoss, prototypeLoss, retrieved } from './phaLoss.ts';
import { adapterOf, newPha, type Pha, type PhaConfig, phaSize } from './phaNetwork.ts';
import { realTokens } from './reading.ts';

const blocks = (site: Site<'trunk'>): readonly Site<'block'>[] => site.within('block');

/**
 * With one task there is nothing to tell apart, and no retriever. Defaults as the authors' T5 runs: m = 64, e = 64, hidden 128, λ = ϑ = 0.1;
 * k and l ~ N(0, 1), heads U(±10⁻³√(3/(e·n))) with n the inputs of what they make, their biases 0. Theirs is an encoder–decoder whose
 * retriever reads the encoder and whose generated adapters are the decoder's, the encoder's being plain ones; here one trunk has both.
 * A new task is `tasks: 1` from the prototype that `prototypeScores` finds. lr 3e-4.
 * Count: e(K + L) + (2e + 1)h + (h + 3)e + (e + 1)(2md + m + d), and with K > 1 (d + 1)h + (h + 1)e.
 */
export const pha = defineMethod<'trunk', PhaConfig, Pha>({
  name: 'pha',
  family: 'additive',
  paper: 'arXiv:2310.11670',
  at: 'trunk',
  defaults: {
    ...{ bottleneck: 64, reduction: 16, activation: 'relu', tasks: 1, embedding: 64, hidden: 128, weight: 0.1, temperature: 0.1 },
    where: 'trunk',
  },
  takes: TAKES,
  check: (site, c) => {
    checkBottleneck('pha', { ...c, init: 'bert' });
    for (const name of ['tasks', 'embedding', 'hidden'] as const) wholeNumber('pha', name, c[name]);
    between('pha', 'weight', c.weight, 0, Number.MAX_VALUE);
    if (!(c.temperature > 0)) throw new RangeError(`pha: temperature ${c.temperature} must be above 0`);
    for (const b of blocks(site)) b.within('branch', 'mlp');
  },
  init: (site, c, r) => ({ train: newPha(c, site.dim('width'), blocks(site).length, r) }),
  around: (call, p, c, site) => (h, ctx) => {
    const task = c.tasks === 1 ? null : input('task', [h.shape[0]!]);
    const k = task === null ? p.prototypes : gather(p.prototypes, task); // [1 or B, e]
    const paths = blocks(site).map((b) => `${b.path}.mlp`);
    const adapted = substitute(
      call,
      'branch',
      (l, path) => {
        const i = paths.indexOf(path);
        return i < 0 ? null : beside(l, adapterOf(p, k, i, c));
      },
      site.path,
    );
    const y = adapted(h, ctx); // [B, T, d]
    if (task !== null && p.retriever !== undefined && c.weight > 0) {
      const z = retrieved(y, p.retriever, realTokens(y, ctx));
      const [together, home] = [instanceLoss(z, task, c.temperature), prototypeLoss(z, p.prototypes, task, c.temperature)];
      ctx.aux(`${site.path}.${site.field}`, together.add(home).mul(c.weight));
    }
    return y;
  },
  count: (sites, c) => {
    const train = sites.reduce((n, s) => n + phaSize(c, s.dim('width'), blocks(s).length), 0);
    return { train, stored: train };
  },
  startsAsBase: () => 'no',
});
