// One measurement of ours, in a process of its own: started by compare.ts, prints a line of JSON per measurement.
//   npx tsx bench/ours.ts W1|W2|W3|W4|W4h|W2-last [--threads 1] [--plain] [--engine simd|gpujs] [--mode webgpu] [--steps 6] [--warm 2] [--seconds 20]
import { parseArgs } from 'node:util';
import type { Engine } from '../core/engine.ts';
import { gpujsEngine } from '../core/engines/gpujs.ts';
import { simd } from '../core/engines/simd.ts';
import { matmul } from '../core/ops/matmul.ts';
import { leaf } from '../core/tensor.ts';
import { nextToken } from '../nn/losses.ts';
import { adamw } from '../optim/adamw.ts';
import { trainer } from '../optim/trainer.ts';
import { type Effort, type Measurement, timeSteps } from './measurement.ts';
import { probe } from './probe.ts';
import { batch, build, model, numbers, rate, tokens, type Work, workloads } from './workloads.ts';

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    threads: { type: 'string', default: '1' },
    plain: { type: 'boolean', default: false },
    engine: { type: 'string', default: 'simd' },
    mode: { type: 'string', default: 'webgpu' },
    steps: { type: 'string', default: '6' },
    warm: { type: 'string', default: '2' },
    seconds: { type: 'string', default: '20' },
  },
});
const effort: Effort = { steps: Number(values.steps), warm: Number(values.warm), seconds: Number(values.seconds) };

async function open(): Promise<Engine> {
  if (values.engine === 'gpujs') return gpujsEngine({ mode: values.mode as 'webgpu' | 'webasm' | 'cpu' });
  return simd({ threads: Number(values.threads), relaxed: !values.plain });
}
const peak = (): number => process.resourceUsage().maxRSS / 1024;
const emit = (engine: Engine, m: Omit<Measurement, 'peak' | 'note'>): void =>
  console.log(JSON.stringify({ ...m, peak: peak(), note: engine.report.mode } satisfies Measurement));

/** a·b for each size and each combination of transposes; one element is read, the rest stays where it is, as in the peers' programs. */
async function products(engine: Engine): Promise<void> {
  for (const n of [512, 1024])
    for (const [ta, tb] of [
      [false, false],
      [false, true],
      [true, false],
      [true, true],
    ] as const) {
      const a = leaf(numbers(n * n, 1), [n, n]);
      const b = leaf(numbers(n * n, 2), [n, n]);
      const p = await probe(engine, [matmul(ta ? a.T : a, tb ? b.T : b)], [3, 5]);
      let check = 0;
      const once = async (): Promise<number> => {
        const t = performance.now();
        [check = 0] = await p.run();
        return performance.now() - t;
      };
      const first = await once();
      for (const began = performance.now(); performance.now() - began < 300; ) await once();
      const ms: number[] = [];
      for (let k = 0; k < 5 * effort.steps; k++) ms.push(await once());
      emit(engine, { ms, first, case: `${n} ${ta ? 't' : 'n'}${tb ? 't' : 'n'}`, check });
      p.close();
    }
}

/** Training steps. `W2-last` is W2 with LoRA on the last block alone. */
async function training(engine: Engine, name: string): Promise<void> {
  const last = name === 'W2-last';
  const work = (last ? 'W2' : name) as Work;
  const { sizes, mode } = workloads[work];
  await using t = await trainer(last ? build(sizes, mode, true) : model(work), {
    engine,
    loss: nextToken,
    optimizer: adamw({ lr: rate[mode], weightDecay: 0.01 }),
  });
  const b = last ? tokens(sizes) : batch(work);
  emit(engine, await timeSteps(async () => (await t.step(b)).loss, effort));
}

const work = positionals[0] ?? 'W2';
if (work !== 'W1' && work !== 'W2-last' && !(work in workloads))
  throw new RangeError(`ours: there is no workload '${work}'; choose one of W1, ${Object.keys(workloads).join(', ')}, W2-last`);
await using engine = await open();
await (work === 'W1' ? products(engine) : training(engine, work));
