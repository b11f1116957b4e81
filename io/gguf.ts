// GGUF files on disk: the header checked when the file is opened, tensors read when they are asked for.
import { open } from 'node:fs/promises';
import { mustBeFile, readAt, some } from './files.ts';
import { decodeBlocks } from './ggufBlocks.ts';
import { type GgufEntry, GgufError, type GgufHeader, readGgufHeader } from './ggufHeader.ts';

export interface GgufFile extends GgufHeader, AsyncDisposable {
  readonly path: string;
  /** Where a tensor lies. Throws when there is no such tensor. */
  entry(name: string): GgufEntry;
  /** The numbers of one tensor, row by row, read and unpacked now. At most 13 times the tensor's bytes in the file (Q2_K). */
  read(name: string): Promise<Float32Array>;
  /** Its bytes as stored. */
  bytes(name: string): Promise<Uint8Array>;
  close(): Promise<void>;
}

/** Opens a GGUF file and checks its header. Throws a GgufError on a malformed file. */
export async function openGguf(path: string): Promise<GgufFile> {
  await mustBeFile(path);
  const handle = await open(path, 'r');
  const cut = (at: number, missing: number): Error =>
    new GgufError(path, at, `the file ended ${missing} bytes early: it was cut while it was read`);
  const read = (from: number, length: number): Promise<Uint8Array> => readAt(handle, from, length, cut);
  try {
    const { size } = await handle.stat();
    const header = await readGgufHeader(read, size, path);
    const entry = (name: string): GgufEntry => {
      const e = header.entries.get(name);
      if (e === undefined) throw new RangeError(`${path}: has no tensor ${name}; it has ${some([...header.entries.keys()])}`);
      return e;
    };
    const bytes = async (name: string): Promise<Uint8Array> => {
      const { start, end } = entry(name);
      return read(start, end - start);
    };
    const close = (): Promise<void> => handle.close();
    return {
      ...header,
      ...{ path, entry, bytes, close, [Symbol.asyncDispose]: close },
      read: async (name) => decodeBlocks(await bytes(name), entry(name).format),
    };
  } catch (e) {
    await handle.close();
    throw e;
  }
}
