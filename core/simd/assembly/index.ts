// Runs a program: a list of steps in memory, which every thread walks together with a barrier after each.
import {
  ARGMAX, CAUSAL, COPY, FILL, GATHER, IOTA, LOGSUMEXP, MAP, MATMUL, MAX, ONE_HOT, PUT_ALONG, QUARTER, SCATTER_ADD, SUM, TAKE_ALONG,
  ATTEND, ATTEND_BACK, GATHER_PACKED, MATMUL_PACKED, NORM, NORM_BACK, NORM_GAIN, SOFTMAX, SOFTMAX_BACK, UNPACK,
} from '../opcodes';
import { attend, attendBack } from './attention';
import { map } from './map';
import { matmul } from './matmul';
import { causal, copy, fillAll, gather, iota, oneHot, putAlong, quarterTurn, scatterAdd, takeAlong } from './move';
import { matmulPacked } from './packed';
import { reduce } from './reduce';
import { gatherPacked, unpack } from './unpack';
import { norm, normBack, normGain, softmaxRows, softmaxRowsBack } from './rows';
import { barrier } from './barrier';

/** `control`: two words for the barrier. Thread 0 is the caller. */
export function run(program: usize, end: usize, tid: i32, threads: i32, scratch: usize, control: usize): void {
  let p = program;
  while (p < end) {
    const op = load<i32>(p), words = load<i32>(p, 4);
    const q = p + 8;
    switch (op) {
      case MAP: map(q, tid, threads, scratch); break;
      case MATMUL: matmul(q, tid, threads, scratch); break;
      case SUM: case MAX: case LOGSUMEXP: case ARGMAX: reduce(op, q, tid, threads); break;
      case COPY: copy(q, tid, threads); break;
      case FILL: fillAll(q, tid, threads); break;
      case GATHER: gather(q, tid, threads); break;
      case SCATTER_ADD: scatterAdd(q, tid, threads); break;
      case TAKE_ALONG: takeAlong(q, tid, threads); break;
      case PUT_ALONG: putAlong(q, tid, threads); break;
      case ONE_HOT: oneHot(q, tid, threads); break;
      case IOTA: iota(q, tid, threads); break;
      case CAUSAL: causal(q, tid, threads); break;
      case QUARTER: quarterTurn(q, tid, threads); break;
      case UNPACK: unpack(q, tid, threads); break;
      case GATHER_PACKED: gatherPacked(q, tid, threads); break;
      case MATMUL_PACKED: matmulPacked(q, tid, threads, scratch); break;
      case SOFTMAX: softmaxRows(q, tid, threads); break;
      case SOFTMAX_BACK: softmaxRowsBack(q, tid, threads); break;
      case NORM: norm(q, tid, threads); break;
      case NORM_BACK: normBack(q, tid, threads); break;
      case NORM_GAIN: normGain(q, tid, threads); break;
      case ATTEND: attend(q, tid, threads, scratch); break;
      case ATTEND_BACK: attendBack(q, tid, threads, scratch); break;
      default: unreachable();
    }
    p += <usize>words << 2;
    if (threads > 1) barrier(control, threads);
  }
}
