// The block formats of GGUF files and the numbers they stand for: one declaration per format. Nothing here touches a disk.
//   plain: w = d·(q − offset), or w = d·q + m, 32 numbers to a block;  K: w = d·s·q − dmin·m, 256 numbers with scales s, m of their own
//   per 16 or 32. d, m and dmin are halves, so every product here is exact in float32 and only the last subtraction may round.
// Formats of ggml (llama.cpp); the fixtures of test/io/gguf.test.ts are the values of the Python package `gguf`, bit for bit.
import { halfToFloat } from './numbers.ts';

export interface BlockFormat {
  readonly name: string;
  /** Its number in files. */
  readonly id: number;
  readonly numbers: number; // in one block
  readonly bytes: number; // of one block
  /** Writes the numbers of the block that starts at byte `at` to `out`, from `to` on. */
  readonly decode: (b: Uint8Array, at: number, out: Float32Array, to: number) => void;
}

const word = (b: Uint8Array, at: number): number => b[at]! | (b[at + 1]! << 8);
const half = (b: Uint8Array, at: number): number => halfToFloat(word(b, at));
const signed = (byte: number): number => (byte << 24) >> 24;
const float = new DataView(new ArrayBuffer(4));
const single = (bits: number): number => {
  float.setUint32(0, bits >>> 0);
  return float.getFloat32(0);
};

const f32: BlockFormat = {
  ...{ name: 'F32', id: 0, numbers: 1, bytes: 4 },
  decode: (b, at, out, to) => {
    out[to] = single(word(b, at) | (word(b, at + 2) << 16));
  },
};
const f16: BlockFormat = {
  ...{ name: 'F16', id: 1, numbers: 1, bytes: 2 },
  decode: (b, at, out, to) => {
    out[to] = half(b, at);
  },
};
const bf16: BlockFormat = {
  ...{ name: 'BF16', id: 30, numbers: 1, bytes: 2 },
  decode: (b, at, out, to) => {
    out[to] = single(word(b, at) << 16);
  },
};

/** Sixteen bytes of two codes each: the low halves are numbers 0 … 15, the high ones 16 … 31. */
const nibble = (b: Uint8Array, at: number, k: number): number => (k < 16 ? b[at + k]! & 15 : b[at + k - 16]! >> 4);
/** A fifth bit per code, in four bytes. */
const fifth = (b: Uint8Array, at: number, k: number): number => ((b[at + (k >> 3)]! >> (k & 7)) & 1) << 4;

const q4_0: BlockFormat = {
  ...{ name: 'Q4_0', id: 2, numbers: 32, bytes: 18 },
  decode: (b, at, out, to) => {
    const d = half(b, at);
    for (let k = 0; k < 32; k++) out[to + k] = d * (nibble(b, at + 2, k) - 8);
  },
};
const q4_1: BlockFormat = {
  ...{ name: 'Q4_1', id: 3, numbers: 32, bytes: 20 },
  decode: (b, at, out, to) => {
    const [d, m] = [half(b, at), half(b, at + 2)];
    for (let k = 0; k < 32; k++) out[to + k] = d * nibble(b, at + 4, k) + m;
  },
};
const q5_0: BlockFormat = {
  ...{ name: 'Q5_0', id: 6, numbers: 32, bytes: 22 },
  decode: (b, at, out, to) => {
    const d = half(b, at);
    for (let k = 0; k < 32; k++) out[to + k] = d * ((nibble(b, at + 6, k) | fifth(b, at + 2, k)) - 16);
  },
};
const q5_1: BlockFormat = {
  ...{ name: 'Q5_1', id: 7, numbers: 32, bytes: 24 },
  decode: (b, at, out, to) => {
    const [d, m] = [half(b, at), half(b, at + 2)];
    for (let k = 0; k < 32; k++) out[to + k] = d * (nibble(b, at + 8, k) | fifth(b, at + 4, k)) + m;
  },
};
const q8_0: BlockFormat = {
  ...{ name: 'Q8_0', id: 8, numbers: 32, bytes: 34 },
  decode: (b, at, out, to) => {
    const d = half(b, at);
    for (let k = 0; k < 32; k++) out[to + k] = d * signed(b[at + 2 + k]!);
  },
};

/** In Q2_K and Q3_K, number i of 256 has two bits: which of 64 bytes, and how far to shift it. */
const pairByte = (i: number): number => ((i >> 7) << 5) | (i & 31);
const pairShift = (i: number): number => ((i >> 5) & 3) << 1;

