// Chains of element-wise functions, run tile by tile: every value of a tile stays in the first-level cache, no result of
// the chain but the last is ever stored.
import {
  ABS, ADD, CONSTANT, COS, DIV, EQ, ERF, EXP, FLOOR, GE, GELU, GELU_SLOPE, GELU_TANH, GELU_TANH_SLOPE, GT, IDENTITY, LE, LOG, LT, MAXIMUM, MIN, MUL, NE, NEG, POW,
  RELU, RSQRT, SIGMOID, SIGN, SILU, SIN, SOFTPLUS, SQRT, SQUARE, SUB, TANH, TILE, WHERE,
} from '../opcodes';
import { madd } from './madd';
import { erf4, exp4, log4, logistic2, sigmoid4, sincos4, tanh4 } from './math';

@inline function c(x: f32): v128 { return f32x4.splat(x); }
@inline function truth(mask: v128): v128 { return v128.and(mask, c(1)); }

function fill(to: usize, x: f32, n: i32): void {
  const v = f32x4.splat(x);
  for (let i: usize = 0, end = <usize>n << 2; i < end; i += 16) v128.store(to + i, v);
}

/** One function over n floats (n rounded up to 4 may be computed; tiles have room). */
function apply(op: i32, to: usize, x: usize, y: usize, z: usize, n: i32): void {
  const end = <usize>n << 2;
  switch (op) {
    case IDENTITY: for (let i: usize = 0; i < end; i += 16) v128.store(to + i, v128.load(x + i)); break;
    case ADD: for (let i: usize = 0; i < end; i += 16) v128.store(to + i, f32x4.add(v128.load(x + i), v128.load(y + i))); break;
    case SUB: for (let i: usize = 0; i < end; i += 16) v128.store(to + i, f32x4.sub(v128.load(x + i), v128.load(y + i))); break;
    case MUL: for (let i: usize = 0; i < end; i += 16) v128.store(to + i, f32x4.mul(v128.load(x + i), v128.load(y + i))); break;
    case DIV: for (let i: usize = 0; i < end; i += 16) v128.store(to + i, f32x4.div(v128.load(x + i), v128.load(y + i))); break;
    case POW: for (let i: usize = 0; i < end; i += 16) v128.store(to + i, exp4(f32x4.mul(v128.load(y + i), log4(v128.load(x + i))))); break;
    case MIN: for (let i: usize = 0; i < end; i += 16) v128.store(to + i, f32x4.min(v128.load(x + i), v128.load(y + i))); break;
    case MAXIMUM: for (let i: usize = 0; i < end; i += 16) v128.store(to + i, f32x4.max(v128.load(x + i), v128.load(y + i))); break;
    case EQ: for (let i: usize = 0; i < end; i += 16) v128.store(to + i, truth(f32x4.eq(v128.load(x + i), v128.load(y + i)))); break;
    case NE: for (let i: usize = 0; i < end; i += 16) v128.store(to + i, truth(f32x4.ne(v128.load(x + i), v128.load(y + i)))); break;
    case LT: for (let i: usize = 0; i < end; i += 16) v128.store(to + i, truth(f32x4.lt(v128.load(x + i), v128.load(y + i)))); break;
    case LE: for (let i: usize = 0; i < end; i += 16) v128.store(to + i, truth(f32x4.le(v128.load(x + i), v128.load(y + i)))); break;
    case GT: for (let i: usize = 0; i < end; i += 16) v128.store(to + i, truth(f32x4.gt(v128.load(x + i), v128.load(y + i)))); break;
    case GE: for (let i: usize = 0; i < end; i += 16) v128.store(to + i, truth(f32x4.ge(v128.load(x + i), v128.load(y + i)))); break;
    case NEG: for (let i: usize = 0; i < end; i += 16) v128.store(to + i, f32x4.neg(v128.load(x + i))); break;
    case EXP: for (let i: usize = 0; i < end; i += 16) v128.store(to + i, exp4(v128.load(x + i))); break;
    case LOG: for (let i: usize = 0; i < end; i += 16) v128.store(to + i, log4(v128.load(x + i))); break;
    case SQRT: for (let i: usize = 0; i < end; i += 16) v128.store(to + i, f32x4.sqrt(v128.load(x + i))); break;
    case RSQRT: for (let i: usize = 0; i < end; i += 16) v128.store(to + i, f32x4.div(c(1), f32x4.sqrt(v128.load(x + i)))); break;
    case SQUARE: for (let i: usize = 0; i < end; i += 16) { const v = v128.load(x + i); v128.store(to + i, f32x4.mul(v, v)); } break;
    case SIN: for (let i: usize = 0; i < end; i += 16) v128.store(to + i, sincos4(v128.load(x + i), 0)); break;
    case COS: for (let i: usize = 0; i < end; i += 16) v128.store(to + i, sincos4(v128.load(x + i), 1)); break;
    case TANH: for (let i: usize = 0; i < end; i += 16) v128.store(to + i, tanh4(v128.load(x + i))); break;
    case SIGMOID: for (let i: usize = 0; i < end; i += 16) v128.store(to + i, sigmoid4(v128.load(x + i))); break;
    case SOFTPLUS: for (let i: usize = 0; i < end; i += 16) {
      const v = v128.load(x + i);
      v128.store(to + i, f32x4.add(f32x4.max(v, c(0)), log4(f32x4.add(c(1), exp4(f32x4.neg(f32x4.abs(v)))))));
    } break;
    case ABS: for (let i: usize = 0; i < end; i += 16) v128.store(to + i, f32x4.abs(v128.load(x + i))); break;
    case SIGN: for (let i: usize = 0; i < end; i += 16) { const v = v128.load(x + i); v128.store(to + i, f32x4.sub(truth(f32x4.gt(v, c(0))), truth(f32x4.lt(v, c(0))))); } break;
    case FLOOR: for (let i: usize = 0; i < end; i += 16) v128.store(to + i, f32x4.floor(v128.load(x + i))); break;
    case RELU: for (let i: usize = 0; i < end; i += 16) v128.store(to + i, f32x4.pmax(v128.load(x + i), c(0))); break;
    case SILU: for (let i: usize = 0; i < end; i += 16) { const v = v128.load(x + i); v128.store(to + i, f32x4.mul(v, sigmoid4(v))); } break;
    case ERF: for (let i: usize = 0; i < end; i += 16) v128.store(to + i, erf4(v128.load(x + i))); break;
    case GELU: for (let i: usize = 0; i < end; i += 16) {
      const v = v128.load(x + i);
      v128.store(to + i, f32x4.mul(f32x4.mul(v, c(0.5)), f32x4.add(c(1), erf4(f32x4.mul(v, c(0.70710678118))))));
    } break;
    case GELU_TANH: for (let i: usize = 0; i < end; i += 16) {
      const v = v128.load(x + i);
      const s = f32x4.mul(v, madd(c(-0.1029432397), f32x4.mul(v, v), c(-2.3022081987)));
      v128.store(to + i, f32x4.mul(v, logistic2(s)));
    } break;
    case GELU_SLOPE: for (let i: usize = 0; i < end; i += 16) {
      const v = v128.load(x + i);
      const density = f32x4.mul(c(0.3989422804), exp4(f32x4.mul(c(-0.5), f32x4.mul(v, v))));
      v128.store(to + i, madd(v, density, madd(c(0.5), erf4(f32x4.mul(v, c(0.70710678118))), c(0.5))));
    } break;
    case GELU_TANH_SLOPE: for (let i: usize = 0; i < end; i += 16) {
      const v = v128.load(x + i);
      const z = f32x4.mul(v, v);
      const s = logistic2(f32x4.mul(v, madd(c(-0.1029432397), z, c(-2.3022081987))));
      const rest = f32x4.mul(f32x4.mul(v, f32x4.sub(c(1), s)), madd(c(0.2140644488), z, c(1.5957691216)));
      v128.store(to + i, madd(s, rest, s));
    } break;
    case WHERE: for (let i: usize = 0; i < end; i += 16)
      v128.store(to + i, v128.bitselect(v128.load(y + i), v128.load(z + i), f32x4.ne(v128.load(x + i), c(0)))); break;
    default: unreachable();
  }
}

