// Which engine opens, and what its report says about why.
import { afterEach, expect, it, vi } from 'vitest';
import { openEngine } from '../../core/open.ts';
import { leaf } from '../../core/tensor.ts';

afterEach(() => {
  vi.unstubAllGlobals();
  vi.unstubAllEnvs();
});

it('takes the simd engine where there is no hardware GPU, and says so', async () => {
  await using engine = await openEngine();
  if (engine.report.mode === 'webgpu') return; // a machine with a real GPU
  expect(engine.report).toMatchObject({ engine: 'simd', adapter: null });
  expect(engine.report.why).toMatch(/^no GPU: /);
});

it('falls back to gpu.js without WebAssembly SIMD, and says why once', async () => {
  vi.stubGlobal('WebAssembly', { ...WebAssembly, validate: () => false });
  await using engine = await openEngine();
  if (engine.report.mode === 'webgpu') return;
  expect(engine.report.engine).toBe('gpujs');
  expect(engine.report.why.match(/no simd engine: this runtime has no WebAssembly SIMD/g)).toHaveLength(1);
  vi.unstubAllGlobals();
  expect(await engine.item(leaf([1, 2, 3], [3]).sum())).toBe(6);
});

it('obeys the environment, and flags before it', async () => {
  vi.stubEnv('TINYPEFT_ENGINE', 'float64');
  await using oracle = await openEngine();
  expect(oracle.report.engine).toBe('float64');
  await using asked = await openEngine({ engine: 'simd' });
  expect(asked.report.engine).toBe('simd');
  vi.stubEnv('TINYPEFT_ENGINE', '');
  vi.stubEnv('TINYPEFT_GPU_MODE', 'cpu');
  await using cpu = await openEngine();
  expect(cpu.report).toMatchObject({ engine: 'gpujs', mode: 'cpu' });
});

it('refuses what it does not know, with what there is', async () => {
  vi.stubEnv('TINYPEFT_ENGINE', 'abacus');
  await expect(openEngine()).rejects.toThrow("there is no engine 'abacus'; choose one of gpujs, simd, float64");
});
