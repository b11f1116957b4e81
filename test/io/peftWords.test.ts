// Adapters of Hugging Face PEFT with embeddings, tokens and second methods in them: tables that a head shares, and what is refused.
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { float64 } from '../../core/engines/float64.ts';
import { rng } from '../../core/rng.ts';
import { writeSafetensors } from '../../io/files.ts';
import { CONFIG_FILE, WEIGHTS_FILE } from '../../io/peft/adapter.ts';
import { loadPeft } from '../../io/peft/load.ts';
import { savePeft } from '../../io/peft/save.ts';
import type { Writable } from '../../io/safetensors.ts';
import { decoder, llama } from '../../nn/decoder.ts';
import { freeze } from '../../nn/freeze.ts';
import { stack } from '../../peft/combinators.ts';
import { merge } from '../../peft/merge.ts';
import type { Transform } from '../../peft/method.ts';
import { lora } from '../../peft/reparameterized/lora.ts';
import { loraEmbedding } from '../../peft/reparameterized/loraEmbedding.ts';
import { supertuning } from '../../peft/selective/supertuning.ts';
import { trainableTokens } from '../../peft/selective/trainableTokens.ts';
import { networks } from '../oracle/networks.ts';
import { own } from '../peft/naive.ts';

let root = '';
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), 'tinypeft-words-'));
});
afterAll(() => rm(root, { recursive: true }));
let count = 0;
const fresh = (): string => join(root, String(count++));
async function folderOf(config: object, weights: Readonly<Record<string, Writable>>): Promise<string> {
  const folder = await mkdtemp(join(root, 'given-'));
  await writeFile(join(folder, CONFIG_FILE), JSON.stringify(config));
  await writeSafetensors(join(folder, WEIGHTS_FILE), new Map(Object.entries(weights)));
  return folder;
}

const engine = float64();
const QUIET = { warn: () => {} };
const table = (value: number, ...shape: number[]): Writable => ({
  data: new Float32Array(shape.reduce((a, b) => a * b)).fill(value),
  shape,
});
/** A LLaMA whose head has the embedding's table. */
const tied = freeze(decoder(llama({ vocabulary: 13, width: 16, layers: 1, heads: 2, positions: 12, tied: true }), rng(0)));
const EMBED = 'base_model.model.model.embed_tokens';
const LORA = { peft_type: 'LORA', task_type: 'CAUSAL_LM', r: 1, target_modules: ['embed_tokens'] };
const AB = { [`${EMBED}.lora_embedding_A`]: table(1, 1, 13), [`${EMBED}.lora_embedding_B`]: table(0.5, 16, 1) };

describe('a table that the head shares', () => {
  test('keeps what is in the file beneath the adapter at both of its places, and the update at the lookup', async () => {
    const folder = await folderOf({ ...LORA, lora_alpha: 2 }, { ...AB, [`${EMBED}.base_layer.weight`]: table(3, 13, 16) });
    const { model } = await loadPeft(tied, folder, QUIET);
    const merged = merge(model);
    expect((await own(engine, merged, 'head')).weight!.flat()).toEqual(new Array(13 * 16).fill(3));
    expect((await own(engine, merged, 'embed')).weight!.flat()).toEqual(new Array(13 * 16).fill(4));
  });
  test('is refused where the library ties the adapters too, and only there', async () => {
    const config = { ...LORA, ensure_weight_tying: true };
    await expect(loadPeft(tied, await folderOf(config, AB), QUIET)).rejects.toThrow(/ensure_weight_tying is true, and the head shares/);
    expect((await loadPeft(networks.llama.base, await folderOf(config, AB), QUIET)).method).toBe('loraEmbedding');
  });
  test('has one set of tokens', async () => {
    const delta = { [`${EMBED}.token_adapter.trainable_tokens_delta`]: table(1, 2, 16) };
    const given = (trainable_token_indices: unknown) => folderOf({ ...LORA, target_modules: ['q_proj'], trainable_token_indices }, delta);
    await expect(loadPeft(tied, await given({ embed_tokens: [1, 2], lm_head: [1, 3] }), QUIET)).rejects.toThrow(
      /other tokens for model.embed_tokens/,
    );
    await expect(loadPeft(tied, await given({ lm_head: [1, 2] }), QUIET)).rejects.toThrow(/no tokens for model.embed_tokens/);
  });
});

describe('written', () => {
  const { base } = networks.llama;
  const r2 = { rank: 2, alpha: 3 };
  const saved = async (...methods: Transform[]): Promise<{ keys: readonly string[]; config: Record<string, unknown> }> => {
    const folder = fresh();
    const { keys, config } = await savePeft(stack(...methods)(base), folder);
    return { keys, config: JSON.parse(await readFile(config, 'utf8')) as Record<string, unknown> };
  };
  test.each<[string, Transform[], RegExp]>([
    [
      'an update and tokens of one table',
      [trainableTokens({ tokens: [1] }), loraEmbedding(r2)],
      /loraEmbedding and trainableTokens are both at model.embed_tokens/,
    ],
    [
      'two scalings',
      [lora({ ...r2, where: 'q' }), loraEmbedding({ ...r2, rankStabilized: true })],
      /rankStabilized is true on embeddings and false/,
    ],
    [
      'Supra with another scaling',
      [supertuning({ sparsity: 0.9, where: 'q.weight' }), lora({ ...r2, rankStabilized: true, where: 'q' })],
      /Supra scales by/,
    ],
    [
      'Supra at some layers only',
      [supertuning({ sparsity: 0.9, where: ['q.weight', 'v.weight'] }), lora({ ...r2, where: 'q' })],
      /lora is at .*q_proj.* would have it at .*v_proj.*apart/,
    ],
    [
      'three methods',
      [supertuning({ sparsity: 0.9, where: 'q.weight' }), lora({ ...r2, where: 'q' }), loraEmbedding(r2)],
      /holds one method/,
    ],
  ])('%s: refused', async (_, methods, message) => {
    await expect(savePeft(stack(...methods)(base), fresh())).rejects.toThrow(message);
  });
  test('ranks of embeddings and layers stand in one configuration', async () => {
    const { config } = await saved(lora({ ...r2, where: 'q' }), loraEmbedding({ rank: 4, alpha: 3 }));
    expect(config).toMatchObject({
      r: 2,
      lora_alpha: 3,
      rank_pattern: { 'model.embed_tokens': 4 },
      alpha_pattern: {},
      target_modules: ['embed_tokens', 'q_proj'],
    });
  });
  test('a table of words goes along as the library has it, tokens without one', async () => {
    expect((await saved(loraEmbedding(r2))).keys).toEqual([
      `${EMBED}.base_layer.weight`,
      `${EMBED}.lora_embedding_A`,
      `${EMBED}.lora_embedding_B`,
    ]);
    const { keys, config } = await saved(lora({ ...r2, where: 'q' }), trainableTokens({ tokens: [4, 2] }));
    expect(keys.filter((k) => k.startsWith(EMBED))).toEqual([`${EMBED}.token_adapter.trainable_tokens_delta`]);
    expect(config.trainable_token_indices).toEqual([4, 2]);
  });
});
