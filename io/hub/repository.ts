// A model's repository on the Hugging Face hub: its files are fetched into the standard cache when they are asked for.
import { stat } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { DownloadError, download, transfer } from '../download.ts';
import type { Output } from '../progress.ts';
import { type RepositoryCache, repositoryCache } from './cache.ts';
import { holding } from './lock.ts';
import { checkFile, checkRepository, checkRevision, isCommit } from './names.ts';
import { type HubSettings, hubSettings } from './settings.ts';

export interface HubOptions extends Partial<HubSettings> {
  /** A branch, a tag or a commit. Default main. */
  readonly revision?: string;
  /** Where bars are drawn for files of 1 MB and more; null: nowhere. Default process.stderr. */
  readonly progress?: NodeJS.WriteStream | Output | null;
  /** How often a transfer that brought nothing new is tried again. Default 4, with 0.5, 1, 2 and 4 seconds between. */
  readonly retries?: number;
  /** Milliseconds before the first such try. */
  readonly pause?: number;
  /** Told when the hub cannot be reached and the cache answers instead. Default: console.warn. */
  readonly notice?: (text: string) => void;
}
export interface Repository {
  /** Where this commit's files are. */
  readonly folder: string;
  readonly commit: string;
  /** The path of a file, fetched now unless it is in the cache; null when the repository has none of this name. */
  get(name: string): Promise<string | null>;
  /** As `get`, for a file that must be there: throws when it is not. */
  need(name: string): Promise<string>;
}

const LARGE = 1e6;

/**
 * Opens a repository: asks which commit a revision is at (`HF_HUB_OFFLINE`, or a hub that cannot be reached: the one it was at before).
 * Files are checked against the hash the hub gives, kept in `.incomplete` files while they come, and resumed after an interruption.
 * Throws with what to do: no such repository, a token that is missing or not accepted, nothing in the cache.
 */
export async function openRepository(id: string, options: HubOptions = {}): Promise<Repository> {
  const s: Required<HubOptions> = {
    ...hubSettings(),
    ...{ revision: 'main', progress: process.stderr, retries: 4, pause: 500, notice: (text) => console.warn(text) },
    ...options,
  };
  checkRepository(id);
  checkRevision(s.revision);
  const cache = repositoryCache(s.cache, id);
  const commit = await commitOf(id, s, cache);
  const get = async (name: string): Promise<string | null> => {
    checkFile(name);
    const there = await cache.find(commit, name);
    if (there !== null || s.offline || (await cache.lacks(commit, name))) return there;
    const file = await ask(id, commit, name, s);
    if (file === null) await cache.markAbsent(commit, name);
    return file === null ? null : fetched(id, name, file, commit, s, cache);
  };
  const need = async (name: string): Promise<string> => {
    const path = await get(name);
    if (path !== null) return path;
    throw new Error(
      s.offline
        ? `${id}: HF_HUB_OFFLINE is set, and ${name} is not in ${cache.snapshot(commit)}; unset it once to fetch the file`
        : `${id}: has no ${name} at ${commit}`,
    );
  };
  return { commit, folder: cache.snapshot(commit), get, need };
}

async function commitOf(id: string, s: Required<HubOptions>, cache: RepositoryCache): Promise<string> {
  if (isCommit(s.revision)) return s.revision;
  const before = await cache.commitOf(s.revision);
  if (s.offline) {
    if (before !== null) return before;
    throw new Error(
      `${id}: HF_HUB_OFFLINE is set, and ${cache.folder} holds no ${s.revision}; unset it to fetch the repository, or name a folder`,
    );
  }
  try {
    const config = await ask(id, s.revision, 'config.json', s);
    if (config === null) throw new Error(`${id}: has no config.json at ${s.revision}, so it is no model of transformers`);
    await cache.remember(s.revision, config.commit);
    return config.commit;
  } catch (e) {
    if (before === null || !(e instanceof DownloadError) || !e.again) throw e;
    s.notice(`${e.message}; the files in the cache are used as they are`);
    return before;
  }
}

interface Remote {
  readonly url: string;
  readonly etag: string;
  readonly bytes: number;
  readonly commit: string;
}
const headersOf = (s: HubSettings): Record<string, string> => ({
  'accept-encoding': 'identity', // lengths and ranges are of the file itself
  'user-agent': 'tinypeft',
  ...(s.token === null ? {} : { authorization: `Bearer ${s.token}` }),
});
const urlOf = (endpoint: string, id: string, revision: string, name: string): string =>
  `${endpoint}/${id}/resolve/${encodeURIComponent(revision)}/${name.split('/').map(encodeURIComponent).join('/')}`;

