// SmolLM2-135M, real weights from a GGUF file: tokens, logits and greedy text of the reference implementations. Downloads 93 MB once.
import { beforeAll, describe, expect, test } from 'vitest';
import { openEngine } from '../../core/open.ts';
import { smollmFile } from '../../examples/smollmFile.ts';
import { type GgufFile, openGguf } from '../../io/gguf.ts';
import { readGgufModel } from '../../io/ggufLlama.ts';
import { type GgufTokenizer, ggufTokenizer } from '../../io/ggufTokenizer.ts';
import { decoding, generate } from '../../nn/generate.ts';
import type { Model } from '../../nn/layer.ts';
import { residentBytes } from '../../quant/quantize.ts';
import { fixture } from './fixtures.ts';

interface Smollm {
  readonly texts: readonly { readonly text: string; readonly ids: readonly number[] }[];
  readonly prompts: readonly {
    readonly ids: readonly number[];
    readonly top: readonly number[];
    readonly logits: readonly number[];
    readonly every: readonly number[]; // each 512th
    readonly greedy: readonly number[];
    readonly 'llama.cpp': { readonly top: readonly number[]; readonly logits: readonly number[] };
  }[];
}
const { texts, prompts } = fixture<Smollm>('smollm');
/** Logits are of size 10 to 35; ours are computed in float32 through 30 blocks, the fixture's in double precision. */
const TOLERANCE = 3e-4;

const found = await smollmFile().then(
  (path) => ({ path, missing: '' }),
  (e: Error) => ({ path: '', missing: e.message }),
);
/** Why this is skipped stands in its name. */
const title = `SmolLM2-135M${found.missing === '' ? '' : ` (skipped: ${found.missing})`}`;
describe.skipIf(found.missing !== '')(title, () => {
  let file: GgufFile;
  let tokenizer: GgufTokenizer;
  let model: Model;
  beforeAll(async () => {
    file = await openGguf(found.path);
    tokenizer = ggufTokenizer(file.metadata, 8192, found.path);
    ({ model } = await readGgufModel(file, { dtype: 'float32' }));
    return () => file.close();
  });

  test.each(texts)('$text is cut into the same tokens, and back', ({ text, ids }) => {
    expect([...tokenizer.encode(text)]).toEqual(ids);
    expect(tokenizer.decode(ids, true)).toBe(text);
  });

  test('logits, ranking and greedy text', async () => {
    await using engine = await openEngine({ engine: 'simd' });
    let worst = 0;
    for (const p of prompts) {
      const d = await decoding(model, [p.ids], { engine, tokens: 1 });
      const logits = d.logits.slice();
      d.close();
      for (const [k, id] of p.top.entries()) worst = Math.max(worst, Math.abs(logits[id]! - p.logits[k]!));
      for (const [k, v] of p.every.entries()) worst = Math.max(worst, Math.abs(logits[512 * k]! - v));
      const ours = [...logits.keys()].sort((a, b) => logits[b]! - logits[a]!);
      expect(ours.slice(0, 10)).toEqual(p.top);
      expect(await generate(model, p.ids, { engine, tokens: 16, temperature: 0, stop: [2] })).toEqual(p.greedy);
    }
    console.log(`largest difference of a logit: ${worst.toExponential(1)}`);
    expect(worst).toBeLessThan(TOLERANCE);
  });

  test('kept as small as it is stored, it is the same network', async () => {
    await using engine = await openEngine({ engine: 'simd' });
    const kept = (await readGgufModel(file, { dtype: 'keep' })).model;
    const stored = [...file.entries.values()].reduce((n, e) => n + e.end - e.start, 0);
    expect(residentBytes(kept)).toBeLessThan(1.3 * stored); // scales and zero points are float32 here, halves in the file
    for (const p of prompts) {
      const d = await decoding(kept, [p.ids], { engine, tokens: 1 });
      const logits = d.logits.slice();
      d.close();
      const worst = p.top.reduce((m, id, k) => Math.max(m, Math.abs(logits[id]! - p.logits[k]!)), 0);
      expect(worst).toBeLessThan(2 * TOLERANCE);
      expect([...logits.keys()].sort((a, b) => logits[b]! - logits[a]!).slice(0, 10)).toEqual(p.top);
    }
  });

  test('llama.cpp itself, which rounds activations to eight bits, is near', async () => {
    await using engine = await openEngine({ engine: 'simd' });
    for (const p of prompts) {
      const d = await decoding(model, [p.ids], { engine, tokens: 1 });
      const theirs = p['llama.cpp'];
      for (const [k, id] of theirs.top.entries()) expect(Math.abs(d.logits[id]! - theirs.logits[k]!)).toBeLessThan(0.4);
      expect(theirs.top.filter((id) => p.top.includes(id)).length).toBeGreaterThanOrEqual(9);
      d.close();
    }
  });
});
