// A child process that saves one checkpoint after another over the same folder, until it is killed. All numbers of save n are n.
import { rng } from '../../core/rng.ts';
import { leaf } from '../../core/tensor.ts';
import { saveCheckpoint } from '../../io/checkpoints/save.ts';
import { decoder, llama } from '../../nn/decoder.ts';
import { mapTensors } from '../../nn/tree.ts';

const [, , folder, first] = process.argv as [string, string, string, string];
const bare = decoder(llama({ vocabulary: 40, width: 16, layers: 2, heads: 2, positions: 16 }), rng(0));
for (let n = Number(first); ; n++) {
  const model = mapTensors(bare, (t) => leaf(new Float32Array(t.shape.reduce((a, b) => a * b, 1)).fill(n), t.shape));
  const from = { folder: '/nowhere', json: { model_type: 'llama', save: n } };
  await saveCheckpoint(model, folder, { overwrite: true, shardBytes: 8000, from });
  if (n === Number(first)) process.send?.('saved');
}
