// A child process that saves an adapter in both formats and a training state again and again over the same files, until it is killed. All numbers of save n are n.
import { join } from 'node:path';
import { rng } from '../../core/rng.ts';
import { paramOf, stateOf } from '../../core/tensor.ts';
import { saveAdapter } from '../../io/adapters.ts';
import { savePeft } from '../../io/peft/save.ts';
import { saveState } from '../../io/state.ts';
import { decoder, llama } from '../../nn/decoder.ts';
import { freeze } from '../../nn/freeze.ts';
import { mapTensors } from '../../nn/tree.ts';
import { lora } from '../../peft/reparameterized/lora.ts';

const [, , folder, first] = process.argv as [string, string, string, string];
const base = freeze(decoder(llama({ vocabulary: 40, width: 64, layers: 4, heads: 2, positions: 16 }), rng(0)));
const adapted = lora({ rank: 8, where: ['q', 'k', 'v', 'o', 'up', 'down'] })(base);
for (let n = Number(first); ; n++) {
  const model = mapTensors(adapted, (t) => {
    const p = paramOf(t);
    return p === null ? t : stateOf({ ...p, value: new Float32Array(p.value.length).fill(n) });
  });
  await saveAdapter(model, join(folder, 'own'));
  await savePeft(model, join(folder, 'peft'));
  const numbers = { data: new Float32Array(20_000).fill(n), shape: [20_000] };
  const state = {
    format: 1 as const,
    step: n,
    seed: 0,
    optimizer: 'adamw',
    values: { 'a.b': numbers },
    moments: { 'a.b': { m: numbers } },
  };
  await saveState(state, join(folder, 'state.safetensors'), { n });
  if (n === Number(first)) process.send?.('saved');
}
