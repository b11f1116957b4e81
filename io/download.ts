// A file from the network: resumed where an earlier try stopped, checked against its hash, and put in its place whole or not at all.
import { createHash, type Hash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { lstat, mkdir, open, rename, rm, stat } from 'node:fs/promises';
import { dirname } from 'node:path';
import { Presets, SingleBar } from 'cli-progress';
import type { Output } from './progress.ts';

export interface DownloadOptions {
  /** What the whole file must hash to, as hexadecimal digits. Without this and `gitBlob`, only its length is checked. */
  readonly sha256?: string;
  /** Or the name git has for its content: the SHA-1 of `blob <length>\\0` and the file. */
  readonly gitBlob?: string;
  /** How long the file is; a server that sends more is cut off. */
  readonly bytes: number;
  readonly onBytes?: (done: number, total: number) => void;
  /** Where what has come so far is kept. Default: `path`.part. */
  readonly part?: string;
  readonly signal?: AbortSignal;
  /** Those with a secret go to `url` only: a redirection to another host loses `authorization`. */
  readonly headers?: Readonly<Record<string, string>>;
  /** Tests put a server of their own here. */
  readonly fetch?: typeof fetch;
}

/** What went wrong with a transfer: the answer's status where there was one, and whether the same call may go better. */
export class DownloadError extends Error {
  override readonly name = 'DownloadError';
  readonly status: number | null;
  readonly again: boolean;
  constructor(message: string, { status = null, again, cause }: { status?: number | null; again: boolean; cause?: unknown }) {
    super(message, { cause });
    this.status = status;
    this.again = again;
  }
}

/**
 * Downloads `url` to `path`; what has come so far is in `path`.part, and a later call goes on from there. Throws a DownloadError when the
 * server refuses, sends too much or too little, or when the file is not the one expected (then the part is thrown away).
 */
export async function download(url: string, path: string, o: DownloadOptions): Promise<void> {
  const part = o.part ?? `${path}.part`;
  await mkdir(dirname(path), { recursive: true });
  const there = await lstat(part).catch(() => null);
  if (there !== null && !there.isFile()) await rm(part, { recursive: true }); // a link would be written through
  const kept = there?.isFile() && there.size <= o.bytes ? there.size : 0;
  const hash = kept > 0 ? await hashOf(part, kept, o) : hashFor(o);
  if (kept < o.bytes || kept === 0) await receive(url, part, kept, hash, o);
  const [got, wanted] = [hash.digest('hex'), o.sha256 ?? o.gitBlob];
  if (wanted !== undefined && got !== wanted) {
    await rm(part, { force: true });
    throw new DownloadError(
      `${url}: its ${o.sha256 === undefined ? 'git hash' : 'SHA-256'} is ${got}, expected ${wanted}: not the file wanted, or damaged on the way. It was thrown away; try again`,
      { again: false },
    );
  }
  await rename(part, path);
}
/** Git hashes a file's length before its content. */
function hashFor({ sha256, gitBlob, bytes }: Pick<DownloadOptions, 'sha256' | 'gitBlob' | 'bytes'>): Hash {
  return sha256 === undefined && gitBlob !== undefined ? createHash('sha1').update(`blob ${bytes}\0`) : createHash('sha256');
}

async function receive(url: string, part: string, from: number, hash: Hash, o: DownloadOptions): Promise<void> {
  const range: Readonly<Record<string, string>> = from > 0 ? { range: `bytes=${from}-` } : {};
  const response = await (o.fetch ?? fetch)(url, { headers: { ...o.headers, ...range }, signal: o.signal ?? null }).catch((e: unknown) => {
    throw new DownloadError(`${url}: no answer (${reason(e)}); what is there so far is kept`, { again: true, cause: e });
  });
  if (!response.ok || response.body === null) {
    const { status, statusText } = response;
    await response.body?.cancel();
    if (status === 416) await rm(part, { force: true }); // what is kept is not the beginning of this file
    throw new DownloadError(`${url}: the server answered ${status} ${statusText}`, {
      status,
      again: status >= 500 || status === 416 || status === 429 || status === 408,
    });
  }
  const resumes = response.status === 206 && (response.headers.get('content-range') ?? '').startsWith(`bytes ${from}-`);
  if (from > 0 && !resumes) {
    await response.body.cancel();
    await rm(part, { force: true }); // a server that cannot resume, or another file: from the start
    throw new DownloadError(`${url}: cannot be resumed at byte ${from}; the part was thrown away, try again`, { again: true });
  }
  const handle = await open(part, from > 0 ? 'a' : 'w');
  let done = from;
  try {
    for await (const piece of response.body as AsyncIterable<Uint8Array>) {
      done += piece.length;
      if (done > o.bytes) throw new RangeError(`it sends more than the ${o.bytes} bytes expected`);
      await handle.appendFile(piece); // all of it, where write() may stop short
      hash.update(piece);
      o.onBytes?.(done, o.bytes);
    }
    if (done < o.bytes) throw new Error(`it ended at ${done} of ${o.bytes} bytes`);
    await handle.sync();
  } catch (e) {
    if (done > o.bytes) {
      await rm(part, { force: true });
      throw new DownloadError(`${url}: ${reason(e)}: not the file wanted. It was thrown away`, { again: false });
    }
    throw new DownloadError(`${url}: stopped (${reason(e)}); what is there so far is kept, so try again to go on from there`, {
      again: !(e instanceof Error && 'code' in e && /^(ENOSPC|EDQUOT|EFBIG|EACCES|EROFS)$/.test(String(e.code))),
      cause: e,
    });
  } finally {
    await handle.close();
  }
}
const reason = (e: unknown): string => {
  const { message, cause } = e instanceof Error ? e : new Error(String(e));
  return cause instanceof Error ? `${message}: ${cause.message}` : message;
};

async function hashOf(path: string, bytes: number, kind: Pick<DownloadOptions, 'sha256' | 'gitBlob' | 'bytes'>): Promise<Hash> {
  const hash = hashFor(kind);
  for await (const piece of createReadStream(path, { end: bytes - 1 })) hash.update(piece as Uint8Array);
  return hash;
}
/** SHA-256 of a file, as hexadecimal digits; null where there is no such file. */
export async function fileHash(path: string): Promise<string | null> {
  const size = await stat(path).then(
    (s) => s.size,
    () => null,
  );
  if (size === null) return null;
  return (size === 0 ? createHash('sha256') : await hashOf(path, size, { bytes: size })).digest('hex');
}

/** Shows bytes as they come: a bar in a terminal, elsewhere a line for each tenth. */
export function transfer(
  title: string,
  stream: NodeJS.WriteStream | Output = process.stderr,
): { update(done: number, total: number): void; stop(): void } {
  const mb = (n: number): string => (n / 1e6).toFixed(1);
  if (stream.isTTY === true && 'cursorTo' in stream) {
    const bar = new SingleBar({ stream, format: `${title} {bar} {done}/{all} MB`, hideCursor: true }, Presets.shades_classic);
    const shown = { started: false };
    return {
      update(done, total) {
        const payload = { done: mb(done), all: mb(total) };
        if (shown.started) bar.update(done, payload);
        else bar.start(total, done, payload);
        shown.started = true;
      },
      stop: () => bar.stop(),
    };
  }
  const shown = { tenths: -1 };
  return {
    update(done, total) {
      const tenths = Math.floor((10 * done) / total);
      if (tenths > shown.tenths) stream.write(`${title} ${mb(done)}/${mb(total)} MB\n`);
      shown.tenths = Math.max(shown.tenths, tenths);
    },
    stop: () => {},
  };
}
