// Adapters against AdapterHub's `adapters` library on BERT: logits, the gradient of every trained tensor, and three AdamW steps.
import { expect, test } from 'vitest';
import { float64 } from '../../core/engines/float64.ts';
import { grad } from '../../core/grad.ts';
import { crossEntropy } from '../../core/ops/fused.ts';
import { stateOf, type Tensor } from '../../core/tensor.ts';
import { context } from '../../nn/context.ts';
import { freeze, withValues } from '../../nn/freeze.ts';
import type { Model } from '../../nn/layer.ts';
import { layers, trainable } from '../../nn/tree.ts';
import { adamw } from '../../optim/adamw.ts';
import { trainer } from '../../optim/trainer.ts';
import { fused } from '../../peft/additive/adapterFusionStages.ts';
import { compacter } from '../../peft/additive/compacter.ts';
import { houlsby } from '../../peft/additive/houlsby.ts';
import { parallelAdapter } from '../../peft/additive/parallelAdapter.ts';
import { pfeiffer } from '../../peft/additive/pfeiffer.ts';
import { fixture, off, type Table } from './fixtures.ts';
import { networks } from './networks.ts';

interface Case {
  readonly tensors: Readonly<Record<string, Table>>;
  readonly logits: Table;
  readonly loss: number;
  readonly grads: Readonly<Record<string, Table>>;
  readonly losses: readonly number[];
  readonly after: Table;
}
const hub = fixture<{ readonly cases: Readonly<Record<string, Case>> }>('hub').cases;
const TOLERANCE = 1e-5; // the fixtures are rounded to float32
const engine = float64();

const { base, batch, tokens, targets } = networks.bert;

/** Our tensor at a path of an adapter → AdapterHub's name. `a` is the adapter's name there. */
function hubName(path: string, a: string): string {
  const [, block, branch, , name] = /^trunk\.blocks\.(\d)\.(attn|mlp)\.(\w+)\.(.+)$/.exec(path)!;
  const at = `bert.encoder.layer.${block}.${branch === 'attn' ? 'attention.output' : 'output'}`;
  if (name === 'A') return 'bert.shared_parameters.a.phm_rule';
  const fusion = { query: 'query.weight', queryBias: 'query.bias', key: 'key.weight', keyBias: 'key.bias', value: 'value.weight' }[name!];
  if (fusion !== undefined) return `${at}.adapter_fusion_layer.a,b,c.${fusion}`;
  const own = {
    ...{ down: 'adapter_down.0.weight', downBias: 'adapter_down.0.bias', up: 'adapter_up.weight', upBias: 'adapter_up.bias', s: 'scaling' },
    ...{ downS: 'adapter_down.0.W_left', downT: 'adapter_down.0.W_right', upS: 'adapter_up.W_left', upT: 'adapter_up.W_right' },
  }[name!];
  return `${at}.adapters.${a}.${own}`;
}
/** Biases of PHM layers have names of their own. */
const named = (f: Case, path: string, a: string): string => {
  const name = hubName(path, a);
  return name in f.tensors ? name : name.replace(/(adapter_down\.0|adapter_up)\.bias$/, '$1.b');
};
/** A model whose trained tensors have the fixture's numbers. */
function filled(model: Model, f: Case, a = 'a'): Model {
  return withValues(model, new Map([...trainable(model)].map(([p, path]) => [p, Float32Array.from(f.tensors[named(f, path, a)]!.data)])));
}

const small = { reduction: 4 };
const three = (f: Case): Model[] => (['a', 'b', 'c'] as const).map((a) => filled(pfeiffer({ reduction: a === 'b' ? 8 : 4 })(base), f, a));
const cases: Readonly<Record<string, (f: Case) => Model>> = {
  houlsby: (f) => filled(houlsby(small)(base), f),
  pfeiffer: (f) => filled(pfeiffer(small)(base), f),
  parallel: (f) => filled(parallelAdapter({ ...small, scale: 4 })(base), f),
  parallelLearned: (f) => filled(parallelAdapter({ ...small, scale: 'learned' })(base), f),
  compacter: (f) => filled(compacter({ ...small, n: 2, rank: 2 })(base), f),
  stack: (f) => filled(pfeiffer(small)(freeze(filled(pfeiffer(small)(base), f, 'a'))), f, 'b'),
  fusionDynamic: (f) => filled(fused(three(f))(base), f),
  fusionStatic: (f) => filled(fused(three(f), { value: false })(base), f),
};

test.each(Object.keys(hub))("%s: logits, gradients and three steps are AdapterHub's", async (name) => {
  const f = hub[name]!;
  const model = cases[name]!(f);
  const a = name === 'stack' ? 'b' : 'a';
  const answer = (m: Model): Tensor => m(batch, context(tokens));
  const loss = (m: Model): Tensor => crossEntropy(answer(m), targets);
  const penalties = [...layers(model)].flatMap(({ layer: l }) =>
    l.attached?.hooks.penalty === undefined ? [] : [l.attached.hooks.penalty()],
  );
  const whole = penalties.reduce((s, p) => s.add(p), loss(model));
  const all = [...trainable(model)];
  expect(all.map(([, path]) => named(f, path, a)).sort()).toEqual(Object.keys(f.grads).sort()); // every tensor, and no other
  const grads = grad(
    whole,
    all.map(([p]) => stateOf(p)),
  );
  const outputs: Record<string, Tensor> = { logits: answer(model), whole, ...Object.fromEntries(grads.map((g, k) => [all[k]![1], g])) };
  const got = await (await engine.compile(engine.store(), { outputs })).run();
  expect(off(got.logits!, f.logits)).toBeLessThan(TOLERANCE);
  expect(Math.abs(got.whole![0]! - f.loss)).toBeLessThan(TOLERANCE);
  for (const [, path] of all) expect(off(got[path]!, f.grads[named(f, path, a)]!), path).toBeLessThan(TOLERANCE);

  await using t = await trainer(model, { engine, loss, optimizer: adamw({ lr: 0.01, weightDecay: 0 }) });
  const losses: number[] = [];
  for (let k = 0; k < 3; k++) {
    const step = await t.step({});
    losses.push(step.loss + step.penalty);
  }
  expect(off(losses, { shape: [3], data: f.losses })).toBeLessThan(TOLERANCE);
  expect(off(await engine.read(answer(await t.model())), f.after)).toBeLessThan(TOLERANCE);
});
