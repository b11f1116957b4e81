// Adapters of Hugging Face PEFT beyond what the library's own files show: what is refused and how, what a split GPT-2 makes of them, what is replaced.
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { float64 } from '../../core/engines/float64.ts';
import { paramOf } from '../../core/tensor.ts';
import type { Json } from '../../io/adapterJson.ts';
import { readSafetensors, writeSafetensors } from '../../io/files.ts';
import { namesOf } from '../../io/names.ts';
import { CONFIG_FILE, WEIGHTS_FILE } from '../../io/peft/adapter.ts';
import { type LoadOptions, loadPeft } from '../../io/peft/load.ts';
import { numpyRandom } from '../../io/peft/numpyRandom.ts';
import { fromPython, matching } from '../../io/peft/patterns.ts';
import { dumpsPython, parsePython, pythonFloat } from '../../io/peft/pythonJson.ts';
import { savePeft } from '../../io/peft/save.ts';
import { withTorchPlaces } from '../../io/peft/sparse.ts';
import { firstOfRandperm, mersenne, uniforms } from '../../io/peft/torchRandom.ts';
import type { Writable } from '../../io/safetensors.ts';
import { unfreeze, withValues } from '../../nn/freeze.ts';
import type { Model } from '../../nn/layer.ts';
import { tensors, trainable } from '../../nn/tree.ts';
import { pfeiffer } from '../../peft/additive/pfeiffer.ts';
import { promptTuning } from '../../peft/additive/promptTuning.ts';
import { frod } from '../../peft/reparameterized/frod.ts';
import { loha } from '../../peft/reparameterized/loha.ts';
import { lora } from '../../peft/reparameterized/lora.ts';
import { psoft } from '../../peft/reparameterized/psoft.ts';
import { waveft } from '../../peft/reparameterized/waveft.ts';
import { answered, FILES, feedOf, logitsOf } from '../oracle/hfFiles.ts';
import { splitGpt2 } from '../oracle/hfFilesOurs.ts';
import { networks } from '../oracle/networks.ts';

let root = '';
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), 'tinypeft-peft-'));
});
afterAll(() => rm(root, { recursive: true }));
let count = 0;
const fresh = async (): Promise<string> => {
  const folder = join(root, String(count++));
  await mkdir(folder);
  return folder;
};

const { base } = networks.llama;
const QUIET: LoadOptions = { warn: () => {} };
const AB = (module: string, r = 1, into = 16, out = 16): [string, Writable][] => [
  [`base_model.model.${module}.lora_A.weight`, { data: new Float32Array(r * into).fill(0.5), shape: [r, into] }],
  [`base_model.model.${module}.lora_B.weight`, { data: new Float32Array(out * r).fill(0.25), shape: [out, r] }],
];
const Q = AB('model.layers.1.self_attn.q_proj');
const LORA = { peft_type: 'LORA', task_type: 'CAUSAL_LM', r: 1, target_modules: ['layers.1.self_attn.q_proj'] };
async function folderOf(config: object | string, weights: readonly [string, Writable][] = Q): Promise<string> {
  const folder = await fresh();
  await writeFile(join(folder, CONFIG_FILE), typeof config === 'string' ? config : JSON.stringify(config));
  await writeSafetensors(join(folder, WEIGHTS_FILE), new Map(weights));
  return folder;
}
const load = async (config: object | string, weights?: readonly [string, Writable][], model = base) =>
  loadPeft(model, await folderOf(config, weights), QUIET);

const written = async (model: Model, folder: string): Promise<string> => {
  await savePeft(model, folder);
  return folder;
};

