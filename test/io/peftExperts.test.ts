// X-LoRA and Arrow as folders: what is written is read again whatever the options, and what is refused and why.
import { cp, mkdir, mkdtemp, readdir, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { float64 } from '../../core/engines/float64.ts';
import { readSafetensors, writeSafetensors } from '../../io/files.ts';
import { CONFIG_FILE, WEIGHTS_FILE } from '../../io/peft/adapter.ts';
import { type LoadOptions, loadPeft } from '../../io/peft/load.ts';
import { loadArrow } from '../../io/peft/loadArrow.ts';
import { savePeft } from '../../io/peft/save.ts';
import { unfreeze } from '../../nn/freeze.ts';
import type { Model } from '../../nn/layer.ts';
import { tensors, trainable } from '../../nn/tree.ts';
import { arrowOf } from '../../peft/reparameterized/arrowOf.ts';
import { lora } from '../../peft/reparameterized/lora.ts';
import { xloraOf } from '../../peft/reparameterized/xloraOf.ts';
import { atHand } from '../../peft/site.ts';
import { off } from '../oracle/fixtures.ts';
import { EXPERTS, filesIn } from '../oracle/hfExperts.ts';
import { FILES, logitsOf } from '../oracle/hfFiles.ts';
import { networks } from '../oracle/networks.ts';
import { arrowsAreRead, trained, xlorasAreRead } from './expertFolders.ts';

let root = '';
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), 'tinypeft-experts-'));
});
afterAll(() => rm(root, { recursive: true }));
let count = 0;
const fresh = (): string => join(root, String(count++));

const { base } = networks.llama;
const logits = (model: Model, network: keyof typeof networks = 'llama') => logitsOf(float64(), model, networks[network], {});
const same = async (a: Model, b: Model): Promise<void> => expect(Array.from(await logits(a))).toEqual(Array.from(await logits(b)));
const loras = (n: number, where: readonly string[] = ['v', 'down'], on = base): Model[] =>
  Array.from({ length: n }, (_, k) => trained(lora({ rank: 2, alpha: 3, where })(on), k));

/** A case of the library's, copied, with its configuration changed. */
async function changed(title: string, change: (config: Record<string, unknown>) => object = (c) => c, at = ''): Promise<string> {
  const folder = fresh();
  await cp(join(EXPERTS, title), folder, { recursive: true });
  const file = join(folder, at, CONFIG_FILE);
  await writeFile(file, JSON.stringify(change(JSON.parse(await readFile(file, 'utf8')) as Record<string, unknown>)));
  return folder;
}
/** The same, with its tensors changed. */
async function retensored(
  title: string,
  at: string,
  change: (t: Awaited<ReturnType<typeof readSafetensors>>['tensors']) => void,
): Promise<string> {
  const folder = await changed(title);
  const file = join(folder, at, WEIGHTS_FILE);
  const { metadata, tensors: all } = await readSafetensors(file);
  change(all);
  await writeSafetensors(file, all, metadata);
  return folder;
}
const load = (folder: string, options: LoadOptions = {}, model = base) => loadPeft(model, folder, { warn: () => {}, ...options });

