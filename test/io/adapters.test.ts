// Adapters and training state: saved and loaded bit for bit; what does not fit is refused with the difference, and nothing changes.
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { float64 } from '../../core/engines/float64.ts';
import { rng } from '../../core/rng.ts';
import { leaf, type Param, param, paramOf, type Tensor } from '../../core/tensor.ts';
import { loadAdapter, readDescription, saveAdapter } from '../../io/adapters.ts';
import { readSafetensors, writeSafetensors } from '../../io/files.ts';
import { readState, saveState } from '../../io/state.ts';
import { context } from '../../nn/context.ts';
import { decoder, gpt2, llama } from '../../nn/decoder.ts';
import { freeze, realize, unfreeze, withValues } from '../../nn/freeze.ts';
import type { Model } from '../../nn/layer.ts';
import { params, tensors } from '../../nn/tree.ts';
import { adamw } from '../../optim/adamw.ts';
import { trainer } from '../../optim/trainer.ts';
import { promptTuning } from '../../peft/additive/promptTuning.ts';
import { defineMethod } from '../../peft/attach.ts';
import { stack } from '../../peft/combinators.ts';
import { finish } from '../../peft/merge.ts';
import { lora } from '../../peft/reparameterized/lora.ts';

let folder = '';
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'tinypeft-adapters-'));
});
afterAll(() => rm(folder, { recursive: true }));

const sizes = { vocabulary: 11, width: 8, layers: 2, heads: 2, positions: 8, inner: 12 };
const base = freeze(decoder(llama(sizes), rng(1)));
const engine = float64();
const logits = (m: Model): Promise<ArrayLike<number>> => engine.read(m({ ids: leaf([1, 2, 3], [1, 3]) }, context(3)));

/** Every parameter moved somewhere else, as training would. */
const moved = (m: Model, seed: number): Model =>
  withValues(
    m,
    new Map([...params(m).keys()].map((p): [Param, Float32Array] => [p, rng(seed).split(params(m).get(p)!).normal(p.value.length, 0.1)])),
  );

/** Bits of every tensor by path. */
const bits = (m: Model): Map<string, string> =>
  new Map(
    [...tensors(m)].map(({ path, tensor: { source: s } }) => {
      const d = s.kind === 'leaf' ? s.data : s.kind === 'state' ? s.param.value : new Float32Array(0);
      return [path, `${s.kind} ${d.constructor.name} ${Buffer.from(d.buffer, d.byteOffset, d.byteLength).toString('hex')}`];
    }),
  );

/** A method of every kind of tensor: trained, fixed, a buffer, a list, one shared by all sites, integers, and a new base weight. */
const zoo = defineMethod<
  'linear',
  { scale: number; label: string | null },
  { a: Tensor; list: readonly Tensor[]; index: Tensor; mask: Tensor; common: Tensor },
  Tensor
>({
  name: 'zoo',
  family: 'reparameterized',
  paper: 'arXiv:0000.00000',
  at: 'linear',
  defaults: { scale: 2, label: null, where: ['q'] },
  takes: { label: [null, String] },
  shared: (_, __, r) => param(r.normal(3), [3]),
  init: ({ shape, weight }, _, r, { shared }) => ({
    train: {
      a: param(r.normal(shape[0]!), [shape[0]!], { lr: 3, decay: false }),
      list: [param(r.normal(2), [2]), param(r.normal(2), [2])],
      common: shared,
    },
    fixed: { index: leaf(Int32Array.of(1, -7, 2 ** 30), [3]) },
    buffer: { mask: param(Int8Array.of(1, 0, -1), [3], { active: false }) },
    base: leaf(
      Float32Array.from((weight().source as { data: Float32Array }).data, (v) => v * 0.5),
      weight().shape,
    ),
  }),
  around:
    (call, { a }, c) =>
    (x, ctx) =>
      call(x, ctx).add(a.mul(c.scale)),
  count: () => ({ train: 0, stored: 0 }),
  startsAsBase: () => 'no',
});