describe('what is refused', () => {
  test.each<[string, object | string, RegExp]>([
    ['no JSON', '{"peft_type": LORA}', /adapter_config.json, character 14: expected a value, found "L"/],
    ['cut off', '{"peft_type": "LORA", "r": 8', /expected }, found the end of the file/],
    ['a key twice', '{"peft_type": "LORA", "r": 8, "r": 9}', /character 30: the key "r" appears twice/],
    ['a list', '[]', /is not a JSON object/],
    ['no method', { r: 8 }, /peft_type is missing; it must name the method/],
    ['an unknown method', { peft_type: 'NEXT_YEARS' }, /peft_type is "NEXT_YEARS"; this library reads LORA, /],
    ['a text for a number', { ...LORA, r: '8' }, /r is "8": .*expected number/s],
    ['a rank of half', { ...LORA, r: 0.5 }, /r is 0.5: .*expected int/s],
    ['a rank of zero', { ...LORA, r: 0 }, /r is 0: /],
    ['a pattern of texts', { ...LORA, rank_pattern: { q_proj: 'x' } }, /rank_pattern.q_proj is "x"/],
    ['an unknown task', { ...LORA, task_type: 'POETRY' }, /task_type is "POETRY": .*SEQ_CLS/s],
    ['a variant', { ...LORA, use_qalora: true }, /use_qalora is true: a variant of LoRA that this library does not have/],
    ['a start that cannot be made again', { ...LORA, init_lora_weights: 'corda' }, /path_initial_model_for_weight_conversion/],
    [
      'no target',
      { ...LORA, target_modules: null },
      /target_modules null matches nothing in this model \(llama\); its modules are model.layers.0/,
    ],
    ['a target that is not there', { ...LORA, target_modules: ['c_attn'] }, /matches nothing/],
    [
      'a norm',
      { ...LORA, target_modules: ['q_proj', 'norm'] },
      /also names model.norm \(a norm\), but lora attaches to linear layers and embeddings/,
    ],
    [
      'DoRA on an embedding',
      { ...LORA, use_dora: true, target_modules: ['q_proj', 'embed_tokens'] },
      /also names model.embed_tokens \(a embedding\), but dora attaches to linear layers here/,
    ],
    [
      'tokens of a module that is not there',
      { ...LORA, trainable_token_indices: { wte: [1] } },
      /names wte; this model has tables of words at model.embed_tokens, lm_head/,
    ],
    [
      'tokens and an update of one table',
      { ...LORA, target_modules: ['q_proj', 'embed_tokens'], trainable_token_indices: [1] },
      /loraEmbedding and trainableTokens are both at model.embed_tokens/,
    ],
    ['a text for tokens', { ...LORA, trainable_token_indices: ['a'] }, /trainable_token_indices is \["a"\]/],
    ['a pattern that is not valid', { ...LORA, target_modules: '(q_proj' }, /the regular expression "\(q_proj" is not valid/],
    ['another rank than the tensors', { ...LORA, r: 2 }, /A of model.layers.1.self_attn.q_proj is \[1, 16\], expected \[2, 16\]/],
    [
      'tensors for other places',
      { ...LORA, target_modules: ['layers.0.self_attn.q_proj'] },
      /has no tensor base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight/,
    ],
    [
      'a module to save that is not in the file',
      { ...LORA, modules_to_save: ['lm_head'] },
      /modules_to_save names lm_head, but the file has no/,
    ],
    [
      'a rank of ten thousand million',
      { peft_type: 'VERA', target_modules: ['q_proj'], r: 1e10 },
      /asks for \d+ numbers, and the tensors beside it have 32/,
    ],
    ['as many virtual tokens', { peft_type: 'PROMPT_TUNING', num_virtual_tokens: 1e10 }, /asks for 160000000000 numbers/],
    [
      'RandLoRA without its matrices',
      { peft_type: 'RANDLORA', target_modules: ['q_proj'], save_projection: false },
      /depends on the machine.* save_projection=True/,
    ],
    [
      'TinyLoRA without its matrices',
      { peft_type: 'TINYLORA', target_modules: ['q_proj'], save_projection: false },
      /save_projection=True/,
    ],
    ['PSOFT', { peft_type: 'PSOFT', target_modules: ['q_proj'], r: 4 }, /signs are those of the routine.* rank=4\)/],
    ['X-LoRA of nobody', { peft_type: 'XLORA' }, /adapters names no expert/],
    ['UniLoRA of a rank beyond the layers', { peft_type: 'UNILORA', target_modules: ['q_proj'], r: 1e10 }, /asks for \d+ numbers/],
    ['another wavelet', { peft_type: 'WAVEFT', target_modules: ['q_proj'], wavelet_family: 'db4' }, /wavelet_family is "db4"/],
    ["Supra's rank", { peft_type: 'SUPERTUNING', target_modules: ['q_proj'], r: 0 }, /r is 0: /],
    [
      'another decomposition',
      { peft_type: 'DEFT', target_modules: ['q_proj'], decomposition_method: 'svd' },
      /decomposition_method is "svd"/,
    ],
    ['random answers', { peft_type: 'PVERA', target_modules: ['q_proj'], sample_at_inference: true }, /its answers are random/],
    [
      'a factor cut both ways',
      { ...LORA, use_bdlora: { target_modules_bd_a: ['q'], target_modules_bd_b: ['proj'] } },
      /cuts both factors of .*q_proj/,
    ],
    ['a direction of VeLoRA', { ...LORA, velora_config: { init_type: 'batch_average_once' } }, /init_type is "batch_average_once"/],
  ])('%s', async (_, config, message) => {
    await expect(load(config)).rejects.toThrow(message);
  });
  test('tensors that the configuration gives no place for', async () => {
    await expect(load(LORA, [...Q, ...AB('model.layers.0.self_attn.q_proj')])).rejects.toThrow(
      /has base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight.*which the configuration gives no place for/,
    );
  });
  test('a pickle, and a folder of nothing', async () => {
    const folder = await fresh();
    await expect(loadPeft(base, folder)).rejects.toThrow(/adapter_config.json: no such file/);
    await writeFile(join(folder, CONFIG_FILE), JSON.stringify(LORA));
    await expect(loadPeft(base, folder)).rejects.toThrow(/adapter_model.safetensors: no such file/);
    await writeFile(join(folder, 'adapter_model.bin'), 'anything');
    await expect(loadPeft(base, folder)).rejects.toThrow(/is a pickle, which can run any program.*save_pretrained/);
  });
  test('patterns that would not come to an end', async () => {
    const started = performance.now();
    await expect(load({ ...LORA, target_modules: '(([a-z_.0-9]+)+)+!' })).rejects.toThrow(/takes more than 2 s .*List the modules instead/);
    expect(performance.now() - started).toBeLessThan(5000);
  });
  test('keys that reach a prototype', async () => {
    await expect(load('{"peft_type": "LORA", "__proto__": {"r": 8}}')).rejects.toThrow(/character 22: the key "__proto__" is not allowed/);
    await expect(load('{"peft_type": "LORA", "rank_pattern": {"constructor": 8}}')).rejects.toThrow(/"constructor" is not allowed/);
    expect(({} as Record<string, unknown>).r).toBeUndefined();
  });
  test('saving what the library has no file for', async () => {
    const folder = await fresh();
    await expect(savePeft(base, folder)).rejects.toThrow(/nothing is attached/);
    await expect(savePeft(pfeiffer({ bottleneck: 2 })(base), folder)).rejects.toThrow(
      /no file for pfeiffer; it has .*lora, .*saveAdapter/s,
    );
    await expect(savePeft(lora({ rank: 1, where: 'q' })(promptTuning({ length: 1 })(base)), folder)).rejects.toThrow(/holds one method/);
    await expect(savePeft(lora({ rank: 1, where: 'q' })(lora({ rank: 1, where: 'q' })(base)), folder)).rejects.toThrow(
      /attached twice at trunk.blocks.0.attn.q/,
    );
    await expect(savePeft(loha({ rank: 1, where: 'up' })(networks.gpt2.base), folder)).rejects.toThrow(
      /does not have it for GPT-2's .*c_fc/,
    );
    await expect(savePeft(promptTuning({ length: 1 })(networks.bert.base), folder)).rejects.toThrow(/reads its answer at the first row/);
    expect(await readdir(folder)).toEqual([]);
  });
});