/** What the hub knows of a file; null when there is none. */
async function ask(id: string, revision: string, name: string, s: Required<HubOptions>): Promise<Remote | null> {
  const url = urlOf(s.endpoint, id, revision, name);
  const answer = await head(url, s);
  const about = (header: string): string | null => answer.headers.get(header);
  if (answer.status >= 400) {
    if (about('x-error-code') === 'EntryNotFound') return null;
    throw new DownloadError(refusal(answer.status, about('x-error-code'), about('x-error-message'), id, revision, s), {
      status: answer.status,
      again: answer.status >= 500 || answer.status === 429,
    });
  }
  const etag = (about('x-linked-etag') ?? about('etag') ?? '').replace(/^W\//, '').replace(/^"(.*)"$/, '$1');
  const length = about('x-linked-size') ?? (answer.status < 300 ? about('content-length') : null);
  const commit = about('x-repo-commit');
  if (etag === '' || length === null || !/^\d+$/.test(length) || !isCommit(commit))
    throw new Error(`${url}: the answer lacks an etag, a length or X-Repo-Commit; is HF_ENDPOINT (${s.endpoint}) a hub of Hugging Face?`);
  return { url, etag, bytes: Number(length), commit };
}

/** HEAD, following redirections within the hub (a repository that was renamed) but none to where files are stored. */
async function head(url: string, s: Required<HubOptions>): Promise<Response> {
  let at = url;
  for (let hops = 0; hops < 5; hops++) {
    const answer = await fetch(at, { method: 'HEAD', redirect: 'manual', headers: headersOf(s) }).catch((e: Error) => {
      const why = e.cause instanceof Error ? e.cause.message || String((e.cause as NodeJS.ErrnoException).code) : e.message;
      throw new DownloadError(`${at}: cannot be reached (${why}); check the network, or set HF_HUB_OFFLINE=1 to use the cache alone`, {
        again: true,
        cause: e,
      });
    });
    const to = answer.headers.get('location');
    if (
      answer.status < 300 ||
      answer.status >= 400 ||
      to === null ||
      (answer.headers.has('x-linked-etag') && answer.headers.has('x-linked-size'))
    )
      return answer;
    const next = new URL(to, at);
    if (next.origin !== new URL(s.endpoint).origin) return answer;
    at = next.href;
  }
  throw new Error(`${url}: is redirected again and again`);
}

function refusal(status: number, code: string | null, said: string | null, id: string, revision: string, s: HubSettings): string {
  const token =
    s.token === null ? 'set HF_TOKEN to a token that may read it' : 'the token in HF_TOKEN may not read it, or is no longer valid';
  if (code === 'GatedRepo') return `${id}: its files are given on request only. Ask for access at ${s.endpoint}/${id}, then ${token}`;
  if (code === 'RevisionNotFound') return `${id}: has no revision ${revision}; main is what most have`;
  if (code === 'RepoNotFound' || status === 401 || status === 403 || status === 404)
    return `${id}: ${s.endpoint} answers ${status}: there is no such repository, or it is private. Check the name; if it is private, ${token}`;
  return `${id}: ${s.endpoint} answers ${status}${said === null ? '' : ` (${said})`}; try again later`;
}

async function fetched(
  id: string,
  name: string,
  file: Remote,
  commit: string,
  s: Required<HubOptions>,
  cache: RepositoryCache,
): Promise<string> {
  const blob = await cache.blob(file.etag);
  const part = `${blob}.incomplete`;
  const sizeOf = (path: string): Promise<number | null> =>
    stat(path).then(
      (x) => (x.isFile() ? x.size : null),
      () => null,
    );
  await holding(`${part}.lock`, async () => {
    if ((await sizeOf(blob)) === file.bytes) return; // it came with another commit, or another process fetched it meanwhile
    const view = s.progress === null || file.bytes < LARGE ? null : transfer(`${id}/${name}`, s.progress);
    try {
      for (let fruitless = 0; ; ) {
        const had = (await sizeOf(part)) ?? 0;
        try {
          const known = /^[0-9a-f]{64}$/.test(file.etag)
            ? { sha256: file.etag }
            : /^[0-9a-f]{40}$/.test(file.etag)
              ? { gitBlob: file.etag }
              : {};
          const { url, bytes } = file;
          await download(url, blob, { ...known, bytes, part, headers: headersOf(s), ...(view === null ? {} : { onBytes: view.update }) });
          return;
        } catch (e) {
          fruitless = ((await sizeOf(part)) ?? 0) > had ? 0 : fruitless + 1;
          if (!(e instanceof DownloadError) || !e.again || fruitless > s.retries) throw e;
          await sleep(s.pause * 2 ** Math.max(0, fruitless - 1));
        }
      }
    } finally {
      view?.stop();
    }
  });
  return cache.link(blob, commit, name);
}
