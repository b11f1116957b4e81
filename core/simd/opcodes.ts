// Numbers that the WebAssembly module and its caller agree on. Compiled by both languages.

// Steps of a program: [opcode, words, …]
export const MAP = 1;
export const MATMUL = 2;
export const SUM = 3;
export const MAX = 4;
export const LOGSUMEXP = 5;
export const COPY = 6; // strided copy
export const FILL = 7;
export const GATHER = 8;
export const SCATTER_ADD = 9;
export const TAKE_ALONG = 10;
export const PUT_ALONG = 11;
export const ONE_HOT = 12;
export const IOTA = 13;
export const ARGMAX = 14;
export const CAUSAL = 15;
export const QUARTER = 16;
export const UNPACK = 17;
export const GATHER_PACKED = 18;
export const MATMUL_PACKED = 19;
export const ATTEND = 20;
export const ATTEND_BACK = 21;
export const SOFTMAX = 22;
export const SOFTMAX_BACK = 23;
export const NORM = 24;
export const NORM_BACK = 25;
export const NORM_GAIN = 26;

// Forms of packed matrices, by the name core/ops/unpack.ts has for them. 0: not packed.
export const TABLE = 1;
export const SHIFTED = 2;
export const AFFINE = 3;
export const INT8 = 4;
export const F16 = 5;
export const BF16 = 6;

// Functions of a map, by the name of the op they compute.
export const CONSTANT = 0;
export const IDENTITY = 1;
export const ADD = 2;
export const SUB = 3;
export const MUL = 4;
export const DIV = 5;
export const POW = 6;
export const MIN = 7;
export const MAXIMUM = 8;
export const EQ = 9;
export const NE = 10;
export const LT = 11;
export const LE = 12;
export const GT = 13;
export const GE = 14;
export const NEG = 15;
export const EXP = 16;
export const LOG = 17;
export const SQRT = 18;
export const RSQRT = 19;
export const SQUARE = 20;
export const SIN = 21;
export const COS = 22;
export const TANH = 23;
export const SIGMOID = 24;
export const SOFTPLUS = 25;
export const ABS = 26;
export const SIGN = 27;
export const FLOOR = 28;
export const RELU = 29;
export const SILU = 30;
export const ERF = 31;
export const GELU = 32;
export const GELU_TANH = 33;
export const WHERE = 34;
export const GELU_SLOPE = 35;
export const GELU_TANH_SLOPE = 36;

/** Floats in a tile of a map: operands and results of one tile stay in the first-level cache. */
export const TILE = 256;
/** Most values (operands and steps) a map may hold at once. */
export const VALUES = 96;
/** Bytes each thread needs for tiles and packed panels. */
export const SCRATCH = 2097152;