describe('what is read', () => {
  test('unknown keys are warned of once, kept, and written again', async () => {
    const said: string[] = [];
    const text = `{\n  "${'novel_field'}": 1.50,\n  "peft_type": "LORA",\n  "r": 1,\n  "target_modules": [\n    "layers.1.self_attn.q_proj"\n  ]\n}`;
    const folder = await folderOf(text);
    const loaded = await loadPeft(base, folder, { warn: (m) => said.push(m) });
    expect(said).toHaveLength(1);
    expect(said[0]).toMatch(/novel_field is no field of LORA that this library knows; ignored/);
    expect(loaded.warnings).toEqual(said);
    const out = await fresh();
    await savePeft(loaded.model, out, { like: loaded.files });
    expect(await readFile(join(out, CONFIG_FILE), 'utf8')).toBe(text.replace('{\n', '{\n  "inference_mode": true,\n'));
  });
  test('keys without the prefix, as other writers have them', async () => {
    const bare = Q.map(([k, t]) => [k.replace('base_model.model.', ''), t] as [string, Writable]);
    const loaded = await load(LORA, bare);
    expect(loaded.sites).toEqual(['trunk.blocks.1.attn.q']);
    const out = await fresh();
    await savePeft(loaded.model, out, { like: loaded.files });
    expect([...(await readSafetensors(join(out, WEIGHTS_FILE))).tensors.keys()].sort()).toEqual(bare.map(([k]) => k).sort());
  });
  test('modules saved whole are trainable afterwards, and the rest of the network is not', async () => {
    const { model } = await loadPeft(base, join(FILES, 'lora-saved-llama'));
    const trained = [...tensors(model)].filter(({ tensor }) => paramOf(tensor) !== null).map(({ path }) => path);
    expect(trained.filter((p) => !p.includes('.lora.'))).toEqual(['trunk.blocks.1.norm1.weight', 'head.weight']);
  });
  test("c_attn's adapter on a GPT-2 with separate query, key and value gives the same logits, and is written as c_attn's again", async () => {
    for (const title of ['lora-gpt2', 'ia3-gpt2']) {
      const loaded = await loadPeft(splitGpt2(), join(FILES, title));
      expect(loaded.sites.some((s) => s.includes('.attn.k'))).toBe(true);
      const got = await logitsOf(float64(), loaded.model, networks.gpt2, feedOf(title));
      expect(Math.max(...answered[title]!.data.map((v, k) => Math.abs(v - got[k]!)))).toBeLessThan(1e-6);
      const out = await fresh();
      await savePeft(loaded.model, out, { like: loaded.files });
      expect(Buffer.compare(await readFile(join(out, WEIGHTS_FILE)), await readFile(join(FILES, title, WEIGHTS_FILE)))).toBe(0);
    }
    await expect(loadPeft(splitGpt2(), join(FILES, 'vera-gpt2'))).rejects.toThrow(/fusedQkv: true/);
  });
});

