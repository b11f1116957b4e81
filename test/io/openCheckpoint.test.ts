// Model folders that are not what they say: every misfit is refused by name, with what was expected and what to do.
import { copyFile, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { parseConfig } from '../../io/checkpoints/architectures.ts';
import { openCheckpoint } from '../../io/checkpoints/open.ts';
import { parseIndex } from '../../io/checkpoints/weights.ts';
import { readSafetensors, writeSafetensors } from '../../io/files.ts';
import type { Writable } from '../../io/safetensors.ts';

const FIXTURES = fileURLToPath(new URL('../oracle/fixtures/checkpoints', import.meta.url));
let root = '';
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), 'tinypeft-open-'));
});
afterAll(() => rm(root, { recursive: true }));

async function copied(name: string): Promise<string> {
  const to = await mkdtemp(join(root, 'm-'));
  for (const f of await readdir(join(FIXTURES, name))) await copyFile(join(FIXTURES, name, f), join(to, f));
  return to;
}
/** A fixture with other tensors. */
async function with_(name: string, change: (tensors: Map<string, Writable>) => void): Promise<string> {
  const to = await copied(name);
  const { tensors } = await readSafetensors(join(to, 'model.safetensors'));
  change(tensors);
  await writeSafetensors(join(to, 'model.safetensors'), tensors);
  return to;
}
const zeros = (...shape: number[]): Writable => ({ data: new Float32Array(shape.reduce((a, b) => a * b, 1)), shape });

