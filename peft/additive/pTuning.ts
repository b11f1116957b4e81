// P-tuning: the rows of a prompt, made by a small network, in front of the text.
//   P = encoder(E);   h = trunk([P; embed(x)])[p:]
// Liu et al. 2021, arXiv 2103.10385, §3, in Hugging Face's form. The encoder is for training: `finish` leaves the rows it makes.
import { defineMethod } from '../attach.ts';
import { lengthFits, wholeNumber } from '../check.ts';
import { ENCODER, type Encoder, type EncoderConfig, encoded, encoderSize, newEncoder } from './promptEncoder.ts';
import { promptInFront } from './promptRows.ts';

export const checkEncoder = (method: string, c: EncoderConfig, d: number): void => {
  for (const name of ['length', 'layers'] as const) wholeNumber(method, name, c[name]);
  wholeNumber(method, `hidden (of width ${d}: the default of an LSTM is half of it)`, c.hidden ?? (c.encoder === 'mlp' ? d : d / 2));
};

export const defaults = { length: 20, encoder: 'mlp', hidden: null, layers: 2 } as const;

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
  takes: ENCODER,
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