/** A method with a smaller equivalent: its two factors multiplied out. */
const product = defineMethod<'linear', object, { u: Tensor; v: Tensor; uv: Tensor }>({
  name: 'product',
  family: 'additive',
  paper: 'arXiv:0000.00000',
  at: 'linear',
  defaults: { where: ['o'] },
  init: (site, _, r) => ({ train: { u: param(r.normal(site.shape[0]!), [site.shape[0]!]), v: param(r.normal(1), [1]) } }),
  around:
    (call, { u, v, uv }) =>
    (x, ctx) =>
      call(x, ctx).add(uv ?? u.mul(v)),
  finish: ({ u, v, uv }) => ({ uv: uv ?? u.mul(v) }),
  count: () => ({ train: 0, stored: 0 }),
  startsAsBase: () => 'no',
});

describe('adapters', () => {
  test('save, load onto the bare base: every tensor bit for bit, the same logits', async () => {
    const path = join(folder, 'lora');
    await fc.assert(
      fc.asyncProperty(
        fc.integer(),
        fc.integer({ min: 1, max: 4 }),
        fc.constantFrom(['q'], ['q', 'v'], ['up', 'down', 'o']),
        async (seed, rank, where) => {
          const model = moved(lora({ rank, where, alpha: 3 })(base), seed);
          const saved = await saveAdapter(model, path);
          const back = await loadAdapter(base, path, [lora]);
          expect(bits(back)).toEqual(bits(model));
          expect(await logits(back)).toEqual(await logits(model));
          expect(saved.bytes).toBe(4 * saved.numbers);
          expect((await readdir(path)).sort()).toEqual(['adapter.json', 'adapter.safetensors']);
        },
      ),
      { numRuns: 5 },
    );
  });

  test('saving twice gives the same bytes, and saving what was loaded too', async () => {
    const [a, b] = [join(folder, 'same-a'), join(folder, 'same-b')];
    const model = moved(stack(lora({ rank: 2 }), lora({ rank: 1, where: ['q'] }))(base), 5);
    await saveAdapter(model, a);
    await saveAdapter(await loadAdapter(base, a, [lora]), b);
    expect(await readFile(join(b, 'adapter.safetensors'))).toEqual(await readFile(join(a, 'adapter.safetensors')));
  });

  test('fixed tensors, buffers, lists, integers, tensors of several sites, a replaced base, learning rates: all come back', async () => {
    const path = join(folder, 'zoo');
    const model = moved(zoo({ scale: 3 })(lora({ rank: 2, where: ['v'] })(base)), 2);
    await saveAdapter(model, path);
    const back = await loadAdapter(base, path, [zoo, lora]);
    expect(bits(back)).toEqual(bits(model));
    expect(await logits(back)).toEqual(await logits(model));
    const metas = (m: Model) => [...params(m)].map(([p, at]) => [at, p.lr, p.decay, p.active]);
    expect(metas(back)).toEqual(metas(model));
    expect(new Set(params(back).values()).size).toBe(params(model).size); // what was shared is one parameter again
    expect((await readDescription(path)).applications.map((a) => `${a.method} at ${a.sites.length}`).sort()).toEqual([
      'lora at 2',
      'zoo at 2',
    ]);
  });

  test('the order of attaching is kept where two methods share a place', async () => {
    const path = join(folder, 'order');
    const model = moved(stack(product({ where: ['q'] }), lora({ rank: 1, where: ['q', 'v'] }), product({ where: ['q', 'k'] }))(base), 3);
    await saveAdapter(model, path);
    const back = await loadAdapter(base, path, [lora, product]);
    expect(bits(back)).toEqual(bits(model));
    expect((await readDescription(path)).applications.map((a) => a.method)).toEqual(['product', 'lora', 'product']);
  });

  test('a finished adapter is smaller and loads onto its unfinished attachment', async () => {
    const path = join(folder, 'finished');
    const model = moved(product()(base), 4);
    await expect(saveAdapter(finish(model), path)).rejects.toThrow('is a recipe, not numbers yet');
    const small = await realize(finish(model), engine);
    await saveAdapter(small, path);
    const back = await loadAdapter(base, path, [product]);
    expect(bits(back)).toEqual(bits(small));
    expect(await logits(back)).toEqual(await logits(small));
  });

  test('unfrozen parts of the network are saved and come back trainable; tied ones stay tied', async () => {
    const path = join(folder, 'unfrozen');
    const tied = freeze(decoder(gpt2(sizes), rng(2)));
    const model = moved(
      unfreeze(tied, (p) => p.endsWith('norm1.bias') || p === 'embed.weight'),
      6,
    );
    await saveAdapter(model, path);
    const back = await loadAdapter(tied, path, []);
    expect(bits(back)).toEqual(bits(model));
    expect(params(back).size).toBe(3);
    expect(await logits(back)).toEqual(await logits(model));
  });

  test('functions and expressions in `where` become paths', async () => {
    const path = join(folder, 'where');
    await saveAdapter(lora({ rank: 1, where: /0.*\.(q|down)$/ })(base), path);
    expect(JSON.parse(await readFile(join(path, 'adapter.json'), 'utf8')).applications).toEqual([
      {
        method: 'lora',
        config: { rank: 1, alpha: 8, rankStabilized: false, dropout: 0, init: 'kaiming' },
        omitted: [],
        sites: ['trunk.blocks.0.attn.q', 'trunk.blocks.0.mlp.down'],
      },
    ]);
    expect([...params(await loadAdapter(base, path, [lora])).values()]).toHaveLength(4);
  });

  test('numbers of the float64 engine keep all their bits', async () => {
    const path = join(folder, 'double');
    const attached = lora({ rank: 1 })(base);
    const model = withValues(
      attached,
      new Map([...params(attached).keys()].map((p) => [p, Float64Array.from(p.value, (_, k) => Math.PI / (k + 1))])),
    );
    await saveAdapter(model, path);
    expect(bits(await loadAdapter(attached, path))).toEqual(bits(model));
  });
});

