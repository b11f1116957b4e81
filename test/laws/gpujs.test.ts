// The ops on gpu.js: modes cpu and webasm everywhere, webgpu where an adapter answers and counted as skipped elsewhere.
import { describe, it } from 'vitest';
import { gpujsEngine } from '../../core/engines/gpujs.ts';
import { opLaws } from './engineLaws.ts';

opLaws('gpujs cpu', () => gpujsEngine({ mode: 'cpu' }), { roundings: 1, runs: 3 });
opLaws('gpujs webasm', () => gpujsEngine({ mode: 'webasm' }), { roundings: 2, runs: 3 });

/** Why there is no WebGPU here, or null when there is. */
const missing = await gpujsEngine({ mode: 'webgpu' }).then(
  async (engine) => {
    await engine.close();
    return null;
  },
  (e: unknown) => (e instanceof Error ? e.message : String(e)),
);
if (missing === null) opLaws('gpujs webgpu', () => gpujsEngine({ mode: 'webgpu' }), { roundings: 8, runs: 3 });
else {
  console.warn(`SKIPPED: the laws of the ops on webgpu. ${missing}`);
  describe('ops on gpujs webgpu', () => {
    it.skip(`all: ${missing}`, () => {});
  });
}
