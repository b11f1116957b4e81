// LPT, late prompt tuning: the prompt enters between two blocks, and may be made of what the blocks below say of the text.
//   h ← block_L(… block_{k+1}([P; block_k(… block_1(h))]))[p:],   P ∈ ℝ^{p×d} trained, or for each text by a generator (promptGenerator.ts)
// Liu et al. 2022, arXiv 2210.11292, §4, and the authors' code.
import type { Tensor } from '../../core/tensor.ts';
import { shifted, withTokens } from '../../nn/context.ts';
import { BASE, layer } from '../../nn/layer.ts';
import { substitute } from '../../nn/tree.ts';
import { defineMethod } from '../attach.ts';
import type { Site } from '../site.ts';
import {
  checkGenerator,
  GENERATOR,
  type Generator,
  type GeneratorConfig,
  generated,
  generatorSize,
  inserted,
  newGenerator,
} from './promptGenerator.ts';
import { rowsBefore } from './reading.ts';

export interface LptConfig extends GeneratorConfig {
  readonly after: number | null; // k, the blocks below the prompt; null: half of them
}

const late = (site: Site<'trunk'>, c: LptConfig): number => c.after ?? Math.floor(site.within('block').length / 2);

/**
 * The prompt gets no learned positions, since those are added below it; with rotary ones it stands in front of the text. Blocks below it
 * cost neither its length nor a backward pass. The authors insert after the middle block: 20 rows as they are, 5 of the naive generator,
 * 10 of a pooling one, whose h is 128 or 256. Windows count real tokens, padding at the right. Count: pd, or the generator's.
 */
export const lpt = defineMethod<'trunk', LptConfig, Generator>({
  name: 'lpt',
  family: 'additive',
  paper: 'arXiv:2210.11292',
  at: 'trunk',
  defaults: { length: 20, after: null, generator: null, hidden: 256, reads: 'first', dropout: 0.1, where: 'trunk' },
  takes: { ...GENERATOR, after: [null, Number] },
  check: (site, c) => {
    checkGenerator('lpt', site, c);
    const [k, blocks] = [late(site, c), site.within('block').length];
    if (!Number.isInteger(k) || k < 0 || k >= blocks)
      throw new RangeError(
        `lpt: after ${k} at ${site.path} must be a whole number from 0 to ${blocks - 1}: a block above it must hear the prompt`,
      );
  },
  init: (site, c, r) => ({ train: newGenerator(c, site.dim('width'), r) }),
  around: (call, t, c, site) => {
    const place = new Map(site.within('block').map((b) => [b.path, b.index]));
    const [k, last] = [late(site, c), place.size - 1];
    return substitute(
      call,
      'block',
      (l, path) => {
        const i = place.get(path);
        if (i === undefined || i < k) return null;
        return layer('block', { [BASE]: l }, ({ [BASE]: l }) => (h, ctx) => {
          if (ctx.cache?.filled) return l(h, shifted(ctx, c.length)); // the rows are in the cache of this block
          const others = rowsBefore(h, ctx);
          const rows = (): Tensor => generated(t, c, h.slice(1, others), ctx, `${site.field} rows`);
          const x = i === k ? inserted(h, others, rows()) : h;
          const y = l(x, withTokens(ctx, c.length));
          return i === last ? y.slice(1, c.length) : y;
        });
      },
      site.path,
    );
  },
  count: (sites, c) => {
    const train = sites.reduce((n, s) => n + generatorSize(c, s.dim('width')), 0);
    return { train, stored: train };
  },
  startsAsBase: () => 'no',
});