describe('what is written is read', () => {
  test('X-LoRA of any options: the same numbers, and with `like` the same bytes', () => xlorasAreRead(3, root));
  test('Arrow of any options', () => arrowsAreRead(3, root));
  test('experts trained after reading go into their folders, and `adapters` says where those are', async () => {
    const folder = await changed('xlora-softmax-top-llama');
    const loaded = await load(folder);
    const on = trained(loaded.model, 9);
    const out = fresh();
    await savePeft(on, out, { like: loaded.files });
    await same((await load(out)).model, on);
    const config = JSON.parse(await readFile(join(out, CONFIG_FILE), 'utf8')) as { adapters: object };
    expect(config.adapters).toEqual({ 0: join(out, '0'), 1: join(out, '1'), 2: join(out, '2') });
    await expect(savePeft(on, folder, { like: loaded.files })).rejects.toThrow(/holds an adapter with another configuration/);
    await savePeft(on, folder, { like: loaded.files, replace: true });
    await same((await load(folder)).model, on);
  });
  test('stopped between two experts, even of the same configuration, the folder is no adapter any more', async () => {
    const folder = fresh();
    const model = trained(xloraOf(loras(2))(base), 1);
    await savePeft(model, folder);
    await savePeft(model, folder);
    await same((await load(folder)).model, model);
    const weights = join(folder, '1', WEIGHTS_FILE);
    await rm(weights);
    await mkdir(join(weights, 'in the way'), { recursive: true });
    await expect(savePeft(trained(xloraOf(loras(2))(base), 2), folder)).rejects.toThrow();
    await expect(load(folder)).rejects.toThrow(/adapter_config.json: no such file/);
  });
  test('experts of Arrow without general knowledge, written as they are', async () => {
    const { model } = await load(join(EXPERTS, 'arrow-general-llama'));
    const out = fresh();
    await savePeft(model, out);
    const data = Array.from(await logits(model)); // what a subtraction leaves is no float32 number, and a file holds those
    expect(off(await logits((await load(out)).model), { data, shape: [data.length] })).toBeLessThan(1e-6);
    expect((await readdir(out)).sort()).toEqual(['arrow_router', 'task_0', 'task_1', 'task_2']);
  });
  test('experts elsewhere: those that the caller names, before all others', async () => {
    const folder = await changed('xlora-llama');
    const here = await load(folder);
    const swapped = await load(folder, { adapters: { 0: join(folder, '1'), 1: join(folder, '0') } });
    const factor = (model: Model, l: number) => [...tensors(model)].find(({ path }) => path === `trunk.xlora.A.${l}`)!.tensor;
    for (const [one, other] of [
      [0, 1],
      [1, 0],
      [2, 3],
    ] as const)
      expect(atHand(factor(swapped.model, one))).toEqual(atHand(factor(here.model, other)));
    await mkdir(join(folder, 'deep'));
    for (const k of ['0', '1']) {
      await cp(join(folder, k), join(folder, 'deep', k), { recursive: true });
      await rm(join(folder, k), { recursive: true });
    }
    await writeConfig(folder, (c) => ({ ...c, adapters: { 0: 'deep/0', 1: './deep/x/../1' } })); // paths within the folder are from it
    await same((await load(folder)).model, here.model);
  });
  test('folders of LoRAs that nobody has combined, as create_arrow_model takes them', async () => {
    const at = (title: string, ...names: string[]) => names.map((n) => join(EXPERTS, title, n));
    const options = { topK: 2, temperature: 0.6, general: at('arrow-general-llama', 'gks_0', 'gks_1') };
    const model = await loadArrow(base, at('arrow-general-llama', 'task_0', 'task_1', 'task_2'), options);
    await same(model, (await load(join(EXPERTS, 'arrow-general-llama'))).model);
    const two = at('arrow-llama', 'task_0', 'task_1');
    expect([...trainable(await loadArrow(base, two, { trainExperts: true })).keys()].length).toBe(16);
    await expect(loadArrow(base, [...two, join(FILES, 'ia3-llama')])).rejects.toThrow(/is ia3, and an expert is an ordinary LoRA/);
    await expect(loadArrow(base, [])).rejects.toThrow(/no models given/);
    await expect(loadArrow(base, two, { topK: 3 })).rejects.toThrow(/topK/);
  });
  test('the tensors of what is read are those of the file', async () => {
    const { model } = await load(join(EXPERTS, 'xlora-llama'));
    const gate = (await readSafetensors(join(EXPERTS, 'xlora-llama', WEIGHTS_FILE))).tensors;
    const found = new Map([...tensors(model)].map(({ path, tensor }) => [path, tensor]));
    expect(Array.from(atHand(found.get('trunk.xlora.weights.0')!)!)).toEqual(
      Array.from(gate.get('base_model.internal_xlora_classifier.layers.0.weight')!.data),
    );
  });
});
async function writeConfig(folder: string, change: (config: Record<string, unknown>) => object): Promise<void> {
  const file = join(folder, CONFIG_FILE);
  await writeFile(file, JSON.stringify(change(JSON.parse(await readFile(file, 'utf8')) as Record<string, unknown>)));
}