describe('tensors', () => {
  test('missing, unknown, misshapen, twice; buffers that are computed are left aside', async () => {
    const at = await with_('gpt2', (t) => {
      t.delete('transformer.h.1.ln_2.bias');
      t.set('transformer.h.2.ln_2.bias', zeros(32));
      t.set('transformer.h.0.attn.c_attn.weight', zeros(96, 32)); // as a linear layer would have it
      t.set('wpe.weight', zeros(24, 32));
      t.set('transformer.h.0.attn.bias', zeros(1, 1, 24, 24));
      t.set('transformer.h.0.attn.masked_bias', zeros());
    });
    await expect(openCheckpoint(at)).rejects.toThrow(
      /model\.safetensors: these are not the weights config\.json describes:\n {2}twice: .*wpe\.weight.*\n {2}missing: transformer\.h\.1\.ln_2\.bias\n {2}unknown: transformer\.h\.2\.ln_2\.bias\n {2}transformer\.h\.0\.attn\.c_attn\.weight is \[96, 32\], by config\.json it should be \[32, 96\]$/,
    );
  });
  test('names without the prefix, as the first GPT-2 files have them', async () => {
    const at = await with_('gpt2', (t) => {
      for (const [name, w] of [...t]) {
        t.delete(name);
        t.set(name.replace('transformer.', ''), w);
      }
    });
    await expect(openCheckpoint(at)).resolves.toMatchObject({ config: { architecture: 'gpt2' } });
  });
  test('a tied head that is in the file too: equal is fine, different is not', async () => {
    const head = (change: number) => (t: Map<string, Writable>) => {
      const w = t.get('model.embed_tokens.weight')!;
      t.set('lm_head.weight', { ...w, data: w.data.map((v) => v + change) as Float32Array });
    };
    await openCheckpoint(await with_('smollm', head(0)));
    await expect(openCheckpoint(await with_('smollm', head(1)))).rejects.toThrow(
      /lm_head\.weight differs from the embedding, but config\.json says tie_word_embeddings: true; set it to false/,
    );
    const untied = await with_('qwen2', (t) => t.delete('lm_head.weight'));
    await expect(openCheckpoint(untied)).rejects.toThrow(/missing: lm_head\.weight \(set tie_word_embeddings to true in config\.json if/);
  });
});

describe('several files and their index', () => {
  const shard = 'model-00002-of-00002.safetensors';
  test('a file that is not there, is of another checkpoint, or lacks a tensor', async () => {
    const gone = await copied('llama');
    await rm(join(gone, shard));
    await expect(openCheckpoint(gone)).rejects.toThrow(/index\.json: names model-00002-of-00002\.safetensors, which is not in the folder/);
    const other = await copied('llama');
    await copyFile(join(FIXTURES, 'qwen2', 'model.safetensors'), join(other, shard));
    await expect(openCheckpoint(other)).rejects.toThrow(/holds \S+, which model\.safetensors\.index\.json (does not name|puts into)/);
    const less = await copied('llama');
    const { tensors } = await readSafetensors(join(less, shard));
    const [first] = tensors.keys();
    tensors.delete(first!);
    await writeSafetensors(join(less, shard), tensors);
    await expect(openCheckpoint(less)).rejects.toThrow(
      `has no ${first}, which model.safetensors.index.json puts there; fetch that file again`,
    );
  });
  test.each(['../model.safetensors', '/etc/model.safetensors', 'a/b.safetensors', '..\\m.safetensors', '.safetensors', 'm.bin', 3])(
    'a file called %s is refused',
    (name) => {
      expect(() => parseIndex(JSON.stringify({ weight_map: { w: name } }), 'index')).toThrow(
        /index: puts w into .*, which is not the name of a \.safetensors file in the same folder/,
      );
    },
  );
  test('an index without a map, or with names that reach a prototype', () => {
    expect(() => parseIndex('{}', 'index')).toThrow(/has no weight_map/);
    expect(() => parseIndex('{"weight_map": {"__proto__": "m.safetensors"}}', 'index')).toThrow(/has no weight_map/);
  });
});

describe('config.json', () => {
  const LLAMA = { rope_parameters: { rope_type: 'default', rope_theta: 1e4 } };
  const llama3 = { rope_type: 'llama3', factor: 8, low_freq_factor: 1, high_freq_factor: 4, original_max_position_embeddings: 64 };
  test.each<[string, object, RegExp]>([
    ['llama', { model_type: 'mamba' }, /model_type is "mamba"; this library knows gpt2, llama, qwen2, bert, roberta, xlm-roberta/],
    ['llama', { model_type: undefined }, /model_type is missing/],
    ['llama', { hidden_size: 'wide' }, /hidden_size is "wide"; it must be a whole number from 1/],
    [
      'llama',
      { num_hidden_layers: 0, vocab_size: 1.5 },
      /vocab_size is 1\.5; .*\n {2}num_hidden_layers is 0; it must be a whole number from 1/,
    ],
    ['llama', { head_dim: 16 }, /head_dim is 16; only hidden_size \/ num_attention_heads = 8 is supported/],
    ['llama', { num_attention_heads: 5 }, /hidden_size 32 does not divide into num_attention_heads 5/],
    ['llama', { num_key_value_heads: 3 }, /num_attention_heads 4 does not divide among num_key_value_heads 3/],
    ['llama', { hidden_act: 'mish' }, /hidden_act is "mish"; known are gelu, gelu_new/],
    ['llama', { hidden_act: 'constructor' }, /hidden_act is "constructor"; known are/],
    ['llama', { rope_interleaved: true }, /rope_interleaved is true; only false is supported: here a head is rotated in halves/],
    [
      'llama',
      { rope_parameters: { rope_type: 'yarn', factor: 4 } },
      /rope_parameters: rope_type is "yarn"; known are default, linear and llama3/,
    ],
    ['llama', { rope_parameters: { ...llama3, factor: undefined } }, /rope_parameters: factor is missing; it must be a number above 0/],
    ['llama', { rope_parameters: { ...llama3, high_freq_factor: 1 } }, /high_freq_factor 1 must be above low_freq_factor 1/],
    [
      'llama',
      { rope_parameters: { ...LLAMA.rope_parameters, partial_rotary_factor: 0.5 } },
      /partial_rotary_factor is 0\.5; only 1 is supported/,
    ],
    ['llama', { rope_parameters: [1] }, /rope_parameters is not an object/],
    [
      'llama',
      { architectures: ['LlamaForQuestionAnswering'] },
      /architectures is \["LlamaForQuestionAnswering"\]; of Llama this library has the language model/,
    ],
    ['llama', { quantization_config: { quant_method: 'gptq' } }, /the weights are quantised \(quantization_config\) in another way/],
    ['qwen2', { use_sliding_window: true }, /use_sliding_window is true; only false is supported: no layer here attends in a window/],
    ['qwen2', { layer_types: ['sliding_attention'] }, /layer_types\.0 is "sliding_attention"; only "full_attention"/],
    ['gpt2', { scale_attn_by_inverse_layer_idx: true }, /scale_attn_by_inverse_layer_idx is true; only false is supported/],
    ['gpt2', { add_cross_attention: true }, /add_cross_attention is true; only false/],
    ['gpt2', { tie_word_embeddings: 'yes' }, /tie_word_embeddings is "yes"; it must be true or false/],
    ['bert', { is_decoder: true }, /is_decoder is true; only false is supported: an encoder here sees the whole text/],
    ['roberta', { max_position_embeddings: 2 }, /max_position_embeddings is 2; the first 2 rows are for padding/],
  ])('%s with %j', async (name, change, error) => {
    const own = JSON.parse(await readFile(join(FIXTURES, name, 'config.json'), 'utf8')) as object;
    expect(() => parseConfig(JSON.stringify({ ...own, ...change }), 'config.json')).toThrow(error);
  });
  test('keys that reach a prototype, and text that is no JSON', () => {
    expect(() => parseConfig('{"model_type": "llama", "__proto__": {"hidden_size": 4}}', 'config.json')).toThrow(/is not a JSON object/);
    expect(() => parseConfig('{"model_type": "llama", ', 'config.json')).toThrow(/is not a JSON object/);
  });
  test('more layers than there are tensors are not built', async () => {
    const at = await copied('gpt2');
    const own = JSON.parse(await readFile(join(at, 'config.json'), 'utf8')) as object;
    await writeFile(join(at, 'config.json'), JSON.stringify({ ...own, n_layer: 10_000_000 }));
    await expect(openCheckpoint(at)).rejects.toThrow(
      /config\.json: describes 10000000 layers, but .*model\.safetensors holds only 28 tensors/,
    );
  });
  test('withoutHead is for encoders', async () => {
    await expect(openCheckpoint(join(FIXTURES, 'gpt2'), { withoutHead: true })).rejects.toThrow(/withoutHead is for encoders; backboneOf/);
  });
  test('pickled weights are refused with the way out', async () => {
    const at = await copied('bert');
    await rm(join(at, 'model.safetensors'));
    await writeFile(join(at, 'pytorch_model.bin'), '');
    await expect(openCheckpoint(at)).rejects.toThrow(
      /holds no \.safetensors file \(but pytorch_model\.bin\)\. .*has to be saved as safetensors first/,
    );
  });
});
