// Every method on the simd engine, on every network.
import { methodsOnSimd } from './onSimd.ts';

methodsOnSimd(() => true);
