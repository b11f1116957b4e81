// Pages of a paged optimizer on disk: a folder of one process's own, one file per page, each replaced wholly or not at all.
import { createHash, randomBytes } from 'node:crypto';
import { mkdir, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { PageFile } from '../optim/paged.ts';

const FOLDER = /^tinypeft-pages-(\d+)-[0-9a-f]+$/; // process, something random
const PAGE = /^page-(\d+)$/;
const HEADER = 4 + 20; // number of the page, SHA-1 of its bytes

/** Where pages are kept, for `paged(optimizer, { spill: pageFolder() })`. */
export interface PageFolder extends PageFile {
  readonly folder: string;
}

/**
 * Opens a folder for pages within `parent` (the system's folder for temporary files), and removes those that processes left which no longer
 * run. Closing removes the folder. A page is written beside its place and then renamed, and carries its number and a checksum: what is read
 * is whole, or it is an error.
 */
export const pageFolder =
  (parent: string = tmpdir()) =>
  async (): Promise<PageFolder> => {
    await mkdir(parent, { recursive: true });
    await removeAbandoned(parent);
    const folder = join(parent, `tinypeft-pages-${process.pid}-${randomBytes(6).toString('hex')}`);
    await mkdir(folder);
    const place = (n: number): string => join(folder, `page-${n}`);
    return {
      folder,
      write: async (n, from) => {
        const temporary = `${place(n)}.${randomBytes(4).toString('hex')}.tmp`;
        try {
          await writeFile(temporary, Buffer.concat([headerOf(n, from), from]), { flag: 'wx' });
          await rename(temporary, place(n));
        } catch (e) {
          await rm(temporary, { force: true }).catch(() => {}); // the first error is the one to tell
          throw new Error(
            `cannot write page ${n} of ${from.length} bytes to ${folder}; free some space, or give pageFolder another folder`,
            {
              cause: e,
            },
          );
        }
      },
      read: async (n, into) => void into.set(await readPage(place(n), n, into.length)),
      close: () => rm(folder, { recursive: true, force: true }),
    };
  };

function headerOf(n: number, bytes: Uint8Array): Uint8Array {
  const number = new Uint8Array(4);
  new DataView(number.buffer).setUint32(0, n, true);
  return Buffer.concat([number, createHash('sha1').update(bytes).digest()]);
}

/** The bytes of a page, or an error that says why they are not those that were written. */
export async function readPage(path: string, n: number, length: number): Promise<Uint8Array> {
  const all = await readFile(path).catch((e: unknown) => {
    throw new Error(`page ${n} is not at ${path}: somebody removed it while a training used it; load the last saved state`, { cause: e });
  });
  const bytes = all.subarray(HEADER);
  if (all.length !== HEADER + length || !Buffer.from(headerOf(n, bytes)).equals(all.subarray(0, HEADER)))
    throw new Error(`${path} is not page ${n} of ${length} bytes as it was written; load the last saved state`);
  return bytes;
}

/** Numbers of the pages in a folder: finished ones only. */
export const pagesIn = async (folder: string): Promise<number[]> =>
  (await readdir(folder)).flatMap((name) => (PAGE.test(name) ? [Number(PAGE.exec(name)![1])] : []));

/** Removes folders of processes that do not run any more. */
async function removeAbandoned(parent: string): Promise<void> {
  for (const name of await readdir(parent)) {
    const pid = FOLDER.exec(name)?.[1];
    if (pid !== undefined && !runs(Number(pid))) await rm(join(parent, name), { recursive: true, force: true });
  }
}
function runs(pid: number): boolean {
  try {
    process.kill(pid, 0); // signal 0 only asks
    return true;
  } catch (e) {
    return e instanceof Error && 'code' in e && e.code === 'EPERM'; // somebody else's
  }
}
