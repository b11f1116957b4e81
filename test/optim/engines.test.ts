// The same training on gpu.js: float32 follows float64, and resuming is exact there too.
import { describe, expect, test } from 'vitest';
import { float64 } from '../../core/engines/float64.ts';
import { gpujsEngine } from '../../core/engines/gpujs.ts';
import type { Model } from '../../nn/layer.ts';
import { nextToken } from '../../nn/losses.ts';
import { adamw } from '../../optim/adamw.ts';
import { clipByNorm } from '../../optim/clip.ts';
import { NonFiniteError, type TrainerOptions, trainer } from '../../optim/trainer.ts';
import { lora } from '../../peft/reparameterized/lora.ts';
import { bits, counting, frozen, type Text } from './tiny.ts';

const start = (engine: TrainerOptions<Model, Text>['engine']) =>
  trainer<Model, Text>(lora({ rank: 2, dropout: 0.2 })(frozen()), {
    engine,
    loss: nextToken,
    optimizer: adamw({ lr: 0.02 }),
    clip: clipByNorm(1),
  });
const portion = (k: number) => (k % 2 === 1 ? [counting(k), counting(k + 50)] : counting(k));

describe.each(['webasm', 'cpu'] as const)('gpu.js %s', (mode) => {
  test('losses follow float64; resumed training has identical bits; a NaN keeps the last good state', async () => {
    await using engine = await gpujsEngine({ mode });
    expect(engine.report.mode).toBe(mode);
    const [exact, whole, first] = [await start(float64()), await start(engine), await start(engine)];
    for (let k = 0; k < 4; k++) {
      const [a, b] = [await exact.step(portion(k)), await whole.step(portion(k))];
      expect(Math.abs(a.loss - b.loss)).toBeLessThan(1e-5 * a.loss);
    }
    for (let k = 0; k < 2; k++) await first.step(portion(k));
    const second = await start(engine);
    await second.load(await first.state());
    for (let k = 2; k < 4; k++) await second.step(portion(k));
    const good = await second.state();
    expect(bits(good)).toEqual(bits(await whole.state()));

    const A = 'trunk.blocks.1.attn.v.lora.A';
    const poisoned = { ...good.values[A]!, data: good.values[A]!.data.map((x, k) => (k === 3 ? Number.NaN : x)) };
    await second.load({ ...good, values: { ...good.values, [A]: poisoned } });
    const before = bits(await second.state());
    const error = await second.step(counting(1)).catch((e: unknown) => e);
    expect(error).toBeInstanceOf(NonFiniteError);
    expect(String(error)).toMatch(/First result that is not finite: .*trunk\.blocks\.1\.attn\.v/);
    expect(bits(await second.state())).toEqual(before);
  });
});
