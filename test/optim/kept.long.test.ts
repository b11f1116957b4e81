// Every method with its optimizer's states in pages: the steps it takes without them, bit for bit.
import { expect, test } from 'vitest';
import { float64 } from '../../core/engines/float64.ts';
import type { Model } from '../../nn/layer.ts';
import { adamw } from '../../optim/adamw.ts';
import { type PageFile, paged } from '../../optim/paged.ts';
import { methods } from '../../peft/all.ts';
import { ready } from '../laws/methodCase.ts';
import { bertNetwork } from '../laws/models.ts';
import { batchOf, trainerOn } from '../peft/train.ts';
import { bits } from './tiny.ts';

const engine = float64();
const net = bertNetwork(2); // the network that every method but a few fits
const spill = async (): Promise<PageFile> => {
  const pages = new Map<number, Uint8Array>();
  return {
    write: async (n, from) => void pages.set(n, from.slice()),
    read: async (n, into) => into.set(pages.get(n)!),
    close: async () => pages.clear(),
  };
};

test.each(methods.filter((m) => m.unfit.bert === undefined).map((m) => [m.name, m] as const))('%s', async (_, method) => {
  const transform = await ready(method.tiny({ seed: 1 }), net, engine);
  const model: Model = transform(net.base);
  await using plain = await trainerOn(engine, net, model, { optimizer: adamw({ lr: 0.02 }), total: 4 });
  const own = paged(adamw({ lr: 0.02 }), { page: 333, budget: 999, spill });
  await using pages = await trainerOn(engine, net, model, { optimizer: own, total: 4 });
  for (let k = 0; k < 4; k++) expect(await pages.step(batchOf(net))).toEqual(await plain.step(batchOf(net)));
  expect(bits(await pages.state())).toEqual(bits(await plain.state()));
});
