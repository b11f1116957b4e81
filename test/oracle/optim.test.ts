// Three steps of SGD, Adam and AdamW against torch.optim.
import { expect, test } from 'vitest';
import { float64 } from '../../core/engines/float64.ts';
import { leaf, type Param, param, paramOf, type Tensor } from '../../core/tensor.ts';
import { adam } from '../../optim/adam.ts';
import { adamw } from '../../optim/adamw.ts';
import type { Optimizer } from '../../optim/optimizer.ts';
import { sgd } from '../../optim/sgd.ts';
import { fixture, off, type Table, tensor } from './fixtures.ts';

interface Case {
  readonly optimizer: 'sgd' | 'adam' | 'adamw';
  readonly options: { readonly lr: number; readonly weightDecay?: number };
  readonly start: Table;
  readonly grads: readonly Table[];
  readonly after: readonly Table[];
}
const OURS: Readonly<Record<Case['optimizer'], (o: Case['options']) => Optimizer>> = { sgd, adam, adamw };

const cases = Object.entries(fixture<Record<string, Case>>('optim')).filter(([name]) => name !== 'about');
test.each(cases)('%s', async (_, { optimizer, options, start, grads, after }) => {
  const engine = float64();
  const ours = OURS[optimizer](options);
  const p: Param = paramOf(param(start.data, start.shape))!;
  const held = async (t: Tensor): Promise<Tensor> => leaf((await engine.read(t)).slice(), t.shape);
  const state = new Map(Object.entries(ours.init(p)));
  const now = { value: tensor(start) };
  for (const [k, g] of grads.entries()) {
    const numbers = ours.numbers({ step: k + 1, lr: ours.config.lr, decay: ours.config.weightDecay });
    const next = ours.update({
      value: now.value,
      grad: tensor(g),
      state: Object.fromEntries(state),
      numbers: Object.fromEntries(Object.entries(numbers).map(([n, v]) => [n, leaf(Float64Array.of(v), [])])),
    });
    for (const [name, t] of Object.entries(next.state)) state.set(name, await held(t));
    now.value = await held(next.value);
    expect(off(await engine.read(now.value), after[k]!), `step ${k + 1}`).toBeLessThan(1e-10);
  }
});