test('layers that share a tensor here must have the same in the file', async () => {
  const lily = await readSafetensors(join(FILES, 'lily-llama', WEIGHTS_FILE));
  const [key, t] = [...lily.tensors].find(([k]) => k.includes('layers.1.mlp.down_proj.lily_A'))!;
  const config = await readFile(join(FILES, 'lily-llama', CONFIG_FILE), 'utf8');
  const other: Writable = { ...t, data: Float32Array.from(t.data, (v) => v + 1) };
  await expect(load(config, [...lily.tensors, [key, other]])).rejects.toThrow(/A of .*down_proj is shared with another layer here/);
});
describe('what is written', () => {
  test('PSOFT is written as the LoRA that it is, exact and approximate rotations alike', async () => {
    for (const neumann of [0, 6]) {
      const folder = await fresh();
      const turned = psoft({ rank: 3, alpha: 2, neumann, where: ['q', 'down'] })(base);
      const model = withValues(
        turned,
        new Map([...trainable(turned)].map(([p]) => [p, Float32Array.from(p.value, (v, k) => v + 0.1 * (k + 1))])),
      );
      const [theirs, ours] = [(await loadPeft(base, await written(model, folder), QUIET)).model, model];
      const logits = async (m: Model) => Array.from(await logitsOf(float64(), m, networks.llama, {}));
      const [a, b] = [await logits(theirs), await logits(ours)];
      expect(a.every((v, k) => Math.abs(v - b[k]!) < 1e-6)).toBe(true);
      expect((await logits(base)).some((v, k) => Math.abs(v - b[k]!) > 1e-2)).toBe(true);
    }
  });
  test('FRoD and places of WaveFT drawn here are refused', async () => {
    const engine = float64();
    const made = (await frod({ where: ['v'] }).prepare(base, { engine }))(base);
    await expect(savePeft(made, await fresh())).rejects.toThrow(/a basis made here would be the wrong one/);
    const waves = waveft({ coefficients: 4, where: ['v'] })(base);
    await expect(savePeft(waves, await fresh())).rejects.toThrow(/withTorchPlaces/);
    expect((await savePeft(withTorchPlaces(waves), await fresh())).peftType).toBe('WAVEFT');
  });
  const adapted = lora({ rank: 1, where: 'q' })(base);
  test('the same configuration again replaces the weights alone; another is refused', async () => {
    const folder = await fresh();
    await savePeft(adapted, folder, { baseModel: 'my/base' });
    const first = await readFile(join(folder, WEIGHTS_FILE));
    await savePeft(lora({ rank: 1, where: 'q', seed: 1 })(base), folder, { baseModel: 'my/base' });
    expect(Buffer.compare(first, await readFile(join(folder, WEIGHTS_FILE)))).not.toBe(0);
    await expect(savePeft(lora({ rank: 2, where: 'q' })(base), folder)).rejects.toThrow(/another configuration.*replace: true/);
    await savePeft(lora({ rank: 2, where: 'q' })(base), folder, { replace: true });
    expect((JSON.parse(await readFile(join(folder, CONFIG_FILE), 'utf8')) as { r: number }).r).toBe(2);
    expect((await readdir(folder)).sort()).toEqual([CONFIG_FILE, WEIGHTS_FILE]);
  });
  test('halves when asked for, and a head that was trained', async () => {
    const folder = await fresh();
    await savePeft(lora({ rank: 1, where: 'q' })(unfreeze(networks.bert.base, (p) => p.startsWith('head'))), folder, { dtype: 'F16' });
    const { tensors: all, metadata } = await readSafetensors(join(folder, WEIGHTS_FILE));
    expect([...metadata]).toEqual([['format', 'pt']]);
    expect([...all.keys()].filter((k) => k.includes('classifier'))).toEqual([
      'base_model.model.classifier.bias',
      'base_model.model.classifier.weight',
    ]);
    expect([...all.values()].every((t) => t.dtype === 'F16')).toBe(true);
  });
  test('a configuration that no longer fits what is attached is not written again', async () => {
    const loaded = await load(LORA);
    const other = lora({ rank: 2, where: 'q' })(base);
    await expect(savePeft(other, await fresh(), { like: loaded.files })).rejects.toThrow(/rank is 2 at .* and was 1/);
    await expect(savePeft(lora({ rank: 1, alpha: 8, where: 'k' })(base), await fresh(), { like: loaded.files })).rejects.toThrow(
      /adapted in one and not in the other/,
    );
  });
});

