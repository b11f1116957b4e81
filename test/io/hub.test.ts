// Repositories of a hub: fetched into the standard cache, resumed, checked, refused with what to do; and nothing is written outside it.
import { mkdir, mkdtemp, readdir, readFile, readlink, rm, writeFile } from 'node:fs/promises';
import { homedir, hostname, tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { openCheckpoint } from '../../io/checkpoints/open.ts';
import { holding } from '../../io/hub/lock.ts';
import { type HubOptions as Options, openRepository } from '../../io/hub/repository.ts';
import { hubSettings } from '../../io/hub/settings.ts';
import { type Fault, gitBlob, type Hub, type HubFile, type HubOptions, sha256 } from './hubServer.ts';
import { FILES, ID, LARGE, options, started, text } from './tinyHub.ts';

let root = '';
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), 'tinypeft-hub-'));
});
afterAll(() => rm(root, { recursive: true }));
const folder = (): Promise<string> => mkdtemp(join(root, 'c-'));
const all = async (at: string): Promise<string[]> => {
  const found = await readdir(at, { recursive: true, withFileTypes: true });
  return found
    .filter((f) => !f.isDirectory())
    .map((f) => join(f.parentPath, f.name).slice(at.length + 1))
    .sort();
};

describe('fetched into the standard layout', () => {
  test('refs, blobs, links; asked for once', async () => {
    await using h = await started();
    const cache = await folder();
    const r = await openRepository(ID, options(h, cache));
    const path = await r.need('model.safetensors');
    expect(new Uint8Array(await readFile(path))).toEqual(LARGE.bytes);
    await r.need('config.json');
    await r.need('onnx/notes.txt');
    expect((await readFile(await r.need('empty.txt'))).length).toBe(0);
    expect(await r.get('tokenizer.json')).toBeNull();
    const blobs = [...FILES.values()].map((f) => (f.large === true ? sha256(f.bytes) : gitBlob(f.bytes))).map((b) => `blobs/${b}`);
    const snapshots = [...FILES.keys()].map((f) => `snapshots/${h.commit}/${f}`);
    const at = join(cache, 'models--org--tiny-model');
    expect(await all(at)).toEqual([`.no_exist/${h.commit}/tokenizer.json`, ...blobs, 'refs/main', ...snapshots].sort());
    expect(await readFile(join(at, 'refs', 'main'), 'utf8')).toBe(h.commit);
    expect(await readlink(join(r.folder, 'onnx', 'notes.txt'))).toBe(`../../../blobs/${gitBlob(FILES.get('onnx/notes.txt')!.bytes)}`);

    const before = h.asked.length;
    const again = await openRepository(ID, options(h, cache));
    for (const name of [...FILES.keys(), 'tokenizer.json']) await again.get(name);
    expect(h.asked.slice(before).map((a) => `${a.method} ${a.path}`)).toEqual([`HEAD /${ID}/resolve/main/config.json`]); // which commit main is at
    const known = await openRepository(ID, options(h, cache, { revision: h.commit }));
    await known.need('model.safetensors');
    expect(h.asked.length).toBe(before + 1); // a commit never changes
  });

  test('a new commit shares what did not change', async () => {
    const cache = await folder();
    {
      await using h = await started();
      await (await openRepository(ID, options(h, cache))).need('model.safetensors');
    }
    await using h = await started({ commit: 'beef'.padEnd(40, '1') });
    const r = await openRepository(ID, options(h, cache));
    expect(r.commit).toBe(h.commit);
    await r.need('model.safetensors');
    expect(h.asked.filter((a) => a.method === 'GET')).toEqual([]);
  });

  test.each(['gpt2', 'bert-base-uncased'])(
    '%s, a name without an organisation: redirected by the hub, and in the cache under its own name',
    async (id) => {
      const from = fileURLToPath(new URL('../oracle/fixtures/checkpoints/gpt2', import.meta.url));
      const names = (await readdir(from)).filter((f) => /^(config\.json|model\.safetensors)$/.test(f));
      const files = new Map(await Promise.all(names.map(async (f) => [f, { bytes: await readFile(join(from, f)) }] as const)));
      await using h = await started({ id: `openai-community/${id}`, files, renamed: id });
      const cache = await folder();
      const { config, folder: at } = await openCheckpoint(id, options(h, cache));
      expect(config.architecture).toBe('gpt2');
      expect(at).toBe(join(cache, `models--${id}`, 'snapshots', h.commit));
      expect((await openCheckpoint(id, options(h, cache, { offline: true }))).folder).toBe(at);
    },
  );

  test('a repository that was renamed, and a revision with a slash', async () => {
    await using h = await started({ renamed: 'old/name' });
    await (await openRepository('old/name', options(h, await folder()))).need('config.json');
    await expect(openRepository(ID, options(h, await folder(), { revision: 'refs/pr/1' }))).rejects.toThrow(
      /org\/tiny-model: has no revision refs\/pr\/1; main is what most have/,
    );
    expect(h.asked.at(-1)!.path).toBe(`/${ID}/resolve/refs%2Fpr%2F1/config.json`);
  });
});

