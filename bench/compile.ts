// What compiling costs: a training step of a two-layer GPT compiled twice, the second time over other weights.
//   npx tsx bench/compile.ts [--engine NAME] [--mode NAME]
import { parseArgs } from 'node:util';
import { grad } from '../core/grad.ts';
import { type EngineChoice, openEngine } from '../core/open.ts';
import type { Program } from '../core/plan.ts';
import { rng } from '../core/rng.ts';
import { input, stateOf } from '../core/tensor.ts';
import { context } from '../nn/context.ts';
import { decoder, gpt2 } from '../nn/decoder.ts';
import { nextToken } from '../nn/losses.ts';
import { trainable } from '../nn/tree.ts';

const { values } = parseArgs({
  options: { engine: { type: 'string' }, mode: { type: 'string' }, help: { type: 'boolean', default: false } },
});

/** Loss and plain gradient step over fresh weights. */
function program(seed: number): Program<'loss'> {
  const model = decoder(gpt2({ vocabulary: 64, width: 64, layers: 2, heads: 4, positions: 64 }), rng(seed));
  const loss = nextToken(model, { ids: input('ids', [4, 32]), targets: input('targets', [4, 32]) }, context(32));
  const params = [...trainable(model).keys()];
  const grads = grad(loss, params.map(stateOf));
  return { outputs: { loss }, next: new Map(params.map((p, i) => [p, stateOf(p).sub(grads[i]!.mul(0.1))])) };
}

if (values.help)
  console.log(
    'npx tsx bench/compile.ts [--engine gpujs|simd|float64] [--mode webgpu|webasm|cpu]\n\nFirst and second compile of equal structures.',
  );
else {
  await using engine = await openEngine(values as EngineChoice);
  const { report } = engine;
  console.log(`${report.engine} (${report.mode}), Node ${process.version}`);
  const feed = { ids: new Int32Array(128).fill(1), targets: new Int32Array(128).fill(2) };
  const times: number[] = [];
  for (const seed of [1, 2, 3]) {
    const p = program(seed); // writing the recipe down is not compiling it
    const before = engine.stats.kernelsCompiled;
    const began = performance.now();
    const plan = await engine.compile(engine.store(), p);
    const compiled = performance.now() - began;
    await plan.run(feed); // gpu.js builds its kernels when they first run
    const ran = performance.now() - began;
    await plan.run(feed);
    const again = performance.now() - began - ran;
    times.push(ran - again);
    console.log(
      `compile ${seed}: ${(ran - again).toFixed(1)} ms (${compiled.toFixed(1)} before the first run), ${engine.stats.kernelsCompiled - before} kernels compiled of ${plan.report.kernels}`,
    );
  }
  console.log(`second ÷ first: ${((100 * times[1]!) / times[0]!).toFixed(1)} %`);
}
