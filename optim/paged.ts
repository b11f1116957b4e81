// The paged optimizer: states in pages of memory under a budget, the least recently used spilled to a file and read back when their turn comes.
// The steps are those of the optimizer it wraps, bit for bit; what is bounded is the memory between and during them.
// Dettmers et al. 2023 (QLoRA), arXiv 2305.14314, §3, where the driver of the GPU moves the pages.
import type { Data } from '../core/tensor.ts';
import { asNumbers, type Pieces, type Shelf } from './keep.ts';
import type { Optimizer } from './optimizer.ts';

/** Where pages go that the budget has no room for. A page read was written before, whole. */
export interface PageFile {
  read(page: number, into: Uint8Array): Promise<void>;
  write(page: number, from: Uint8Array): Promise<void>;
  close(): Promise<void>;
}
export interface Paging {
  /** Bytes of pages in memory at most; at least one page. */
  readonly budget: number;
  /** Bytes of a page: 1 MiB. */
  readonly page?: number;
  /** Opened once by every trainer; `pageFolder` (io/pageFolder.ts) keeps pages on disk. */
  readonly spill: () => Promise<PageFile>;
}

/** The same optimizer with its states in pages. Wraps 8-bit optimizers too. */
export function paged(optimizer: Optimizer, { budget, page = 2 ** 20, spill }: Paging): Optimizer {
  if (!(Number.isInteger(page) && page >= 1)) throw new RangeError(`paged: a page must be a whole number of bytes from 1, got ${page}`);
  if (!(budget >= page))
    throw new RangeError(`paged: a budget of ${budget} bytes has no room for a page of ${page}; raise it, or choose smaller pages`);
  const most = Math.floor(budget / page);
  return { ...optimizer, keep: { codec: optimizer.keep?.codec ?? asNumbers, open: async () => shelf(await spill(), page, most) } };
}

interface Part {
  readonly name: string;
  readonly like: Data; // empty, of the part's type
  readonly from: number; // byte in the row of all pages
  readonly length: number; // of numbers
}

function shelf(file: PageFile, size: number, most: number): Shelf {
  const pages = new Map<number, { readonly bytes: Uint8Array; dirty: boolean }>(); // least recently used first
  const written = new Set<number>();
  const places = new Map<string, readonly Part[]>();
  let [end, ins, outs] = [0, 0, 0];

  /** Memory for one more page: new while the budget lasts, then that of the least recently used, whose bytes are safe by then. */
  const room = async (): Promise<Uint8Array> => {
    const oldest = pages.size < most ? undefined : [...pages.entries()][0];
    if (oldest === undefined) return new Uint8Array(size);
    const [n, { bytes, dirty }] = oldest;
    if (dirty) {
      await file.write(n, bytes);
      written.add(n);
      outs++;
    }
    pages.delete(n);
    return bytes;
  };
  const page = async (n: number): Promise<{ readonly bytes: Uint8Array; dirty: boolean }> => {
    const known = pages.get(n);
    const one = known ?? { bytes: await room(), dirty: false };
    if (known === undefined && written.has(n)) {
      await file.read(n, one.bytes);
      ins++;
    } else if (known === undefined) one.bytes.fill(0);
    pages.delete(n);
    pages.set(n, one);
    return one;
  };
  /** Bytes to or from a stretch that may cross pages. */
  const move = async (from: number, data: Data, write: boolean): Promise<void> => {
    const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
    for (let done = 0; done < bytes.length; ) {
      const [n, at] = [Math.floor((from + done) / size), (from + done) % size];
      const some = Math.min(size - at, bytes.length - done);
      const one = await page(n);
      if (write) {
        one.bytes.set(bytes.subarray(done, done + some), at);
        one.dirty = true;
      } else bytes.set(one.bytes.subarray(at, at + some), done);
      done += some;
    }
  };
  const reserve = (pieces: Pieces): readonly Part[] =>
    Object.entries(pieces).map(([name, d]) => {
      const from = end;
      end += d.byteLength;
      return { name, like: d.slice(0, 0), from, length: d.length };
    });
  return {
    put: async (key, pieces) => {
      const parts = places.get(key) ?? reserve(pieces);
      places.set(key, parts);
      for (const { name, like, from, length } of parts) {
        const d = pieces[name];
        if (d === undefined || d.length !== length || d.BYTES_PER_ELEMENT !== like.BYTES_PER_ELEMENT)
          throw new Error(`unreachable: ${key} ${name} has another size than before`);
        await move(from, d, true);
      }
    },
    take: async (key) => {
      const pieces: Record<string, Data> = {};
      for (const { name, like, from, length } of places.get(key) ?? []) {
        const d = fresh(like, length);
        await move(from, d, false);
        pieces[name] = d;
      }
      return pieces;
    },
    get report() {
      return { stored: end, resident: pages.size * size, ins, outs };
    },
    close: async () => {
      pages.clear();
      await file.close();
    },
  };
}

/** An array of the same type. */
function fresh(like: Data, length: number): Data {
  if (like instanceof Float32Array) return new Float32Array(length);
  if (like instanceof Float64Array) return new Float64Array(length);
  if (like instanceof Uint8Array) return new Uint8Array(length);
  return like instanceof Int8Array ? new Int8Array(length) : new Int32Array(length);
}