describe("Python's notations", () => {
  test('numbers as Python shows them', () => {
    const shown = {
      0: '0.0',
      8: '8.0',
      0.05: '0.05',
      1e-4: '0.0001',
      1e-5: '1e-05',
      6e-5: '6e-05',
      1e15: '1000000000000000.0',
      1e16: '1e+16',
      1.5e-7: '1.5e-07',
    };
    for (const [v, text] of Object.entries(shown)) expect(pythonFloat(Number(v))).toBe(text);
    expect(pythonFloat(-0)).toBe('-0.0');
  });
  test('any JSON: read and written again it is what Python writes, and read again it is the same', () => {
    fc.assert(
      fc.property(
        fc.jsonValue({ maxDepth: 4 }).filter((v) => !/__proto__|constructor|prototype/.test(JSON.stringify(v))),
        (v) => {
          const { value, written } = parsePython(JSON.stringify(v), 'x');
          const text = dumpsPython(value, written);
          expect(parsePython(text, 'x').value).toEqual(JSON.parse(JSON.stringify(v)) as Json);
          expect([...text].every((c) => c.charCodeAt(0) < 128)).toBe(true);
        },
      ),
      { numRuns: 100 },
    );
  });
  test.each([
    [String.raw`.*\.(?P<idx>\d+)\.[qk]_proj`, 'model.layers.12.k_proj', true],
    [String.raw`\Amodel\.x{,2}\Z`, 'model.xx', true],
    [String.raw`\Amodel\.x{,2}\Z`, 'model.xxx', false],
    ['[]x]+', ']x', true],
    ['(?P<a>x|y)(?P=a)', 'xx', true],
    ['(?P<a>x|y)(?P=a)', 'xy', false],
    ['q_proj', 'model.q_proj', false],
  ])('%s against %s: %s', (pattern, name, hit) => {
    expect(matching(pattern, [name]).has(name)).toBe(hit);
  });
  test.each(['a++', '(?>a)', '(?i)a', '(?(1)a|b)', String.raw`\Ga`, '[a'])('refuses %s', (pattern) => {
    expect(() => fromPython(pattern)).toThrow(/which JavaScript cannot match/);
  });
  test("PyTorch's generator", () => {
    const draw = mersenne(0);
    expect([draw(), draw(), draw()]).toEqual([2357136044, 2546248239, 3071714933]);
    expect(firstOfRandperm(10, 10, 0)).toEqual([4, 1, 7, 5, 3, 9, 0, 8, 6, 2]);
    expect(firstOfRandperm(10, 4, 42)).toEqual([2, 6, 1, 8]);
    expect(firstOfRandperm(768 * 3072, 5, 777)).toEqual([2160743, 1949640, 1000073, 970736, 2203675]);
    const uniform = [-0.35095828771591187, -0.0134468674659729, 0.48566150665283203, -0.33159857988357544, 0.0839434266090393];
    expect([...uniforms(11)(5, 0.5)]).toEqual(uniform);
  });
  test("NumPy's generator", () => {
    const draw = numpyRandom(42);
    expect(draw.shuffle([...Array(10).keys()])).toEqual([5, 6, 0, 7, 3, 2, 4, 9, 1, 8]);
    expect(draw.choice(20, 6)).toEqual([14, 11, 12, 9, 16, 2]);
    expect(
      numpyRandom(2 ** 40 + 5)
        .choice(20000, 401)
        .slice(0, 5),
    ).toEqual([3996, 18102, 4921, 9587, 7016]);
  });
});

test('names of the four networks are those of their checkpoints', () => {
  for (const n of Object.values(networks)) {
    const names = namesOf(n.base);
    const ours = names.places.map((p) => p.module).filter((m) => m !== 'lm_head');
    expect(ours).toEqual(names.places.filter((p) => p.module !== 'lm_head').map((p) => n.moduleOf(p.path)));
  }
  expect(Object.values(networks).map((n) => namesOf(n.base).architecture)).toEqual(Object.keys(networks));
});
