// P-tuning: the rows of a prompt made by a small network, in front of the text or at places that a template leaves for them.
//   P = encoder(E);   h = trunk([P; embed(x)])[p:],   or embed(x) with P_k where x is the pseudo-token [P_k]
// Liu et al. 2021, arXiv 2103.10385, §3. The encoder is for training: `finish` leaves the rows it makes.
import { eq } from '../../core/ops/map.ts';
import { reshape } from '../../core/ops/move.ts';
import { leaf } from '../../core/tensor.ts';
import { defineMethod } from '../attach.ts';
import { idsFit, lengthFits, wholeNumber } from '../check.ts';
import { type Encoder, type EncoderConfig, encoded, encoderSize, newEncoder } from './promptEncoder.ts';
import { promptInFront } from './promptTuning.ts';

const checkEncoder = (method: string, c: EncoderConfig, d: number): void => {
  for (const name of ['length', 'layers'] as const) wholeNumber(method, name, c[name]);
  wholeNumber(method, `hidden (of width ${d}: the default of an LSTM is half of it)`, c.hidden ?? (c.encoder === 'mlp' ? d : d / 2));
};
const defaults = { length: 20, encoder: 'mlp', hidden: null, layers: 2 } as const;

/**
 * Hugging Face PEFT's form: the rows stand in front of the text. With the MLP of PEFT's default; its LSTM has h = `hidden` units in each
 * direction and a linear layer 2h → 2h after them, the authors' h = d/2, so that both are d → d. Dropout between LSTM layers is left out
 * (0 in both).
 * Count: pd + dh + h + h² + h + hd + d with the MLP; pd + Σ 8h(in + h + 2) + (2h + 1)·2h + (2h + 1)d with the LSTM; p·d stored.
 */
export const pTuning = defineMethod<'trunk', EncoderConfig, Encoder>({
  name: 'pTuning',
  family: 'additive',
  paper: 'arXiv:2103.10385',
  at: 'trunk',
  defaults: { ...defaults, where: 'trunk' },
  check: (site, c) => {
    lengthFits('pTuning', site, c.length);
    checkEncoder('pTuning', c, site.dim('width'));
  },
  init: (site, c, r) => ({ train: newEncoder(c, site.dim('width'), r) }),
  around: (call, t) => promptInFront(call, encoded(t)),
  finish: (t) => ({ P: encoded(t) }),
  count: (sites, c) => ({
    train: sites.reduce((n, s) => n + encoderSize(c, s.dim('width')), 0),
    stored: sites.reduce((n, s) => n + c.length * s.dim('width'), 0),
  }),
  startsAsBase: () => 'no',
});

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