describe('interruptions', () => {
  const GETS = (h: Hub): (string | null)[] => h.asked.filter((a) => a.method === 'GET' && a.where === 'store').map((a) => a.range);
  test.each<[string, Fault[]]>([
    ['cut off again and again', ['cut', 'cut', 'cut', 'cut', 'cut', 'cut']],
    ['busy', ['busy', 'busy', 'busy', 'busy']],
  ])('%s', async (_, faults) => {
    await using h = await started();
    h.faults.push(...faults);
    const r = await openRepository(ID, options(h, await folder(), { retries: faults.length }));
    expect(new Uint8Array(await readFile(await r.need('model.safetensors')))).toEqual(LARGE.bytes);
    expect(GETS(h).length).toBe(faults.length + 1);
  });
  test.each<[string, number, Fault[], (string | null)[]]>([
    ['what an earlier call kept is gone on from', 20_000, [], ['bytes=20000-']],
    ['a server without ranges starts from the beginning', 20_000, ['no ranges'], ['bytes=20000-', null]],
    ['what is longer than the file is thrown away', 40_001, [], [null]],
    ['what is whole already is not fetched', 40_000, [], []],
  ])('%s', async (_, kept, faults, ranges) => {
    await using h = await started();
    h.faults.push(...faults);
    const r = await openRepository(ID, options(h, await folder()));
    const blob = join(r.folder, '..', '..', 'blobs', sha256(LARGE.bytes));
    await mkdir(join(blob, '..'));
    await writeFile(`${blob}.incomplete`, Buffer.concat([LARGE.bytes, new Uint8Array(1)]).subarray(0, kept));
    expect(new Uint8Array(await readFile(await r.need('model.safetensors')))).toEqual(LARGE.bytes);
    expect(GETS(h)).toEqual(ranges);
    expect(await readdir(join(blob, '..'))).toEqual([sha256(LARGE.bytes)]);
  });
  test('a call that gives up says what was kept, and keeps it', async () => {
    await using h = await started();
    h.faults.push('cut', 'busy');
    const r = await openRepository(ID, options(h, await folder(), { retries: 0 }));
    await expect(r.get('model.safetensors')).rejects.toThrow(/stopped \(.*\); what is there so far is kept, so try again|answered 503/);
    await (await openRepository(ID, options(h, await folder()))).need('model.safetensors');
  });
  test('content that is not what its hash says is thrown away, and nothing is put in its place', async () => {
    await using h = await started();
    const cache = await folder();
    const r = await openRepository(ID, options(h, cache));
    for (const [fault, error] of [
      [
        'wrong',
        /its SHA-256 is [0-9a-f]{64}, expected [0-9a-f]{64}: not the file wanted, or damaged on the way\. It was thrown away; try again/,
      ],
      ['too much', /it sends more than the 40000 bytes expected: not the file wanted\. It was thrown away/],
      ['gone', /the server answered 404/],
    ] as const) {
      h.faults.push(fault);
      await expect(r.get('model.safetensors')).rejects.toThrow(error);
    }
    h.faults.push('wrong');
    await expect(r.get('config.json')).rejects.toThrow(/its git hash is [0-9a-f]{40}, expected/);
    expect(await all(cache)).toEqual(['models--org--tiny-model/refs/main']);
    // a part of another file
    await writeFile(join(r.folder, '..', '..', 'blobs', `${sha256(LARGE.bytes)}.incomplete`), 'another');
    await expect(r.get('model.safetensors')).rejects.toThrow(/its SHA-256 is/);
    await r.need('model.safetensors');
  });
  test('two at once fetch it once; a lock of a process that ended is taken over', async () => {
    await using h = await started();
    const cache = await folder();
    const [a, b] = await Promise.all([1, 2].map(() => openRepository(ID, options(h, cache))));
    await Promise.all([a!.need('model.safetensors'), b!.need('model.safetensors')]);
    expect(GETS(h)).toEqual([null]);
    const lock = join(await folder(), 'lock');
    await writeFile(lock, `${2 ** 22 + 1} ${hostname()}`); // above any process id
    expect(await holding(lock, async () => 'held')).toBe('held');
    await writeFile(lock, '17 another-host');
    await expect(holding(lock, async () => 'held')).rejects.toThrow(/process 17 on another-host is fetching this file/);
  });
  test('the bar, for large files only', async () => {
    const big: HubFile = { bytes: new Uint8Array(1_500_000), large: true };
    await using h = await started({ files: new Map([...FILES, ['big.bin', big]]) });
    const lines: string[] = [];
    const r = await openRepository(ID, options(h, await folder(), { progress: { write: (t: string) => lines.push(t) } }));
    await r.need('config.json');
    await r.need('big.bin');
    expect(lines.at(-1)).toBe('org/tiny-model/big.bin 1.5/1.5 MB\n');
  });
});

