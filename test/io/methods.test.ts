// Every method of the library, saved and loaded onto a fresh attachment: the same bits, finished or not.
import { mkdtemp, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { float64 } from '../../core/engines/float64.ts';
import { loadAdapter, readDescription, saveAdapter } from '../../io/adapters.ts';
import { realize } from '../../nn/freeze.ts';
import type { Model } from '../../nn/layer.ts';
import { tensors } from '../../nn/tree.ts';
import { methods } from '../../peft/all.ts';
import { finish } from '../../peft/merge.ts';
import { ready } from '../laws/methodCase.ts';
import { bertNetwork, llamaNetwork, numbersOf, perturb } from '../laws/models.ts';
import { SCRATCH } from '../scratch.ts';

let folder = '';
beforeAll(async () => {
  folder = await mkdtemp(join(SCRATCH, 'tinypeft-methods-'));
});
afterAll(() => rm(folder, { recursive: true }));
const engine = float64();

const bits = (m: Model): [string, string][] =>
  [...tensors(m)].map(({ path, tensor: { source: s } }) => {
    const d = s.kind === 'leaf' ? s.data : s.kind === 'state' ? s.param.value : null;
    return [path, d === null ? s.kind : Buffer.from(d.buffer, d.byteOffset, d.byteLength).toString('hex')];
  });

const nets = [llamaNetwork(1), bertNetwork(2)];
for (const [turn, method] of methods.entries())
  for (const net of nets) {
    const fitting = nets.filter((n) => method.unfit[n.name] === undefined);
    if (fitting[turn % fitting.length] !== net) continue; // by turns: law I7 saves and loads on all networks
    test(`${method.name} on ${net.name}`, async () => {
      const make = async (): Promise<Model> => (await ready(method.tiny(), net, engine))(net.base);
      const trained = perturb(await make(), 5);
      const path = join(folder, `${method.name}-${net.name}`);
      await saveAdapter(trained, path);
      const back = await loadAdapter(await make(), path);
      expect(bits(back)).toEqual(bits(trained));
      expect(await numbersOf(engine, net, back)).toEqual(await numbersOf(engine, net, trained));
      expect((await readDescription(path)).applications.map((a) => a.method).sort()).toEqual(
        method
          .tiny()
          .parts.map((p) => p.method.name)
          .sort(), // methods at places apart may be attached in any order
      );

      const small = await realize(finish(trained), engine);
      await saveAdapter(small, path);
      const again = await loadAdapter(await make(), path);
      expect(await numbersOf(engine, net, again)).toEqual(await numbersOf(engine, net, small));
    });
  }
