// Runs inside a browser: three steps of a small transformer on the simd engine, the losses posted back.
import { simd } from '../../core/engines/simd.ts';
import { rng } from '../../core/rng.ts';
import { decoder, gpt2 } from '../../nn/decoder.ts';
import { freeze } from '../../nn/freeze.ts';
import { nextToken } from '../../nn/losses.ts';
import { adamw } from '../../optim/adamw.ts';
import { trainer } from '../../optim/trainer.ts';
import { lora } from '../../peft/reparameterized/lora.ts';

export interface Report {
  readonly mode: string;
  readonly isolated: boolean;
  readonly losses: readonly number[];
}

/** LoRA on a frozen decoder; what it prints is compared with the same run in Node. */
export async function train(threads?: number): Promise<Report> {
  const engine = await simd(threads === undefined ? {} : { threads });
  const model = lora({ rank: 2 })(freeze(decoder(gpt2({ vocabulary: 11, width: 16, layers: 2, heads: 2, positions: 16 }), rng(5))));
  const ids = Array.from({ length: 16 }, (_, i) => (i * 7) % 11);
  const t = await trainer(model, { engine, loss: nextToken, optimizer: adamw({ lr: 1e-2 }) });
  const losses: number[] = [];
  for (let k = 0; k < 3; k++)
    losses.push((await t.step({ ids: { data: ids, shape: [2, 8] }, targets: { data: ids.map((i) => (i + 1) % 11), shape: [2, 8] } })).loss);
  await t[Symbol.asyncDispose]();
  await engine.close();
  return { mode: engine.report.mode, isolated: globalThis.crossOriginIsolated === true, losses };
}

// In a page or a worker, not when the test imports this file.
if (typeof process === 'undefined') {
  const threads = new URLSearchParams(globalThis.location.search).get('threads');
  train(threads === null ? undefined : Number(threads)).then(
    (report) => fetch('/report', { method: 'POST', body: JSON.stringify(report) }),
    (e: unknown) =>
      fetch('/report', { method: 'POST', body: JSON.stringify({ error: e instanceof Error ? `${e.message}\n${e.stack}` : String(e) }) }),
  );
}
