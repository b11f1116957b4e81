// P-tuning with a template: the text is written with pseudo-tokens, and a small network makes their embeddings.
//   embed'(x) = P_k where x is the pseudo-token [P_k], embed(x) elsewhere;   P = encoder(E)
// Liu et al. 2021, arXiv 2103.10385, §3: the authors' form. `finish` leaves the rows that the encoder makes.
import { eq } from '../../core/ops/map.ts';
import { reshape } from '../../core/ops/move.ts';
import { leaf } from '../../core/tensor.ts';
import { defineMethod } from '../attach.ts';
import { idsFit } from '../check.ts';
import { ENCODER, type Encoder, type EncoderConfig, encoded, encoderSize, newEncoder } from './promptEncoder.ts';
import { checkEncoder, defaults } from './pTuning.ts';

export interface TemplateConfig extends Omit<EncoderConfig, 'length'> {
  readonly pseudoTokens: readonly number[]; // the ids that stand for P_1 … P_p: ids the texts do not use otherwise
}

const sized = (c: TemplateConfig): EncoderConfig => ({ ...c, length: c.pseudoTokens.length });

/**
 * The authors' form: the text is written with pseudo-tokens at any places, [P_1] … [P_i] x [P_i+1] … [MASK], and their embeddings are
 * the rows. The authors write one pseudo-token p times and fill it in order; here each row has an id of its own, so that rows may repeat
 * and stand in any order. A text without pseudo-tokens is as before. Count as `pTuning`.
 */
export const pTuningTemplate = defineMethod<'embedding', TemplateConfig, Encoder>({
  name: 'pTuningTemplate',
  family: 'additive',
  paper: 'arXiv:2103.10385',
  at: 'embedding',
  defaults: { ...defaults, encoder: 'lstm', pseudoTokens: [], where: 'embed' },
  takes: ENCODER,
  check: (site, c) => {
    idsFit('pTuningTemplate', site, c.pseudoTokens);
    if (new Set(c.pseudoTokens).size !== c.pseudoTokens.length)
      throw new RangeError('pTuningTemplate: a pseudo-token is listed twice; each stands for one row');
    checkEncoder('pTuningTemplate', sized(c), site.shape[1]!);
  },
  init: (site, c, r) => ({ train: newEncoder(sized(c), site.shape[1]!, r) }),
  around: (call, t, { pseudoTokens }) => {
    const tokens = leaf(pseudoTokens, [pseudoTokens.length]);
    return (ids, ctx) => {
      const which = eq(reshape(ids, [...ids.shape, 1]), tokens); // [B, T, p]
      return call(ids, ctx)
        .mul(which.sum([-1], true).neg().add(1))
        .add(which.matmul(encoded(t)));
    };
  },
  finish: (t) => ({ P: encoded(t) }),
  count: (sites, c) => ({
    train: sites.reduce((n, { shape: [, d] }) => n + encoderSize(sized(c), d!), 0),
    stored: sites.reduce((n, { shape: [, d] }) => n + c.pseudoTokens.length * d!, 0),
  }),
  startsAsBase: () => 'no',
});
