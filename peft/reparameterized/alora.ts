// aLoRA (activated LoRA): a LoRA that acts from a certain sequence of tokens on, so that keys and values of the text before it stay the base's.
//   y_t = W x_t + b + a_t·s·B A drop(x_t),   a_t = 1 from the start of the last invocation w₁ … w_n in the text on, 0 before it
// Greenewald et al. 2025, arXiv 2504.12397, as built in PEFT. With a cache the text is remembered (Context.seen): a token that is decoded is
// adapted when the whole invocation stands before it or ends with it. There is no one weight to merge into.
import { defineMethod } from '../attach.ts';
import { active } from './aloraInvocation.ts';
import { checkUpdate, dropped, type Factors, factors, type LoraConfig, STARTS, scaling, update } from './lora.ts';

export interface AloraConfig extends LoraConfig {
  readonly invocation: readonly number[]; // w
  readonly absent: 'base' | 'all'; // a text without it: none of its tokens, as PEFT has it, or all, as LoRA
}

/** Count: r(in + out). */
export const alora = defineMethod<'linear', AloraConfig, Factors>({
  name: 'alora',
  family: 'reparameterized',
  paper: 'arXiv:2504.12397',
  at: 'linear',
  defaults: {
    rank: 32,
    alpha: 32,
    rankStabilized: false,
    dropout: 0,
    init: 'kaiming',
    invocation: [0],
    absent: 'base',
    where: ['q', 'k', 'v'],
  },
  takes: { init: STARTS, absent: ['base', 'all'] },
  check: (site, c) => {
    checkUpdate('alora')(site, c);
    if (site.block === null)
      throw new RangeError(
        `alora: ${site.path} is outside the blocks, where it may be given other things than tokens; choose layers of the blocks`,
      );
    if (c.invocation.length === 0 || !c.invocation.every((id) => Number.isInteger(id) && id >= 0))
      throw new RangeError(
        `alora: the invocation [${c.invocation.join(', ')}] must be one id or more; encode its text with the model's tokenizer`,
      );
  },
  init: (site, c, r) => ({ train: factors(site, c, r) }),
  around:
    (call, { A, B }, c, site) =>
    (x, ctx) => {
      const a = active(x, c, site, ctx);
      const y = call(x, ctx);
      return a === null ? y : y.add(dropped(x, c, site, ctx).matmul(A.T).matmul(B.T).mul(scaling(c)).mul(a));
    },
  byRow: true,
  count: update.count,
  startsAsBase: () => 'close', // adds an exact zero
});