describe('who asks, and what is answered', () => {
  test('the token goes to the hub and nowhere else', async () => {
    await using h = await started({ token: 'hf_secret' });
    const r = await openRepository(ID, options(h, await folder(), { token: 'hf_secret' }));
    await r.need('model.safetensors');
    expect(new Set(h.asked.filter((a) => a.where === 'hub').map((a) => a.token))).toEqual(new Set(['Bearer hf_secret']));
    expect(h.asked.filter((a) => a.where === 'store').map((a) => a.token)).toEqual([null]);
  });
  test.each<[string, Partial<HubOptions>, Options, RegExp]>([
    [
      'private, no token',
      { token: 'x' },
      {},
      /answers 401: there is no such repository, or it is private\. Check the name; if it is private, set HF_TOKEN to a token/,
    ],
    [
      'private, another token',
      { token: 'x' },
      { token: 'y' },
      /if it is private, the token in HF_TOKEN may not read it, or is no longer valid/,
    ],
    ['gated', { gated: true }, {}, /its files are given on request only\. Ask for access at http:.*\/org\/tiny-model, then set HF_TOKEN/],
    ['another', { id: 'other/model' }, {}, /answers 401: there is no such repository/],
    [
      'no config.json',
      { files: new Map([['README.md', text('x')]]) },
      {},
      /has no config\.json at main, so it is no model of transformers/,
    ],
  ])('%s', async (_, server, ask, error) => {
    await using h = await started(server);
    const e = await openRepository(ID, options(h, await folder(), ask)).catch((x: Error) => x);
    expect((e as Error).message).toMatch(error);
    expect((e as Error).message).not.toMatch(/hf_|Bearer/);
  });
  test('a server that is no hub', async () => {
    for (const [header, lie] of [
      ['etag', '"../../../../outside"'],
      ['etag', '"a/b"'],
      ['etag', '"."'],
      ['x-repo-commit', '../../outside'],
      ['x-repo-commit', ''],
    ] as const) {
      await using h = await started();
      h.lies.set(header, lie);
      const at = await folder();
      const cache = join(at, 'cache');
      const got = openRepository(ID, options(h, cache)).then((r) => r.get('config.json'));
      await expect(got, lie).rejects.toThrow(/cannot be the name of a file|lacks an etag, a length or X-Repo-Commit/);
      expect(await readdir(at)).toEqual((await readdir(at)).filter((f) => f === 'cache'));
    }
  });
  test('no network: the cache answers, with a notice; offline asks nothing at all', async () => {
    const cache = await folder();
    const h = await started();
    await (await openRepository(ID, options(h, cache))).need('config.json');
    await h[Symbol.asyncDispose]();
    const asked = h.asked.length;
    const said: string[] = [];
    const r = await openRepository(ID, options(h, cache, { notice: (t: string) => said.push(t) }));
    await r.need('config.json');
    expect(said).toEqual([expect.stringMatching(/cannot be reached \(.*ECONNREFUSED.*\).*the files in the cache are used as they are/)]);
    await expect(r.get('model.safetensors')).rejects.toThrow(/cannot be reached/);
    await expect(openRepository(ID, options(h, await folder()))).rejects.toThrow(
      /cannot be reached .*check the network, or set HF_HUB_OFFLINE=1/,
    );

    const off = await openRepository(ID, options(h, cache, { offline: true }));
    await off.need('config.json');
    expect(await off.get('tokenizer.json')).toBeNull();
    await expect(off.need('model.safetensors')).rejects.toThrow(/HF_HUB_OFFLINE is set, and model\.safetensors is not in .*unset it once/);
    await expect(openRepository(ID, options(h, await folder(), { offline: true }))).rejects.toThrow(
      /HF_HUB_OFFLINE is set, and .* holds no main/,
    );
    expect(h.asked.length).toBe(asked);
  });
  test('environment variables', () => {
    expect(hubSettings({})).toEqual({
      endpoint: 'https://huggingface.co',
      token: null,
      cache: join(homedir(), '.cache/huggingface/hub'),
      offline: false,
    });
    expect(hubSettings({ HF_HOME: '/h', HF_HUB_OFFLINE: '1', HF_TOKEN: ' t ', HF_ENDPOINT: 'http://mirror/' })).toEqual({
      endpoint: 'http://mirror',
      token: 't',
      cache: '/h/hub',
      offline: true,
    });
    expect(hubSettings({ HF_HOME: '/h', HF_HUB_CACHE: '/c', XDG_CACHE_HOME: '/x', HF_HUB_OFFLINE: '0' })).toMatchObject({
      cache: '/c',
      offline: false,
    });
    expect(hubSettings({ XDG_CACHE_HOME: '/x', HF_HUB_OFFLINE: 'true' })).toMatchObject({ cache: '/x/huggingface/hub', offline: true });
    expect(hubSettings({ HF_HOME: '~/h' }).cache).toBe(join(homedir(), 'h/hub'));
    expect(() => hubSettings({ HF_ENDPOINT: 'file:///etc' })).toThrow(/HF_ENDPOINT is "file:\/\/\/etc"; it must be an address/);
  });
});

