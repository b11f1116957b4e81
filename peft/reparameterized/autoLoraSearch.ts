// AutoLoRA's search: shares α fitted to validation data while A and B fit the training data.
//   inner:  w ← AdamW(∇_w L_tr(w, α));   outer at the new w:  α ← Adam(∇_α L_val − c·(∇_α L_tr(w + εv) − ∇_α L_tr(w − εv))/2ε)
//   v = ∇_w L_val, ε = 0.01/‖v‖: the product of ∂²L_tr/∂α∂w and v by a finite difference, as in DARTS
// Zhang et al. 2024 (NAACL), arXiv 2403.09113, §3; the authors' code has c = 1 (DARTS: the inner learning rate), lr 4e-4 and decay 0.1
// inside, and lr 3e-4 with β₁ = 0.5 outside. Longer than 100 lines: two optimizers take turns on one store of parameters.
import type { Engine } from '../../core/engine.ts';
import { grad } from '../../core/grad.ts';
import { sqrt, square, stopGradient } from '../../core/ops/map.ts';
import type { Plan } from '../../core/plan.ts';
import { input, type Param, paramOf, stateOf, type Tensor } from '../../core/tensor.ts';
import { withValues } from '../../nn/freeze.ts';
import type { Batch, Model } from '../../nn/layer.ts';
import { mapTensors, params, trainable } from '../../nn/tree.ts';
import { adam } from '../../optim/adam.ts';
import { adamw } from '../../optim/adamw.ts';
import type { Optimizer } from '../../optim/optimizer.ts';

export interface Search<B extends Batch = Batch> {
  readonly engine: Engine;
  readonly training: readonly B[];
  readonly validation: readonly B[];
  readonly loss: (model: Model, batch: B) => Tensor;
  readonly steps: number; // of each kind, in turn; step k takes training batch k and validation batch k, round and round
  readonly weights?: Optimizer; // AdamW, lr 4e-4, decay 0.1
  readonly selections?: Optimizer; // Adam, lr 3e-4, beta1 0.5
  readonly implicit?: number; // c, 1; 0 takes α's own gradient alone (first order)
}

/** What an optimizer makes of some parameters: next values and states, and the numbers it is fed in a step. */
function updates(
  o: Optimizer,
  all: readonly Param[],
  grads: readonly Tensor[],
  states: ReadonlyMap<Param, Readonly<Record<string, Tensor>>>,
) {
  const { lr, weightDecay } = o.config;
  const numbers = (step: number): Record<string, number> => o.numbers({ step, lr, decay: weightDecay });
  const fed = Object.fromEntries(Object.keys(numbers(1)).map((name) => [name, input(name, [])]));
  const next = new Map<Param, Tensor>();
  for (const [k, p] of all.entries()) {
    const state = states.get(p)!;
    const made = o.update({ value: stateOf(p), grad: grads[k]!, state, numbers: fed });
    next.set(p, made.value);
    for (const [name, t] of Object.entries(made.state)) next.set(paramOf(state[name]!)!, t);
  }
  return { next, numbers };
}

/**
 * The model with autoLora attached after the search: its α are what `ranksOf` reads. Throws where there is no AutoLoRA or no batch. What
 * else is trainable (a head) is trained with A and B.
 */
export async function autoLoraSearch<B extends Batch>(model: Model, s: Search<B>): Promise<Model> {
  const { engine, training, validation, loss, steps, implicit = 1 } = s;
  const [inner, outer] = [s.weights ?? adamw({ lr: 4e-4, weightDecay: 0.1 }), s.selections ?? adam({ lr: 3e-4, beta1: 0.5 })];
  const all = [...trainable(model)];
  const of = (selection: boolean): Param[] =>
    all.filter(([, path]) => /\.autoLora\d*\.selection$/.test(path) === selection).map(([p]) => p);
  const [weights, selections] = [of(false), of(true)];
  if (selections.length === 0) throw new Error('autoLoraSearch: no layer of this model has AutoLoRA attached; write autoLora()(base)');
  if (training.length === 0 || validation.length === 0)
    throw new Error('autoLoraSearch: it needs batches for training and others for validation');
  const states = new Map([...weights.map((p) => [p, inner.init(p)] as const), ...selections.map((p) => [p, outer.init(p)] as const)]);
  const [w, a] = [weights.map(stateOf), selections.map(stateOf)];
  const moved = (by: ReadonlyMap<Param, Tensor>): Model =>
    mapTensors(model, (t) => {
      const p = paramOf(t);
      return p !== null && by.has(p) ? t.add(by.get(p)!) : t;
    });
  const hyper = (tr: B, val: B): Tensor[] => {
    const v = grad(loss(model, val), [...w, ...a]).map(stopGradient); // numbers from here on: w ± εv is a place, not a function of α
    const inverse = sqrt(
      v
        .slice(0, w.length)
        .map((g) => square(g).sum())
        .reduce((x, y) => x.add(y)),
    )
      .add(1e-15)
      .div(0.01); // 1/ε
    const side = (sign: number): Tensor[] => grad(loss(moved(new Map(weights.map((p, k) => [p, v[k]!.mul(sign).div(inverse)]))), tr), a);
    const [more, less] = [side(1), side(-1)];
    return a.map((_, k) => v[w.length + k]!.sub(more[k]!.sub(less[k]!).mul(inverse.mul(implicit / 2))));
  };
  const store = engine.store();
  const kept = new Map<string, Promise<{ plan: Plan<'loss'>; numbers: (step: number) => Record<string, number> }>>();
  const ready = (key: string, o: Optimizer, ps: readonly Param[], value: Tensor, grads: () => readonly Tensor[]) => {
    const compiled = async () => {
      const { next, numbers } = updates(o, ps, grads(), states);
      return { plan: await engine.compile(store, { outputs: { loss: value }, next }), numbers };
    };
    if (!kept.has(key)) kept.set(key, compiled());
    return kept.get(key)!;
  };
  try {
    for (let step = 1; step <= steps; step++) {
      const [i, j] = [(step - 1) % training.length, (step - 1) % validation.length];
      const [tr, val] = [training[i]!, validation[j]!];
      const value = loss(model, tr);
      for (const r of [
        await ready(`inner ${i}`, inner, weights, value, () => grad(value, w)),
        await ready(`outer ${i} ${j}`, outer, selections, value, () => hyper(tr, val)),
      ])
        await r.plan.run(r.numbers(step));
    }
    return withValues(model, await store.read([...params(model).keys()]));
  } finally {
    store.close();
  }
}
