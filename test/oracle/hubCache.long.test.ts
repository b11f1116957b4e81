// The cache is the one of Hugging Face's own library: what it fetches is found here, what is fetched here is found there.
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { openRepository } from '../../io/hub/repository.ts';
import { type HubFile, hub } from '../io/hubServer.ts';
import { ask, pythonWith } from './python.ts';

const ID = 'org/tiny-model';
const FILES = new Map<string, HubFile>([
  ['config.json', { bytes: new TextEncoder().encode('{"model_type": "llama"}') }],
  ['model.safetensors', { bytes: new Uint8Array(50_000).fill(3), large: true }],
  ['onnx/notes.txt', { bytes: new TextEncoder().encode('in a folder') }],
]);
const NAMES = [...FILES.keys(), 'tokenizer.json'];

const python = pythonWith('huggingface_hub');
describe.skipIf(python === null)('against huggingface_hub (skipped without TINYPEFT_PYTHON)', () => {
  let root = '';
  beforeAll(async () => {
    root = await mkdtemp(join(tmpdir(), 'tinypeft-hubcache-'));
  });
  afterAll(() => rm(root, { recursive: true }));
  const environment = (endpoint: string, cache: string): Record<string, string> => ({
    ...{ HF_ENDPOINT: endpoint, HF_HUB_CACHE: cache, HF_HUB_DISABLE_XET: '1', HF_HUB_DISABLE_PROGRESS_BARS: '1', HF_HUB_OFFLINE: '0' },
    ...{ HF_TOKEN: '', HF_HUB_DISABLE_IMPLICIT_TOKEN: '1', HF_HUB_DISABLE_TELEMETRY: '1' },
  });
  const same = async (paths: Readonly<Record<string, string | null>>): Promise<void> => {
    for (const [name, { bytes }] of FILES) expect(new Uint8Array(await readFile(paths[name]!)), name).toEqual(new Uint8Array(bytes));
  };
  /** Names below the cache, without locks and other marks of their own. */
  const layout = async (cache: string): Promise<string[]> =>
    (await readdir(join(cache, 'models--org--tiny-model'), { recursive: true })).filter((f) => !f.includes('.lock')).sort();

  test('both ways, and the same files in the same places', async () => {
    await using h = await hub({ id: ID, files: FILES });
    const [theirs, ours] = [join(root, 'theirs'), join(root, 'ours')];
    const [fetched] = (await ask(
      python!,
      'hub_cache.py',
      [{ repo: ID, files: NAMES, offline: false }],
      environment(h.endpoint, theirs),
    )) as [Record<string, string | null>];
    await same(fetched);
    expect(fetched['tokenizer.json']).toBeNull();
    const before = h.asked.length;
    const offline = await openRepository(ID, { cache: theirs, offline: true, endpoint: h.endpoint, token: null });
    await same(Object.fromEntries(await Promise.all(NAMES.map(async (n) => [n, await offline.get(n)] as const))));
    expect(await offline.get('tokenizer.json')).toBeNull();
    expect(h.asked.length).toBe(before);

    const own = await openRepository(ID, { cache: ours, offline: false, endpoint: h.endpoint, token: null, progress: null });
    for (const n of NAMES) await own.get(n);
    const [found] = (await ask(python!, 'hub_cache.py', [{ repo: ID, files: NAMES, offline: true }], environment(h.endpoint, ours))) as [
      Record<string, string | null>,
    ];
    await same(found);
    expect(await layout(ours)).toEqual(await layout(theirs));
  });
});
