// 10: a method of your own, in twenty lines, and a court that does not know it: the laws every method of the library must keep.
import { param, type Tensor } from '../core/tensor.ts';
import { type Configurable, defineMethod } from '../peft/attach.ts';
import { listed } from '../peft/listed.ts';
import type { Method, Options } from '../peft/method.ts';
import { caseOf } from '../test/laws/methodCase.ts';
import { laws } from '../test/laws/methodLaws.ts';
import { gpt2Network } from '../test/laws/models.ts';
import { engineFor } from './engine.ts';

await using engine = await engineFor('10: write your own method, and let the laws judge it', 'float64');

/* 1. The method: scale and shift every feature that a linear layer puts out (SSF; Lian et al. 2022, arXiv 2210.08823, §3.2).
 *        y = γ ⊙ (W x + b) + β,   γ and β ∈ ℝ^{out},   γ starts at 1 and β at 0
 *    A method says six things: where it attaches, what it brings, what the place computes now, the same as a weight where
 *    that is exact, how many numbers it trains, and how it starts. Everything else follows from them. */
type Ssf = { gamma: Tensor; beta: Tensor }; // [out] each
const ssfMethod: Method<'linear', object, Ssf> = {
  name: 'ssf',
  family: 'additive',
  paper: 'arXiv:2210.08823',
  at: 'linear',
  defaults: { where: ['q', 'k', 'v', 'o', 'up', 'down'] },
  init: ({ shape: [out] }) => ({
    train: {
      gamma: param(new Float32Array(out!).fill(1), [out!], { decay: false }), // decay would pull it to 0, away from the base
      beta: param(new Float32Array(out!), [out!], { decay: false }),
    },
  }),
  around:
    (call, { gamma, beta }) =>
    (x, ctx) =>
      call(x, ctx).mul(gamma).add(beta), // [B, T, out]
  // γ ⊙ (W x + b) + β = (diag(γ) W) x + (γ ⊙ b + β)
  fold: ({ weight, bias }, { gamma, beta }) => ({
    weight: weight.mul(gamma.reshape(-1, 1)), // [out, in] · [out, 1]
    bias: bias === null ? beta : bias.mul(gamma).add(beta),
  }),
  count: (sites) => {
    const train = sites.reduce((n, { shape: [out] }) => n + 2 * out!, 0);
    return { train, stored: train };
  },
  startsAsBase: () => 'close', // ·1 is exact, and +0 too except that −0 becomes 0
};
const ssf = defineMethod(ssfMethod);

/* 2. The court: a frozen GPT-2 of two blocks with random weights, and every law of the library, in double precision so that a
 *    difference of 1e-9 is a mistake and not rounding. */
async function judge(title: string, method: Configurable<object>, options: Options<object> = {}): Promise<void> {
  console.log(title);
  const c = await caseOf(listed('examples/10-write-your-own-method.ts', method, options), gpt2Network(10), 10, engine);
  let kept = 0;
  for (const law of laws) {
    const broken = await law.check(c).then(
      () => null,
      (e: unknown) => (e instanceof Error ? e.message : String(e)),
    );
    if (broken === null) kept++;
    console.log(`  ${broken === null ? '✓' : '✗'} ${law.id.padEnd(7)} ${law.says}`);
    if (broken !== null) console.log(`            → ${broken}`);
  }
  console.log(`  keeps ${kept} of ${laws.length} laws\n`);
}

/* 3. First as the paper places it, on every linear layer. One law objects, and rightly: a shift β of all keys adds the same q·β
 *    to each of a query's scores, and softmax does not see what is added to all. Those β would be saved and never move. */
await judge('SSF on q, k, v, o, up and down:', ssf);

/* 4. So leave the keys out. */
await judge('SSF on q, v, o, up and down:', ssf, { where: ['q', 'v', 'o', 'up', 'down'] });

/* 5. Two mistakes that are easy to make and hard to see, because training works and the loss goes down with both of them:
 *    a merge that forgets to scale the bias, and a count that forgets β. */
const careless = defineMethod<'linear', object, Ssf>({
  ...ssfMethod,
  fold: ({ weight, bias }, { gamma, beta }) => ({ weight: weight.mul(gamma.reshape(-1, 1)), bias: bias === null ? beta : bias.add(beta) }),
  count: (sites) => {
    const train = sites.reduce((n, { shape: [out] }) => n + out!, 0);
    return { train, stored: train };
  },
});
await judge('the same with a careless merge and a careless count:', careless, { where: ['q', 'v', 'o', 'up', 'down'] });
