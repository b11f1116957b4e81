// A hub on this machine: addresses, redirections, headers and refusals of huggingface.co, with a store of large files of another origin.
import { createHash } from 'node:crypto';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';

export interface Asked {
  readonly method: string;
  readonly where: 'hub' | 'store';
  readonly path: string;
  readonly range: string | null;
  readonly token: string | null;
}
export interface HubFile {
  readonly bytes: Uint8Array;
  readonly large?: boolean; // in the store, named by its SHA-256; else git has it
}
/** What goes wrong, once for each entry, in this order; `null` is an answer as it should be. */
export type Fault = null | 'cut' | 'wrong' | 'busy' | 'no ranges' | 'too much' | 'gone';
export interface Hub extends AsyncDisposable {
  readonly endpoint: string;
  readonly asked: Asked[];
  readonly faults: Fault[];
  readonly commit: string;
  /** Headers given in place of the right ones. */
  readonly lies: Map<string, string>;
}
export interface HubOptions {
  readonly id: string;
  readonly files: ReadonlyMap<string, HubFile>;
  readonly token?: string; // a private repository
  readonly gated?: boolean;
  readonly renamed?: string; // an old name, redirected
  readonly commit?: string;
}

export const sha256 = (b: Uint8Array): string => createHash('sha256').update(b).digest('hex');
export const gitBlob = (b: Uint8Array): string => createHash('sha1').update(`blob ${b.length}\0`).update(b).digest('hex');

const listening = async (server: Server): Promise<string> => {
  await new Promise<void>((done) => server.listen(0, '127.0.0.1', done));
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
};

export async function hub({ id, files, token, gated = false, renamed, commit = 'c0ffee'.padEnd(40, '0') }: HubOptions): Promise<Hub> {
  const asked: Asked[] = [];
  const faults: Fault[] = [];
  const lies = new Map<string, string>();
  const note = (where: Asked['where'], q: IncomingMessage): void => {
    asked.push({ method: q.method!, where, path: q.url!, range: q.headers.range ?? null, token: q.headers.authorization ?? null });
  };
  /** The bytes, or a part of them, or what a fault makes of them. */
  const body = (q: IncomingMessage, a: ServerResponse, bytes: Uint8Array, headers: Record<string, string>): void => {
    const fault = q.method === 'GET' ? (faults.shift() ?? null) : null;
    const from = fault === 'no ranges' ? 0 : Number(/^bytes=(\d+)-$/.exec(q.headers.range ?? '')?.[1] ?? 0);
    if (fault === 'busy' || fault === 'gone') {
      a.writeHead(fault === 'busy' ? 503 : 404).end();
      return;
    }
    if (from >= bytes.length && from > 0) {
      a.writeHead(416).end();
      return;
    }
    const part = fault === 'wrong' ? bytes.slice(from).fill(7) : fault === 'too much' ? Buffer.concat([bytes, bytes]) : bytes.slice(from);
    const range: Record<string, string> = from > 0 ? { 'content-range': `bytes ${from}-${bytes.length - 1}/${bytes.length}` } : {};
    a.writeHead(from > 0 ? 206 : 200, { 'content-length': String(part.length), ...range, ...headers });
    if (q.method === 'HEAD') a.end();
    else if (fault === 'cut')
      a.write(part.slice(0, Math.ceil(part.length / 2)), () => q.socket.end()); // all of it arrives, then the connection ends
    else a.end(part);
  };

  const store = createServer((q, a) => {
    note('store', q);
    const file = [...files.values()].find((f) => q.url === `/${sha256(f.bytes)}`);
    if (file === undefined) a.writeHead(404).end();
    else body(q, a, file.bytes, {});
  });
  const storeAt = await listening(store);
  const front = createServer((q, a) => {
    note('hub', q);
    const m = /^\/(.+)\/resolve\/([^/]+)\/(.+)$/.exec(q.url!);
    const refuse = (status: number, code: string, more: object = {}): void =>
      void a.writeHead(status, { 'x-error-code': code, 'x-error-message': code, ...more }).end();
    if (m === null) return refuse(404, 'RepoNotFound');
    const [repo, revision, name] = m.slice(1).map(decodeURIComponent) as [string, string, string];
    if (repo === renamed) return void a.writeHead(307, { location: q.url!.replace(renamed, id) }).end();
    const may = token === undefined || q.headers.authorization === `Bearer ${token}`;
    if (repo !== id || !may) return refuse(401, 'RepoNotFound'); // so that nobody learns which names exist
    if (gated) return refuse(403, 'GatedRepo');
    if (revision !== 'main' && revision !== commit) return refuse(404, 'RevisionNotFound');
    const file = files.get(name);
    if (file === undefined) return refuse(404, 'EntryNotFound', { 'x-repo-commit': commit });
    const [large, etag] = [file.large === true, file.large === true ? sha256(file.bytes) : gitBlob(file.bytes)];
    const own: Record<string, string> = large
      ? {
          'x-repo-commit': commit,
          'x-linked-etag': `"${etag}"`,
          'x-linked-size': String(file.bytes.length),
          location: `${storeAt}/${etag}`,
        }
      : { 'x-repo-commit': commit, etag: `W/"${etag}"` };
    for (const [k, v] of lies) if (k in own) own[k] = v;
    if (large) return void a.writeHead(302, own).end();
    return body(q, a, file.bytes, own);
  });
  const endpoint = await listening(front);
  return {
    ...{ endpoint, asked, faults, lies, commit },
    async [Symbol.asyncDispose]() {
      for (const s of [front, store]) {
        s.closeAllConnections();
        await new Promise((done) => s.close(done));
      }
    },
  };
}