/** The row of an operand that row y of the result reads: lead dimensions with the operand's strides (0 where it is stretched). */
function rowOf(y: i32, lead: usize, n: i32): i32 {
  let row = 0;
  for (let k = n - 1; k >= 0; k--) {
    const length = load<i32>(lead + (<usize>k << 3)), stride = load<i32>(lead + (<usize>k << 3), 4);
    const q = y / length;
    row += (y - q * length) * stride;
    y = q;
  }
  return row;
}

/**
 * [out, rows, cols, reads, steps, lead,
 *  per read: pointer, rowStride, colStride, generic — rowStride in floats; generic ≠ 0: lead × (length, stride) follow at the end,
 *  per step: op, x, y, z — values below `reads` are operands, others earlier steps; a constant has its bits in x,
 *  lead × (length, stride) for every generic read in turn]
 */
export function map(p: usize, tid: i32, threads: i32, scratch: usize): void {
  const out = <usize>load<u32>(p), rows = load<i32>(p, 4), cols = load<i32>(p, 8);
  const reads = load<i32>(p, 12), steps = load<i32>(p, 16), lead = load<i32>(p, 20);
  const readAt = p + 24, stepAt = readAt + (<usize>reads << 4), leadAt = stepAt + (<usize>steps << 4);
  const tileBytes: usize = (TILE + 4) << 2;
  const pointers = scratch;                              // one pointer per value
  const tiles = scratch + 512;
  for (let s = 0; s < reads + steps; s++) store<u32>(pointers + (<usize>s << 2), <u32>(tiles + <usize>s * tileBytes));
  for (let s = 0; s < steps; s++) {                      // constants are filled once
    const at = stepAt + (<usize>s << 4);
    if (load<i32>(at) == CONSTANT) fill(tiles + <usize>(reads + s) * tileBytes, load<f32>(at, 4), TILE);
  }
  for (let r = 0; r < reads; r++) {
    const at = readAt + (<usize>r << 4);
    if (load<i32>(at, 4) == 0 && load<i32>(at, 8) == 0 && load<i32>(at, 12) == 0) fill(tiles + <usize>r * tileBytes, load<f32>(<usize>load<u32>(at)), TILE);
  }
  // Long single rows are shared by columns, tables by rows.
  const byColumn = rows < threads;
  const y0 = byColumn ? 0 : rows * tid / threads, y1 = byColumn ? rows : rows * (tid + 1) / threads;
  const blocks = (cols + 3) / 4;
  const c0 = byColumn ? <i32>(<i64>blocks * tid / threads) * 4 : 0, c1 = byColumn ? min(cols, <i32>(<i64>blocks * (tid + 1) / threads) * 4) : cols;
  for (let y = y0; y < y1; y++) {
    for (let x = c0; x < c1; x += TILE) {
      const n = min(TILE, c1 - x);
      let generic = leadAt;
      for (let r = 0; r < reads; r++) {
        const at = readAt + (<usize>r << 4);
        const rowStride = load<i32>(at, 4), colStride = load<i32>(at, 8), isGeneric = load<i32>(at, 12);
        if (rowStride == 0 && colStride == 0 && isGeneric == 0) continue;
        const row = isGeneric ? rowOf(y, generic, lead) : y;
        if (isGeneric) generic += <usize>lead << 3;
        const from = <usize>load<u32>(at) + (<usize>(row * rowStride) << 2);
        if (colStride) store<u32>(pointers + (<usize>r << 2), <u32>(from + (<usize>x << 2)));
        else fill(tiles + <usize>r * tileBytes, load<f32>(from), n);
      }
      const to = out + (<usize>y * <usize>cols + <usize>x << 2);
      for (let s = 0; s < steps; s++) {
        const at = stepAt + (<usize>s << 4);
        const op = load<i32>(at);
        if (op == CONSTANT && s < steps - 1) continue;
        const last = s == steps - 1;
        const tile = tiles + <usize>(reads + s) * tileBytes;
        if (op != CONSTANT) {
          const dest = last && (n & 3) == 0 ? to : tile;
          apply(op, dest,
            <usize>load<u32>(pointers + (<usize>load<i32>(at, 4) << 2)),
            <usize>load<u32>(pointers + (<usize>load<i32>(at, 8) << 2)),
            <usize>load<u32>(pointers + (<usize>load<i32>(at, 12) << 2)), n);
        }
        if (last && (op == CONSTANT || (n & 3) != 0)) memory.copy(to, tile, <usize>n << 2);
      }
    }
  }
}
