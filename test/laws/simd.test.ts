// The ops on the simd engine: one thread and two, with and without relaxed SIMD.
import { simd } from '../../core/engines/simd.ts';
import { opLaws } from './engineLaws.ts';

opLaws('simd, one thread', () => simd({ threads: 1 }), { roundings: 4, runs: 5 });
opLaws('simd, two threads', () => simd({ threads: 2 }), { roundings: 4, runs: 3 });
opLaws('simd, plain multiply and add', () => simd({ threads: 1, relaxed: false }), { roundings: 4, runs: 3 });
