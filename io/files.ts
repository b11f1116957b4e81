// Files on disk: read a safetensors file tensor by tensor, and replace a file so that a crash leaves the old one or the new one.
import { randomBytes } from 'node:crypto';
import { access, type FileHandle, open, rename, rm, stat } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import type { Data } from '../core/tensor.ts';
import { decodeNumbers, NumberError } from './numbers.ts';
import { type Entry, encode, type Header, headerLength, parseHeader, SafetensorsError, type Writable } from './safetensors.ts';

export interface TensorFile extends Header, AsyncDisposable {
  readonly path: string;
  /** The numbers of one tensor, read now. Halves widen to float32, I64 to float64. Throws when there is no such tensor. */
  read(name: string): Promise<Data>;
  /** Its bytes as stored. */
  bytes(name: string): Promise<Uint8Array>;
  close(): Promise<void>;
}

/** Opens a safetensors file and checks its header; tensors are read when asked for. Throws a SafetensorsError on a malformed file. */
export async function openSafetensors(path: string): Promise<TensorFile> {
  await mustBeFile(path);
  const handle = await open(path, 'r');
  try {
    const { size } = await handle.stat();
    const cut = (at: number, missing: number): Error =>
      new SafetensorsError(path, at, `the file ended ${missing} bytes early: it was cut while it was read`);
    const length = headerLength(await readAt(handle, 0, Math.min(8, size), cut), size, path);
    const header = parseHeader(await readAt(handle, 8, length, cut), size, path);
    const entry = (name: string): Entry => {
      const e = header.entries.get(name);
      if (e === undefined) throw new RangeError(`${path}: has no tensor ${name}; it has ${some([...header.entries.keys()])}`);
      return e;
    };
    const bytes = async (name: string): Promise<Uint8Array> => {
      const { start, end } = entry(name);
      return readAt(handle, start, end - start, cut);
    };
    const read = async (name: string): Promise<Data> => {
      const raw = await bytes(name);
      const { dtype, start } = entry(name);
      try {
        return decodeNumbers(raw, dtype);
      } catch (e) {
        if (!(e instanceof NumberError)) throw e;
        throw new SafetensorsError(path, start + 8 * e.index, `${JSON.stringify(name)}: ${e.message}`);
      }
    };
    const close = (): Promise<void> => handle.close();
    return { path, ...header, bytes, read, close, [Symbol.asyncDispose]: close };
  } catch (e) {
    await handle.close();
    throw e;
  }
}
export const some = (names: readonly string[]): string =>
  names.length === 0 ? 'none' : names.length > 8 ? `${names.slice(0, 8).join(', ')}, … (${names.length})` : names.join(', ');

/** `length` bytes from byte `from` on; `cut` makes the error when the file ends before them. */
export async function readAt(
  handle: FileHandle,
  from: number,
  length: number,
  cut: (at: number, missing: number) => Error,
): Promise<Uint8Array> {
  const buffer = new Uint8Array(length); // never more than the file's size: headers are checked first
  for (let done = 0; done < length; ) {
    const { bytesRead } = await handle.read(buffer, done, length - done, from + done);
    if (bytesRead === 0) throw cut(from + done, length - done);
    done += bytesRead;
  }
  return buffer;
}

/** Every tensor of a small safetensors file. */
export async function readSafetensors(path: string): Promise<{ metadata: ReadonlyMap<string, string>; tensors: Map<string, Writable> }> {
  await using file = await openSafetensors(path);
  const tensors = new Map<string, Writable>();
  for (const e of file.entries.values()) tensors.set(e.name, { data: await file.read(e.name), shape: e.shape, dtype: e.dtype });
  return { metadata: file.metadata, tensors };
}

/** Replaces `path` by a safetensors file of these tensors, wholly or not at all. */
export const writeSafetensors = (
  path: string,
  tensors: ReadonlyMap<string, Writable>,
  metadata: ReadonlyMap<string, string> = new Map(),
  disk: Disk = local,
): Promise<void> => writeAtomic(path, encode(tensors, metadata), disk);

/** The part of the file system that writing needs; tests put failures here. */
export interface Disk {
  open(path: string, flags: string): Promise<Pick<FileHandle, 'write' | 'sync' | 'close'>>;
  rename(from: string, to: string): Promise<void>;
  remove(path: string): Promise<void>;
}
const local: Disk = { open, rename, remove: (path) => rm(path, { force: true }) };

/**
 * Writes beside `path`, flushes to the disk, then renames: whoever reads `path` sees the old file or the new one, whole.
 * On failure the old file is as it was, the temporary file is gone, and the error says what to do.
 */
export async function writeAtomic(path: string, pieces: Iterable<Uint8Array>, disk: Disk = local): Promise<void> {
  const temporary = join(dirname(path), `.${basename(path)}.${randomBytes(6).toString('hex')}.tmp`);
  let written = 0;
  try {
    const handle = await disk.open(temporary, 'wx');
    try {
      for (const piece of pieces) {
        for (let done = 0; done < piece.length; ) {
          const { bytesWritten } = await handle.write(piece, done, piece.length - done);
          done += bytesWritten;
          written += bytesWritten;
        }
      }
      await handle.sync();
    } finally {
      await handle.close();
    }
    await disk.rename(temporary, path);
  } catch (e) {
    await disk.remove(temporary).catch(() => {}); // the first error is the one to tell
    throw explained(e, path, written);
  }
  await syncFolder(dirname(path));
}

/** Makes the rename itself survive a power cut. Some systems cannot open folders; there the rename is as safe as they make it. */
async function syncFolder(folder: string): Promise<void> {
  try {
    const handle = await open(folder, 'r');
    try {
      await handle.sync();
    } finally {
      await handle.close();
    }
  } catch {
    // EISDIR, EPERM or EINVAL on systems without folder handles
  }
}

const REMEDY: Readonly<Record<string, string>> = {
  ENOSPC: 'the disk is full: free some space, or choose another folder',
  EDQUOT: 'your quota on this disk is used up: free some space, or choose another folder',
  EFBIG: 'the file would be larger than this system allows',
  EACCES: 'the folder is not writable for you: change its permissions, or choose another folder',
  EPERM: 'the folder is not writable for you: change its permissions, or choose another folder',
  EROFS: 'the disk is mounted read-only: choose another folder',
  ENOENT: 'the folder does not exist: create it first',
  ENOTDIR: 'a part of the path is a file, not a folder',
  EISDIR: 'a folder of this name exists: choose another name',
};
function explained(e: unknown, path: string, written: number): Error {
  const code = e instanceof Error && 'code' in e ? String(e.code) : '';
  const remedy = REMEDY[code];
  if (remedy === undefined) return e instanceof Error ? e : new Error(String(e));
  return new Error(`cannot write ${path} (${code} after ${written} bytes): ${remedy}. What was there before is unchanged`, { cause: e });
}

/**
 * Refuses what is there and no file: a folder, whose error would not name it, or a pipe, which would be waited for without end. What is not
 * there is left to whoever opens it.
 */
export async function mustBeFile(path: string): Promise<void> {
  const found = await stat(path).catch(() => null);
  if (found === null || found.isFile()) return;
  const what = found.isDirectory() ? 'a folder' : found.isFIFO() ? 'a pipe' : found.isSocket() ? 'a socket' : 'a device';
  throw new Error(`${path}: is ${what}, not a file; put the file itself there`);
}

/** Whether a file or folder is there and may be seen. */
export const exists = (path: string): Promise<boolean> =>
  access(path).then(
    () => true,
    () => false,
  );