describe('openCheckpoint by name', () => {
  const from = fileURLToPath(new URL('../oracle/fixtures/checkpoints', import.meta.url));
  const files = async (name: string, without: readonly string[] = []): Promise<Map<string, HubFile>> => {
    const names = (await readdir(join(from, name))).filter((f) => !without.includes(f));
    const read = async (f: string): Promise<[string, HubFile]> => [
      f,
      { bytes: await readFile(join(from, name, f)), large: f.endsWith('.safetensors') },
    ];
    return new Map(await Promise.all(names.map(read)));
  };
  test('several files with an index; then offline', async () => {
    await using h = await started({ files: await files('llama') });
    const cache = await folder();
    const { config, tokenizer } = await openCheckpoint(ID, options(h, cache));
    expect([config.architecture, tokenizer]).toEqual(['llama', null]);
    const asked = h.asked.length;
    await openCheckpoint(ID, options(h, cache, { offline: true }));
    expect(h.asked.length).toBe(asked);
  });
  test('one file and a tokenizer', async () => {
    await using h = await started({ files: await files('smollm') });
    const { tokenizer } = await openCheckpoint(ID, options(h, await folder()));
    expect(tokenizer!.decode([...tokenizer!.encode('the model')])).toBe('the model');
  });
  test('what cannot be loaded is refused before its weights are fetched', async () => {
    const config = text('{"model_type": "mamba"}');
    await using h = await started({ files: new Map([...FILES, ['config.json', config]]) });
    await expect(openCheckpoint(ID, options(h, await folder()))).rejects.toThrow(/model_type is "mamba"/);
    expect(h.asked.some((a) => a.where === 'store')).toBe(false);
  });
  test('no safetensors, a shard that is not there, no folder', async () => {
    await using h = await started({ files: await files('gpt2', ['model.safetensors']) });
    await expect(openCheckpoint(ID, options(h, await folder()))).rejects.toThrow(
      /has neither model\.safetensors nor model\.safetensors\.index\.json/,
    );
    await using less = await started({ files: await files('llama', ['model-00002-of-00002.safetensors']) });
    await expect(openCheckpoint(ID, options(less, await folder()))).rejects.toThrow(/has no model-00002-of-00002\.safetensors at c0ffee/);
    await expect(openCheckpoint('./nowhere')).rejects.toThrow(/\.\/nowhere: no such folder, and not the name of a repository either/);
    await expect(openCheckpoint(join(from, 'llama', 'config.json'))).rejects.toThrow(/is a file; a checkpoint is a folder/);
  });
});