describe('what does not fit is refused, with the difference', () => {
  const saved = (name: string, model: Model): Promise<string> => saveAdapter(model, join(folder, name)).then(() => join(folder, name));
  test.each([
    ['another rank', () => lora({ rank: 3 })(base), 'trunk.blocks.0.attn.q.lora.A is [2, 8] in the file and [3, 8] in the model'],
    ['fewer sites', () => lora({ rank: 2, where: ['q'] })(base), 'the file has trunk.blocks.0.attn.v.lora.A'],
    ['more sites', () => lora({ rank: 2, where: ['q', 'v', 'o'] })(base), 'the model expects trunk.blocks.0.attn.o.lora.A'],
    ['nothing attached', () => base, 'which the model has no place for'],
    ['a base that is not frozen', () => lora({ rank: 2 })(decoder(llama(sizes), rng(1))), '(freeze(model) first'],
  ] as const)('%s', async (_, make, says) => {
    const path = await saved('fit', lora({ rank: 2 })(base));
    const model = make();
    const before = bits(model);
    await expect(loadAdapter(model, path)).rejects.toThrow(says);
    expect(bits(model)).toEqual(before);
  });

  test('types: whole numbers are not floats', async () => {
    const path = await saved('types', zoo()(base));
    const other = like('zoo', {});
    await expect(loadAdapter(other()(base), path)).rejects.toThrow(
      'trunk.blocks.0.attn.q.zoo.index holds I32 in the file and F32 in the model',
    );
  });

  test('a method that is not in the list, sites that are not there, options of another type', async () => {
    const path = await saved('list', lora({ rank: 2 })(base));
    await expect(loadAdapter(base, path, [product])).rejects.toThrow(
      'the file was made with lora; pass it in the list of methods (given: product)',
    );
    const one = freeze(decoder(llama({ ...sizes, layers: 1 }), rng(1)));
    await expect(loadAdapter(one, path, [lora])).rejects.toThrow(
      'was attached at trunk.blocks.1.attn.q, trunk.blocks.1.attn.v, but this model has no such linear',
    );
    const fake = like('lora', { rank: 'x' });
    await expect(loadAdapter(base, path, [fake])).rejects.toThrow('lora has rank = 2 in the file, which should be a string');
  });

  test('options that ask for more numbers than the file can stand for, or that the method refuses', async () => {
    const path = await saved('large', promptTuning({ length: 3 })(base));
    const file = join(path, 'adapter.safetensors');
    const { metadata, tensors } = await readSafetensors(file);
    const changed = async (length: unknown): Promise<void> => {
      const said = JSON.parse(metadata.get('tinypeft')!) as { applications: { config: Record<string, unknown> }[] };
      said.applications[0]!.config.length = length;
      await writeSafetensors(file, tensors, new Map([['tinypeft', JSON.stringify(said)]]));
    };
    await changed(1e9);
    await expect(loadAdapter(base, path, [promptTuning])).rejects.toThrow(
      /large.adapter.safetensors: promptTuning cannot be attached .*: they ask for 8000000000 numbers, and the file has 24/,
    );
    await changed(-1);
    await expect(loadAdapter(base, path, [promptTuning])).rejects.toThrow(
      /promptTuning cannot be attached with the options in the file: ./,
    );
  });

  test('options that are not JSON are named, and the attached model still loads', async () => {
    const shaped = like('shaped', { f: (n: number) => n });
    const other = { f: (n: number) => 2 * n };
    const model = moved(shaped(other)(base), 1);
    const path = await saved('shaped', model);
    await expect(loadAdapter(base, path, [shaped])).rejects.toThrow('the options f of shaped could not be written as JSON');
    expect(bits(await loadAdapter(shaped(other)(base), path))).toEqual(bits(model));
    const usual = moved(shaped()(base), 2); // but the default is known without the file
    expect(bits(await loadAdapter(base, await saved('usual', usual), [shaped]))).toEqual(bits(usual));
  });

  test('nothing to save; no adapter; another file', async () => {
    await expect(saveAdapter(base, join(folder, 'none'))).rejects.toThrow('nothing is attached to this model');
    await expect(loadAdapter(base, join(folder, 'absent'))).rejects.toThrow('ENOENT');
    await saveState({ format: 1, step: 0, seed: 0, optimizer: 'x', values: {}, moments: {} }, join(folder, 'adapter.safetensors'));
    await expect(loadAdapter(base, folder)).rejects.toThrow("without the metadata key 'tinypeft'");
  });

  test('a failed save leaves the old adapter', async () => {
    const path = await saved('kept', lora({ rank: 2 })(base));
    const before = await readFile(join(path, 'adapter.safetensors'));
    await expect(saveAdapter(finish(withRecipe()), path)).rejects.toThrow('is a recipe');
    expect(await readFile(join(path, 'adapter.safetensors'))).toEqual(before);
    await writeFile(join(folder, 'flat'), '');
    await expect(saveAdapter(lora({ rank: 2 })(base), join(folder, 'flat'))).rejects.toThrow('EEXIST');
  });
  const withRecipe = (): Model => product()(base);
  const like = <C extends object>(name: string, defaults: C) =>
    defineMethod<'linear', C, { a: Tensor; index: Tensor }>({
      name,
      family: 'reparameterized',
      paper: 'arXiv:0000.00000',
      at: 'linear',
      defaults: { ...defaults, where: ['q'] },
      init: () => ({ train: { a: param([1], [1]), index: leaf([1, 2, 3], [3]) } }),
      around: (call) => call,
      count: () => ({ train: 0, stored: 0 }),
      startsAsBase: () => 'no',
    });
});

