// The engine's one memory: blocks handed out and taken back by size class, so that a training step reuses what the last
// one used.

export interface Block {
  readonly at: number; // byte address
  readonly bytes: number;
}
export interface Arena {
  alloc(bytes: number): Block;
  free(b: Block): void;
  floats(b: Block, n: number): Float32Array;
  words(b: Block): Int32Array;
  bytes(b: Block, n: number): Uint8Array;
  /** Memory that workers share stays where it is when it grows: arrays in it remain valid. */
  readonly shared: boolean;
  /** Bytes handed out now, and the most the memory has held. */
  readonly used: number;
  readonly held: number;
}
const PAGE = 65536;
const ALIGN = 64;

/** Four classes to each doubling: at most a quarter is wasted, and tables of changing sizes meet again. */
function classOf(bytes: number): number {
  const n = Math.max(ALIGN, bytes + 16); // four floats of room: a vector may be read past a row's end
  const step = Math.max(ALIGN, 2 ** (Math.floor(Math.log2(n)) - 2));
  return Math.ceil(n / step) * step;
}

export function arena(memory: WebAssembly.Memory, from: number, limit: number): Arena {
  const idle = new Map<number, number[]>();
  let top = Math.ceil(from / ALIGN) * ALIGN;
  let used = 0;
  const reserve = (bytes: number): number => {
    const at = top;
    const missing = at + bytes - memory.buffer.byteLength;
    if (at + bytes > limit) throw outOfMemory(bytes, used, limit);
    if (missing > 0) {
      try {
        memory.grow(Math.ceil(missing / PAGE));
      } catch {
        throw outOfMemory(bytes, used, limit);
      }
    }
    top += bytes;
    return at;
  };
  return {
    alloc(bytes) {
      const size = classOf(bytes);
      const at = idle.get(size)?.pop() ?? reserve(size);
      used += size;
      return { at, bytes: size };
    },
    free(b) {
      used -= b.bytes;
      const list = idle.get(b.bytes) ?? [];
      list.push(b.at);
      idle.set(b.bytes, list);
    },
    floats: (b, n) => new Float32Array(memory.buffer, b.at, n),
    words: (b) => new Int32Array(memory.buffer, b.at, b.bytes >> 2),
    bytes: (b, n) => new Uint8Array(memory.buffer, b.at, n),
    shared: typeof SharedArrayBuffer !== 'undefined' && memory.buffer instanceof SharedArrayBuffer,
    get used() {
      return used;
    },
    get held() {
      return top;
    },
  };
}

const mib = (bytes: number): string => `${(bytes / 2 ** 20).toFixed(1)} MiB`;
const outOfMemory = (bytes: number, used: number, limit: number): Error =>
  new RangeError(
    `simd engine: ${mib(bytes)} more were needed, but ${mib(used)} of at most ${mib(limit)} are in use. Make the batch or the sequence smaller, checkpoint the blocks, or raise memoryLimit`,
  );