const q2K: BlockFormat = {
  ...{ name: 'Q2_K', id: 10, numbers: 256, bytes: 84 }, // scales and minima [16], codes [64], d, dmin
  decode: (b, at, out, to) => {
    const [d, dmin] = [half(b, at + 80), half(b, at + 82)];
    for (let i = 0; i < 256; i++) {
      const s = b[at + (i >> 4)]!;
      out[to + i] = d * (s & 15) * ((b[at + 16 + pairByte(i)]! >> pairShift(i)) & 3) - dmin * (s >> 4);
    }
  },
};
const q3K: BlockFormat = {
  ...{ name: 'Q3_K', id: 11, numbers: 256, bytes: 110 }, // high bits [32], low bits [64], scales [12], d
  decode: (b, at, out, to) => {
    const d = half(b, at + 108);
    for (let i = 0; i < 256; i++) {
      const k = i >> 4; // of 16 scales of six bits: four low ones in eight bytes, two high ones in four
      const low = k < 8 ? b[at + 96 + k]! & 15 : b[at + 88 + k]! >> 4;
      const scale = (low | (((b[at + 104 + (k & 3)]! >> ((k >> 2) << 1)) & 3) << 4)) - 32;
      const high = (b[at + (i & 31)]! >> (i >> 5)) & 1;
      out[to + i] = d * scale * (((b[at + 32 + pairByte(i)]! >> pairShift(i)) & 3) - (high === 1 ? 0 : 4));
    }
  },
};
/** Scale and minimum k of eight, six bits each, in twelve bytes (Q4_K, Q5_K). */
const scaleOf = (b: Uint8Array, at: number, k: number): number =>
  k < 4 ? b[at + k]! & 63 : (b[at + k + 4]! & 15) | ((b[at + k - 4]! >> 6) << 4);
const minimumOf = (b: Uint8Array, at: number, k: number): number =>
  k < 4 ? b[at + k + 4]! & 63 : (b[at + k + 4]! >> 4) | ((b[at + k]! >> 6) << 4);

const q4K: BlockFormat = {
  ...{ name: 'Q4_K', id: 12, numbers: 256, bytes: 144 }, // d, dmin, scales and minima [12], codes [128]
  decode: (b, at, out, to) => {
    const [d, dmin] = [half(b, at), half(b, at + 2)];
    for (let k = 0; k < 8; k++) {
      const [s, m] = [d * scaleOf(b, at + 4, k), dmin * minimumOf(b, at + 4, k)];
      const [from, shift] = [at + 16 + (k >> 1) * 32, (k & 1) * 4];
      for (let l = 0; l < 32; l++) out[to + 32 * k + l] = s * ((b[from + l]! >> shift) & 15) - m;
    }
  },
};
const q5K: BlockFormat = {
  ...{ name: 'Q5_K', id: 13, numbers: 256, bytes: 176 }, // d, dmin, scales and minima [12], fifth bits [32], codes [128]
  decode: (b, at, out, to) => {
    const [d, dmin] = [half(b, at), half(b, at + 2)];
    for (let k = 0; k < 8; k++) {
      const [s, m] = [d * scaleOf(b, at + 4, k), dmin * minimumOf(b, at + 4, k)];
      const [from, shift] = [at + 48 + (k >> 1) * 32, (k & 1) * 4];
      for (let l = 0; l < 32; l++) out[to + 32 * k + l] = s * (((b[from + l]! >> shift) & 15) | (((b[at + 16 + l]! >> k) & 1) << 4)) - m;
    }
  },
};
const q6K: BlockFormat = {
  ...{ name: 'Q6_K', id: 14, numbers: 256, bytes: 210 }, // low halves [128], high pairs [64], scales [16] with sign, d
  decode: (b, at, out, to) => {
    const d = half(b, at + 208);
    for (let i = 0; i < 256; i++) {
      const [side, quarter, l] = [i >> 7, (i >> 5) & 3, i & 31];
      const low = (b[at + 64 * side + 32 * (quarter & 1) + l]! >> (quarter < 2 ? 0 : 4)) & 15;
      const high = (b[at + 128 + 32 * side + l]! >> (2 * quarter)) & 3;
      out[to + i] = d * signed(b[at + 192 + (i >> 4)]!) * ((low | (high << 4)) - 32);
    }
  },
};

/** All formats that are read. */
export const BLOCK_FORMATS: readonly BlockFormat[] = [f32, f16, bf16, q4_0, q4_1, q5_0, q5_1, q8_0, q2K, q3K, q4K, q5K, q6K];

/** The numbers in the bytes of whole blocks. */
export function decodeBlocks(bytes: Uint8Array, format: BlockFormat): Float32Array {
  const n = bytes.length / format.bytes;
  if (!Number.isInteger(n))
    throw new RangeError(`decodeBlocks: ${bytes.length} bytes are no whole blocks of ${format.bytes} (${format.name})`);
  if (format === f32 && bytes.byteOffset % 4 === 0) return new Float32Array(bytes.buffer, bytes.byteOffset, n);
  const out = new Float32Array(n * format.numbers);
  for (let k = 0; k < n; k++) format.decode(bytes, k * format.bytes, out, k * format.numbers);
  return out;
}
