// A file from the network: resumed where an earlier try stopped, checked against its SHA-256, and put in its place whole or not at all.
import { createHash, type Hash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { mkdir, open, rename, rm, stat } from 'node:fs/promises';
import { dirname } from 'node:path';
import { Presets, SingleBar } from 'cli-progress';
import type { Output } from './progress.ts';

export interface DownloadOptions {
  /** What the whole file must hash to, as hexadecimal digits. */
  readonly sha256: string;
  /** How long the file is; a server that sends more is cut off. */
  readonly bytes: number;
  readonly onBytes?: (done: number, total: number) => void;
  readonly signal?: AbortSignal;
  readonly headers?: Readonly<Record<string, string>>;
  /** Tests put a server of their own here. */
  readonly fetch?: typeof fetch;
}

/**
 * Downloads `url` to `path`; what has come so far is in `path`.part, and a later call goes on from there. Throws when the server refuses,
 * sends too much or too little, or when the file is not the one expected (then the part is thrown away).
 */
export async function download(url: string, path: string, o: DownloadOptions): Promise<void> {
  const part = `${path}.part`;
  await mkdir(dirname(path), { recursive: true });
  const there = await stat(part).then(
    (s) => s.size,
    () => 0,
  );
  const kept = there <= o.bytes ? there : 0;
  const hash = kept > 0 ? await hashOf(part, kept) : createHash('sha256');
  if (kept < o.bytes) await receive(url, part, kept, hash, o);
  const got = hash.digest('hex');
  if (got !== o.sha256) {
    await rm(part, { force: true });
    throw new Error(
      `${url}: its SHA-256 is ${got}, expected ${o.sha256}: not the file wanted, or damaged on the way. It was thrown away; try again`,
    );
  }
  await rename(part, path);
}

async function receive(url: string, part: string, from: number, hash: Hash, o: DownloadOptions): Promise<void> {
  const range: Readonly<Record<string, string>> = from > 0 ? { range: `bytes=${from}-` } : {};
  const response = await (o.fetch ?? fetch)(url, { headers: { ...o.headers, ...range }, signal: o.signal ?? null }).catch((e: unknown) => {
    throw new Error(`${url}: no answer (${reason(e)}); what is there so far is kept`, { cause: e });
  });
  if (!response.ok || response.body === null) throw new Error(`${url}: the server answered ${response.status} ${response.statusText}`);
  const resumes = response.status === 206 && (response.headers.get('content-range') ?? '').startsWith(`bytes ${from}-`);
  if (from > 0 && !resumes) {
    await response.body.cancel();
    await rm(part, { force: true }); // a server that cannot resume, or another file: from the start
    throw new Error(`${url}: cannot be resumed at byte ${from}; the part was thrown away, try again`);
  }
  const handle = await open(part, from > 0 ? 'a' : 'w');
  let done = from;
  try {
    for await (const piece of response.body as AsyncIterable<Uint8Array>) {
      done += piece.length;
      if (done > o.bytes) throw new Error(`it sends more than the ${o.bytes} bytes expected`);
      await handle.write(piece);
      hash.update(piece);
      o.onBytes?.(done, o.bytes);
    }
    if (done < o.bytes) throw new Error(`it ended at ${done} of ${o.bytes} bytes`);
    await handle.sync();
  } catch (e) {
    throw new Error(`${url}: stopped (${reason(e)}); what is there so far is kept, so try again to go on from there`, { cause: e });
  } finally {
    await handle.close();
  }
}
const reason = (e: unknown): string => {
  const { message, cause } = e instanceof Error ? e : new Error(String(e));
  return cause instanceof Error ? `${message}: ${cause.message}` : message;
};

async function hashOf(path: string, bytes: number): Promise<Hash> {
  const hash = createHash('sha256');
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
  return (size === 0 ? createHash('sha256') : await hashOf(path, size)).digest('hex');
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
