// aLoRA (activated LoRA): a LoRA that acts from a certain sequence of tokens on, so that keys and values of the text before it stay the base's.
//   y_t = W x_t + b + a_t·s·B A drop(x_t),   a_t = 1 from the start of the last invocation w₁ … w_n in the text on, 0 before it
// Greenewald et al. 2025, arXiv 2504.12397, as built in PEFT. With a cache the text is remembered (Context.seen): a token that is decoded is
// adapted when the whole invocation stands before it or ends with it. There is no one weight to merge into.
import { iota, takeAlong } from '../../core/ops/index.ts';
import { eq, full, ge, gt } from '../../core/ops/map.ts';
import { pad } from '../../core/ops/move.ts';
import { maxOver } from '../../core/ops/reduce.ts';
import { ShapeError, show } from '../../core/shape.ts';
import type { Tensor } from '../../core/tensor.ts';
import type { Context, Seen } from '../../nn/context.ts';
import { defineMethod } from '../attach.ts';
import type { Site } from '../site.ts';
import { checkUpdate, dropped, type Factors, factors, type LoraConfig, scaling, update } from './lora.ts';

export interface AloraConfig extends LoraConfig {
  readonly invocation: readonly number[]; // w
  readonly absent: 'base' | 'all'; // a text without it: none of its tokens, as PEFT has it, or all, as LoRA
}

/** Where the last invocation starts in each row, counted from 1; 0 where there is none. [B, 1] */
function lastStart({ ids, used }: Seen, w: readonly number[]): Tensor {
  const [b, t] = ids.shape as readonly [number, number];
  const places = t - w.length + 1;
  if (places < 1) return full([b, 1], 0);
  const whole = w.map((id, k) => eq(ids.slice(1, k, k + places), id)).reduce((x, y) => x.mul(y)); // [B, places]
  const real = used === null ? whole : whole.mul(used.slice(1, w.length - 1, t));
  return maxOver(real.mul(iota(places).add(1)), [1], true);
}

/** a [B, T, 1] for the tokens x [B, T, in] of this pass. */
function active(x: Tensor, { invocation, absent }: AloraConfig, { path }: Site<'linear'>, ctx: Context): Tensor {
  if (ctx.seen === undefined || x.shape.length !== 3)
    throw new ShapeError(
      `alora at ${path}: ${ctx.seen === undefined ? 'it acts on the ids of the text, which this pass does not say; run the whole model' : `it acts token by token, but is given ${show(x.shape)}; choose layers of the blocks`}`,
    );
  const seen = ctx.seen();
  const start = lastStart(seen, invocation);
  const [b, t] = [x.shape[0]!, x.shape[1]!];
  const there = gt(start, 0); // [B, 1]
  const rows = absent === 'all' ? full([b, 1], 1) : there;
  const n = seen.ids.shape[1]!;
  if (ctx.cache?.filled) return rows.add(full([b, t], 0)).reshape(b, t, 1);
  const tokens = ge(iota(n).add(1), start).mul(rows); // [B, n]
  if (t < n && ctx.only != null) return takeAlong(tokens, ctx.only.reshape(b, 1)).reshape(b, 1, 1); // a head that answers one token
  return pad(tokens, 1, t - n, 0).reshape(b, t, 1); // a prompt in front is before the invocation
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
  check: (site, c) => {
    checkUpdate('alora')(site, c);
    if (c.invocation.length === 0 || !c.invocation.every((id) => Number.isInteger(id) && id >= 0))
      throw new RangeError(
        `alora: the invocation [${c.invocation.join(', ')}] must be one id or more; encode its text with the model's tokenizer`,
      );
  },
  init: (site, c, r) => ({ train: factors(site, c, r) }),
  around:
    (call, { A, B }, c, site) =>
    (x, ctx) => {
      const change = dropped(x, c, site, ctx).matmul(A.T).matmul(B.T).mul(scaling(c));
      return call(x, ctx).add(change.mul(active(x, c, site, ctx)));
    },
  byRow: true,
  count: update.count,
  startsAsBase: () => 'close', // adds an exact zero
});