describe('paths of strangers', () => {
  test.each([
    ['absolute', (outside: string) => outside],
    ['upwards', (outside: string) => `../${outside.split('/').at(-1)!}`],
    ['upwards in the middle', (outside: string) => `0/../../${outside.split('/').at(-1)!}`],
    ['of Windows', () => 'C:\\experts\\0'],
    ['with a backslash', () => '..\\0'],
  ])('%s: not followed, though an expert is there', async (_, path) => {
    const outside = fresh();
    await cp(join(EXPERTS, 'xlora-llama', '0'), outside, { recursive: true });
    const folder = await changed('xlora-llama', (c) => ({ ...c, adapters: { 0: path(outside), 1: 'xlora-llama/1' } }));
    await rm(join(folder, '0'), { recursive: true });
    await expect(load(folder)).rejects.toThrow(
      /no folder for its expert 0; expected .*outside that folder and is not followed.*adapters: \{ "0": …/,
    );
    await load(folder, { adapters: { 0: outside } }); // said by the caller, it is
  });
  test.each([['../task_0'], ['/tmp/x'], ['a/b'], ['..'], ['arrow_router'], ['a\\b'], ['']])(
    'an expert of Arrow called %j',
    async (name) => {
      const folder = await changed(
        'arrow-llama',
        (c) => ({ ...c, arrow_config: { ...(c.arrow_config as object), task_adapter_names: ['task_0', 'task_1', name] } }),
        'arrow_router',
      );
      await expect(load(folder)).rejects.toThrow(/no name of a folder beside arrow_router/);
    },
  );
  test('a folder that leads to itself', async () => {
    const folder = await changed('xlora-llama');
    await rm(join(folder, '0'), { recursive: true });
    await symlink('.', join(folder, '0'));
    await expect(load(folder)).rejects.toThrow(/its expert 0 cannot be read: .*peft_type is "XLORA"; this library reads/);
  });
});

describe('what is refused, of X-LoRA', () => {
  const wrong: readonly (readonly [string, object, RegExp])[] = [
    ['no experts', { adapters: {} }, /adapters names no expert/],
    ['names of their own', { adapters: { law: 'a', code: 'b' } }, /adapters names "law", "code": .*only where they are "0", "1"/],
    ['eleven', { adapters: Object.fromEntries(Array.from({ length: 11 }, (_, k) => [k, 'x'])) }, /mixes up the order/],
    ['more of the best than there are', { top_k_lora: 3 }, /top_k_lora is 3, and adapters names 2 experts; it can be 1 to 2/],
    ['another width', { hidden_size: 32 }, /hidden_size is 32, and this network's is 16/],
    ['no width', { hidden_size: null }, /hidden_size is 4096/],
    ['an answer for each layer', { layerwise_scalings: true }, /the gate answers \[2\] numbers, and experts × adapted layers are \[8\]/],
    ['a deeper gate', { xlora_depth: 2, xlora_size: 2 }, /the gate's .*layers.3.weight is not in the file/],
    ['a gate of thousands of millions', { xlora_depth: 2 ** 31, xlora_size: 2 ** 20 }, /they do not belong together/],
    ['a list of experts', { adapters: ['a'] }, /adapters is \["a"\]/],
  ];
  test.each(wrong)('%s', async (_, change, says) => {
    await expect(load(await changed('xlora-llama', (c) => ({ ...c, ...change })))).rejects.toThrow(says);
  });
  test('a third expert that the gate does not know', async () => {
    const folder = await changed('xlora-llama', (c) => ({ ...c, adapters: { 0: 'a', 1: 'b', 2: 'c' } }));
    await cp(join(folder, '0'), join(folder, '2'), { recursive: true });
    await expect(load(folder)).rejects.toThrow(/the gate answers \[2\] numbers, and the experts are \[3\]/);
  });
  test('what the library loses when it saves one: said, with the way to save it', async () => {
    const gate = await retensored('xlora-layerwise-llama', '', (t) => {
      for (const k of [...t.keys()]) if (k.includes('.0.')) t.delete(k);
    });
    await expect(load(gate)).rejects.toThrow(/layers.0.weight is not in the file. Hugging Face PEFT 0.21 loses .*save_file\(/);
    const expert = await retensored('xlora-llama', '0', (t) => {
      for (const k of [...t.keys()]) if (k.includes('.1.')) t.delete(k);
    });
    await expect(load(expert)).rejects.toThrow(/its expert 0 cannot be read: .*has no tensor .* Hugging Face PEFT 0.21 loses/s);
  });
  test('an expert of another network, and one that is more than a LoRA', async () => {
    const other = await retensored('xlora-llama', '1', (t) => {
      for (const [k, { data, shape }] of t) if (k.includes('v_proj.lora_A')) t.set(k, { data: data.slice(0, 16), shape: [shape[0]!, 8] });
    });
    await expect(load(other)).rejects.toThrow(/its expert 1 cannot be read: .*does not fit this model.*\[2, 8\], expected \[2, 16\]/s);
    const folder = await changed('xlora-llama');
    const as = (title: string) => load(folder, { adapters: { 0: join(FILES, title) } });
    await expect(as('dora-llama')).rejects.toThrow(/is dora, and an expert is an ordinary LoRA/);
    await expect(as('pissa-llama')).rejects.toThrow(/is pissa, and an expert/);
    await expect(as('lora-saved-llama')).rejects.toThrow(/besides LoRA's factors, and experts share one network/);
    await expect(as('lora-patterns-llama')).rejects.toThrow(/an expert has one rank and one alpha/);
  });
  test('experts that nobody has, or that are no mixture', async () => {
    await expect(load(await changed('xlora-llama'), { adapters: { 2: 'x' } })).rejects.toThrow(
      /adapters names 2, but .* has the experts 0, 1/,
    );
    await expect(load(join(FILES, 'lora-llama'), { adapters: { 0: 'x' } })).rejects.toThrow(/adapters are the experts of X-LoRA and Arrow/);
  });
  test('a network on which the library does not find the experts', async () => {
    const { base: gpt2 } = networks.gpt2;
    await expect(load(await changed('xlora-llama'), {}, gpt2)).rejects.toThrow(/only where the network proper is called `model`/);
    await expect(savePeft(xloraOf(loras(2, ['qkv'], gpt2))(gpt2), fresh())).rejects.toThrow(
      /only where the network proper is called `model`/,
    );
  });
  test('more than ten experts, or a network trained beside them: before anything is written', async () => {
    const folder = fresh();
    await expect(savePeft(xloraOf(loras(11))(base), folder)).rejects.toThrow(/mixes up the order/);
    await expect(
      savePeft(
        unfreeze(xloraOf(loras(2))(base), (p) => p.includes('norm1')),
        folder,
      ),
    ).rejects.toThrow(/one network that is not changed/);
    await savePeft(xloraOf(loras(2))(base), folder);
    const before = await filesIn(folder);
    await rm(join(folder, '1'), { recursive: true });
    await expect(savePeft(xloraOf(loras(2, ['q']))(base), folder)).rejects.toThrow(/0 holds an adapter with another configuration/);
    expect(await filesIn(folder)).toEqual(before.filter((f) => !f.startsWith('1')));
  });
  test('an expert on the head, which the gate does not reach', () => {
    expect(() => xloraOf(loras(2, ['v', 'head']))).toThrow(/a lora at head, and the gate scales layers of the trunk alone/);
  });
});

describe('what is refused, of Arrow', () => {
  const router = (title: string, change: object) =>
    changed(title, (c) => ({ ...c, arrow_config: { ...(c.arrow_config as object), ...change } }), 'arrow_router');
  const wrong: readonly (readonly [string, object, RegExp])[] = [
    ['more of the best than there are', { top_k: 4 }, /arrow_config.top_k is 4, and task_adapter_names has 3 experts; it can be 1 to 3/],
    ['a best of none', { top_k: 0 }, /arrow_config.top_k is 0/],
    ['a temperature of 0', { router_temperature: 0 }, /temperature/],
    ['no experts', { task_adapter_names: [] }, /task_adapter_names is empty/],
    ['no names', { task_adapter_names: null }, /task_adapter_names is empty/],
    ['one twice', { task_adapter_names: ['task_0', 'task_1', 'task_1'] }, /has task_1 twice/],
    ['one that is not there', { task_adapter_names: ['task_0', 'task_1', 'task_9'] }, /no folder for its expert task_9; expected .*task_9/],
    ['general knowledge of nobody', { use_gks: true }, /gks_adapter_names is empty/],
  ];
  test.each(wrong)('%s', async (_, change, says) => {
    await expect(load(await router('arrow-llama', change))).rejects.toThrow(says);
  });
  test('a LoRA in the place of the router', async () => {
    const folder = await changed('arrow-llama', ({ arrow_config: _, ...c }) => c, 'arrow_router');
    await expect(load(folder)).rejects.toThrow(/is in the place of Arrow's router, and has no arrow_config/);
  });
  test('the router by itself, and one that is elsewhere than its experts', async () => {
    await expect(load(join(EXPERTS, 'arrow-llama', 'arrow_router'))).rejects.toThrow(/no folder for its expert task_0/);
    const folder = await changed('arrow-llama', (c) => ({ ...c, target_modules: ['v_proj'] }), 'arrow_router');
    await expect(load(folder)).rejects.toThrow(/the layers that the experts adapt differ at trunk.blocks.0.mlp.down/);
  });
  test('what the library could not read or would answer otherwise', async () => {
    const { base: gpt2 } = networks.gpt2;
    const partly = arrowOf(loras(2, ['mlp.down'], gpt2), { topK: 1 })(gpt2);
    await expect(savePeft(partly, fresh())).rejects.toThrow(
      /routes every module with the name of an adapted one, and no expert is at .*attn.c_proj/,
    );
    const ranks = [1, 2].map((rank) => lora({ rank, where: 'v' })(base));
    await expect(savePeft(arrowOf(ranks, { topK: 1 })(base), fresh())).rejects.toThrow(
      /ranks 1, 2, and Hugging Face PEFT's Arrow wants one/,
    );
    const on = trained(arrowOf(loras(2), { topK: 1, trainExperts: true })(base), 5);
    await expect(savePeft(on, fresh())).rejects.toThrow(/trained after Arrow took its direction/);
  });
  test('general knowledge that cannot be put back', async () => {
    const loaded = await load(join(EXPERTS, 'arrow-general-llama'));
    const other = arrowOf(loras(3), { topK: 2, temperature: 0.6 })(base);
    await expect(savePeft(other, fresh(), { like: loaded.files })).rejects.toThrow(/after general knowledge was subtracted/);
  });
});
