// Every configuration string of AdapterHub's `adapters` on BERT: three AdamW steps.
import { expect, test } from 'vitest';
import { float64 } from '../../core/engines/float64.ts';
import { leaf, paramOf } from '../../core/tensor.ts';
import { mapTensors } from '../../nn/tree.ts';
import { adamw } from '../../optim/adamw.ts';
import { trainer } from '../../optim/trainer.ts';
import { off } from './fixtures.ts';
import { answer, hub, loss, modelOf, names, TOLERANCE } from './hubCases.ts';

const engine = float64();

test.each(names)("%s: three steps are AdapterHub's", async (name) => {
  const f = hub.cases[name];
  // LoReFT's R turns by reflections there and by Gram–Schmidt here: along the same gradient, but by other steps, so it stands still in both.
  const model = mapTensors(modelOf(name), (t, path) => (/loreft\.R\.\d$/.test(path) ? leaf(paramOf(t)!.value, t.shape) : t));
  await using t = await trainer(model, { engine, loss, optimizer: adamw({ lr: 0.01, weightDecay: 0 }) });
  const losses: number[] = [];
  for (let k = 0; k < 3; k++) losses.push((await t.step({})).loss);
  expect(off(losses, { shape: [3], data: f.losses })).toBeLessThan(TOLERANCE);
  expect(off(await engine.read(answer(await t.model())), f.after)).toBeLessThan(TOLERANCE);
});