describe('training state', () => {
  const loss = (m: Model, b: { ids: Tensor }, ctx = context(3)): Tensor =>
    m({ ids: b.ids }, ctx)
      .mul(m({ ids: b.ids }, ctx))
      .mean();
  const batch = { ids: { data: [1, 2, 3], shape: [1, 3] } };
  const start = () =>
    trainer(lora({ rank: 2 })(base), { engine, loss: (m: Model, b: { ids: Tensor }) => loss(m, b), optimizer: adamw({ lr: 0.01 }) });

  test('five steps are three, a file, and two more: bit for bit', async () => {
    const path = join(folder, 'state.safetensors');
    await using whole = await start();
    for (let k = 0; k < 5; k++) await whole.step(batch);
    await using first = await start();
    for (let k = 0; k < 3; k++) await first.step(batch);
    await saveState(await first.state(), path, { batch: 3 });
    await using second = await start();
    const { state, extra } = await readState(path);
    expect(extra).toEqual({ batch: 3 });
    expect(state).toEqual(await first.state());
    await second.load(state);
    for (let k = 0; k < 2; k++) await second.step(batch);
    expect(bits(await second.model())).toEqual(bits(await whole.model()));
    expect(await second.state()).toEqual(await whole.state());
  });

  test('another file, or one of another version, is refused', async () => {
    await saveAdapter(lora({ rank: 1 })(base), join(folder, 'notstate'));
    await expect(readState(join(folder, 'notstate', 'adapter.safetensors'))).rejects.toThrow('no training state of this library');
    const path = join(folder, 'future.safetensors');
    await saveState({ format: 2 as 1, step: 0, seed: 0, optimizer: 'x', values: {}, moments: {} }, path);
    await expect(readState(path)).rejects.toThrow('has training format 2; this library reads 1');
    expect(paramOf(leaf([1], [1]))).toBeNull();
  });
});
