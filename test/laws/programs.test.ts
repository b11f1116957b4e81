// Programs whose outcome is a model with a listed method on it, against that method's laws: with what the program made in the place of generic values.
import { describe, expect, it } from 'vitest';
import { float64 } from '../../core/engines/float64.ts';
import type { Model } from '../../nn/layer.ts';
import { adapterSoup } from '../../peft/additive/adapterSoup.ts';
import { mera } from '../../peft/additive/mera.ts';
import { methods } from '../../peft/all.ts';
import { adapterOf } from '../../peft/arithmetic.ts';
import type { Listed } from '../../peft/listed.ts';
import { loraHub } from '../../peft/reparameterized/loraHub.ts';
import { qlora } from '../../peft/reparameterized/qlora.ts';
import { nf4 } from '../../quant/nf4.ts';
import { apart, caseOf } from './methodCase.ts';
import { laws } from './methodLaws.ts';
import { bertNetwork, gpt2Network, llamaNetwork, type Network, numbersOf, perturb } from './models.ts';

const seed = Number(process.env.TINYPEFT_SEED ?? 1);
const engine = float64();
const nets = [gpt2Network(seed), llamaNetwork(seed), bertNetwork(seed)];
const listed = (name: string): Listed => methods.find((m) => m.name === name)!;

/** Judges what a program makes of three trainings of a method: all laws but I1, that of a fresh start. */
const keeps =
  (method: string, made: (trained: readonly Model[], net: Network) => Model | Promise<Model>) =>
  async (net: Network): Promise<void> => {
    const c = await caseOf(listed(method), net, seed, engine);
    const trained = [1, 2, 3].map((s) => perturb(c.fresh, s));
    const model = await made(trained, net);
    expect(await numbersOf(engine, net, model)).not.toEqual(await numbersOf(engine, net, c.fresh));
    for (const law of laws.filter(({ id }) => id !== 'I1')) await law.check({ ...c, fresh: model, model });
  };

describe('adapterSoup', () => {
  it.each(nets)(
    'a soup of Pfeiffer’s adapters keeps their laws, on $name',
    keeps('pfeiffer', (trained) => adapterSoup(trained)),
  );
  it.each(nets)(
    'a soup of LoRAs keeps their laws, merging among them, on $name',
    keeps('lora', (trained) => adapterSoup(trained, [0.2, 0.3, 0.5])),
  );
});

describe('mera', () => {
  it.each(nets)(
    'merged adapters keep the laws of one, on $name',
    keeps('houlsby', (trained) => mera(trained)),
  );
});

describe('loraHub', () => {
  const mixture = async (trained: readonly Model[], net: Network): Promise<Model> => {
    const base = await numbersOf(engine, net, net.base);
    const loss = async (m: Model): Promise<number> => -apart(base, await numbersOf(engine, net, m)); // away from zero, whatever the seed
    return (await loraHub(net.base, trained.map(adapterOf), loss, { steps: 4, penalty: 0 })).model;
  };
  it.each(nets)('the mixture keeps the laws of a LoRA, on $name', keeps('lora', mixture));
});

describe('qlora', () => {
  const small = () => qlora({ rank: 2, alpha: 4, scheme: nf4({ block: 8 }) });
  it.each(nets)(
    'keeps the laws but those that compare with the base before it was packed (I1, I8, the end of I12), on $name',
    async (net) => {
      const c = await caseOf({ ...listed('lora'), name: 'qlora', placeable: false, standard: small, tiny: small }, net, seed, engine);
      const broken = new Map<string, string>();
      for (const law of laws) await law.check(c).catch((e: unknown) => broken.set(law.id, String(e)));
      expect([...broken.keys()]).toEqual(['I1', 'I8', 'I12']);
      expect(broken.get('I1')).toMatch(/differs from the base/);
      expect(broken.get('I8')).toMatch(/the detached model is not the base bit for bit/);
      expect(broken.get('I12')).toMatch(/trained and detached is not the base bit for bit/); // the last thing that it asks
    },
  );
});
