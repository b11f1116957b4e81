// Adapters of ours for Hugging Face PEFT to read: each method moved off its start, written, and what this library answers with it.
import { join } from 'node:path';
import { float64 } from '../../core/engines/float64.ts';
import { rng } from '../../core/rng.ts';
import { savePeft } from '../../io/peft/save.ts';
import { withValues } from '../../nn/freeze.ts';
import type { Model } from '../../nn/layer.ts';
import { trainable } from '../../nn/tree.ts';
import type { Transform } from '../../peft/method.ts';
import { dora } from '../../peft/reparameterized/dora.ts';
import { lora } from '../../peft/reparameterized/lora.ts';
import { loraFa } from '../../peft/reparameterized/loraFa.ts';
import { olora } from '../../peft/reparameterized/olora.ts';
import { pissa } from '../../peft/reparameterized/pissa.ts';
import { feedOf, logitsOf, networkOf } from './hfFiles.ts';

const AT = ['v', 'down'];
const FUSED = ['qkv', 'down'];
const r2 = { rank: 2, alpha: 3 };
type Make = Transform | ((base: Model) => Model);

/** By title, of which the last part is the network. */
export const ours: Readonly<Record<string, Make>> = {
  'lora-llama': lora({ ...r2, where: AT }),
  'lora-gpt2': lora({ ...r2, where: FUSED }),
  'lora-bert': lora({ ...r2, where: ['q', 'o', 'up'] }),
  'rslora-llama': lora({ ...r2, rankStabilized: true, where: ['blocks.1.attn.q', 'gate'] }),
  'lora-ranks-llama': (base) => lora({ rank: 3, alpha: 1, where: 'o' })(lora({ ...r2, where: ['q', 'up', 'down'] })(base)),
  'dora-llama': dora({ ...r2, where: AT }),
  'dora-gpt2': dora({ ...r2, where: FUSED }),
  'loraFa-llama': loraFa({ ...r2, where: AT }),
  'pissa-llama': pissa({ ...r2, where: AT }),
  'olora-llama': olora({ ...r2, where: AT }),
};

/** A method on the network that its title names, its tensors moved by 0.3 σ, as float32 numbers. */
export function moved(title: string): Model {
  const made = ours[title]!(networkOf(title).base);
  const r = rng(7).split(title);
  const values = [...trainable(made)].map(([p, path]) => {
    const off = r.split(path).normal(p.value.length, 0.3);
    return [p, Float32Array.from(p.value, (v, k) => v + off[k]!)] as const;
  });
  return withValues(made, new Map(values));
}

/** Writes one to `folder`/title, and answers its logits. */
export async function written(title: string, folder: string): Promise<number[]> {
  const engine = float64();
  const model = moved(title);
  await savePeft(model, join(folder, title), { engine });
  return [...Array.from(await logitsOf(engine, model, networkOf(title), feedOf(title)))];
}
