// Every method on the simd engine, on one of the three networks by turns (all of them: methodsSimd.long.test.ts).
import { methodsOnSimd } from './onSimd.ts';

methodsOnSimd((method, network) => method % 3 === network);
