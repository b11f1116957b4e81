// X-LoRA and Arrow as folders of Hugging Face PEFT (hf_experts.py): what it wrote, read here and written again; and what is written here.

import { readFileSync } from 'node:fs';
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect } from 'vitest';
import { float64 } from '../../core/engines/float64.ts';
import { rng } from '../../core/rng.ts';

import { loadPeft } from '../../io/peft/load.ts';
import { savePeft } from '../../io/peft/save.ts';
import { withValues } from '../../nn/freeze.ts';
import type { Model } from '../../nn/layer.ts';
import { trainable } from '../../nn/tree.ts';
import type { Transform } from '../../peft/method.ts';
import { arrowOf } from '../../peft/reparameterized/arrowOf.ts';
import { type LoraConfig, lora } from '../../peft/reparameterized/lora.ts';
import { xloraOf } from '../../peft/reparameterized/xloraOf.ts';
import { off } from './fixtures.ts';
import { type Answers, logitsOf, networkOf } from './hfFiles.ts';

export const EXPERTS = join(dirname(fileURLToPath(import.meta.url)), 'fixtures', 'hf-experts');
export const recordedExperts = JSON.parse(readFileSync(join(EXPERTS, 'logits.json'), 'utf8')) as Answers;

/** Every file beneath a folder. */
export const filesIn = async (folder: string): Promise<string[]> =>
  (await readdir(folder, { recursive: true, withFileTypes: true }))
    .filter((e) => e.isFile())
    .map((e) => join(e.parentPath, e.name).slice(folder.length + 1))
    .sort();

/** How far our logits are from the library's. Throws unless what we write again is the same files, byte for byte. */
export async function expertsReadAndWritten(title: string): Promise<number> {
  const n = networkOf(title);
  const folder = join(EXPERTS, title);
  const loaded = await loadPeft(n.base, folder, { engine: float64() });
  expect(loaded.warnings).toEqual([]);
  const out = await mkdtemp(join(tmpdir(), 'hf-experts-'));
  try {
    await savePeft(loaded.model, out, { like: loaded.files });
    const files = await filesIn(folder);
    expect(await filesIn(out)).toEqual(files);
    for (const name of files) expect(Buffer.compare(await readFile(join(out, name)), await readFile(join(folder, name))), name).toBe(0);
  } finally {
    await rm(out, { recursive: true });
  }
  return off(await logitsOf(float64(), loaded.model, n, {}), recordedExperts.logits[title]!);
}

/** A method on a network, its trained tensors moved by 0.3 σ; of LoRA's first direction four times as much, so that Arrow's are apart. */
function moved(title: string, method: Transform, base: Model, largest = 1): Model {
  const made = method(base);
  const r = rng(7).split(title);
  const values = [...trainable(made)].map(([p, path]) => {
    const noise = r.split(path).normal(p.value.length, 0.3);
    const first = path.endsWith('.A') ? p.shape[1]! : 0;
    return [p, Float32Array.from(p.value, (v, k) => (v + noise[k]!) * (k < first ? largest : 1))] as const;
  });
  return withValues(made, new Map(values));
}
const AT: Partial<LoraConfig> = { rank: 2, alpha: 3 };
const loras = (title: string, n: number, where: readonly string[], options: (k: number) => Partial<LoraConfig> = () => AT): Model[] =>
  Array.from({ length: n }, (_, k) => moved(`${title} ${k}`, lora({ ...options(k), where }), networkOf(title).base, 4));
const [LLAMA, GPT2] = [
  ['v', 'down'],
  ['qkv', 'up'],
];

/** By title, of which the last part is the network. */
export const oursOverExperts: Readonly<Record<string, (title: string) => Transform>> = {
  'xlora-llama': (t) => xloraOf(loras(t, 2, LLAMA), { temperature: 0.7, weight: 1.3 }),
  'xlora-layerwise-llama': (t) =>
    xloraOf(loras(t, 2, ['q', 'k', 'v', 'o', 'gate', 'up', 'down']), { depth: 2, hidden: 6, layerwise: true, firstPass: 0.25 }),
  'xlora-top-llama': (t) => xloraOf(loras(t, 3, LLAMA), { depth: 3, hidden: 5, dropout: 0, softmax: false, topK: 2, topKSoftmax: true }),
  'xlora-trained-llama': (t) => xloraOf(loras(t, 2, LLAMA), { trainExperts: true, topK: 1 }),
  'xlora-places-llama': (t) => xloraOf([...loras(t, 1, LLAMA), ...loras(`q ${t}`, 1, ['q', 'blocks.1.mlp.up'])], { layerwise: true }),
  'xlora-ranks-llama': (t) => xloraOf(loras(t, 3, LLAMA, (k) => ({ rank: k + 1, alpha: 2, rankStabilized: k === 1 }))),
  'arrow-llama': (t) => arrowOf(loras(t, 3, LLAMA), { topK: 2, temperature: 0.6 }),
  'arrow-scales-llama': (t) =>
    arrowOf(
      loras(t, 3, LLAMA, (k) => ({ rank: 2, alpha: k + 1 })),
      { topK: 2 },
    ),
  'arrow-general-llama': (t) => arrowOf(loras(t, 2, LLAMA), { general: loras(`general ${t}`, 2, LLAMA), topK: 1 }),
  'arrow-gpt2': (t) => arrowOf(loras(t, 3, GPT2), { topK: 3, temperature: 2 }),
};
export const movedExperts = (title: string): Model => {
  const method = oursOverExperts[title]!(title);
  const base = networkOf(title).base;
  return [...trainable(method(base))].length === 0 ? method(base) : moved(title, method, base);
};
/** Writes one to `folder`/title, and answers its logits. */
export async function expertsWritten(title: string, folder: string): Promise<number[]> {
  const model = movedExperts(title);
  await savePeft(model, join(folder, title));
  return Array.from(await logitsOf(float64(), model, networkOf(title), {}));
}
