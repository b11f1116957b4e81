// PeriodicLoRA: LoRA in stages; at the end of each its update is unloaded into the weight, and a fresh LoRA goes on from there.
//   y = W x + b + s·(B A + Σ_{k < K} B_k A_k) drop(x),   A_k, B_k as they were at the end of stage k;   then A ~ U(±1/√in), B = 0
//   After K stages the update may have rank K·r. Unloaded factors are kept as buffers, which says the same as W ← W + s·B_k A_k and
//   leaves W alone: the adapter can still be saved, taken off and merged.
// Meng et al. 2024, arXiv 2402.16141, §3. Each stage also restarts the optimizer and its schedule, as
// periodicLoraStages.ts does; attached to one trainer the moments go on. The momentum form of unloading is left out: its equation could not be verified.
import { concat } from '../../core/ops/move.ts';
import { rng } from '../../core/rng.ts';
import { type Data, type Param, param, paramOf, type Tensor } from '../../core/tensor.ts';
import { defineMethod } from '../attach.ts';
import { wholeNumber } from '../check.ts';
import { checkUpdate, dropped, type Factors, factors, type LoraConfig, STARTS, scaling, update } from './lora.ts';

export interface PeriodicLoraConfig extends LoraConfig {
  readonly period: number; // steps of a stage
  readonly stages: number; // K; the last one lasts until the end
  readonly restart: number; // seed of the later stages' A
}
type Periodic = Factors & { pastA: Tensor; pastB: Tensor }; // the unloaded: [(K − 1)·r, in], [out, (K − 1)·r]

/** All pairs as one: [K·r, in] and [out, K·r]. */
const whole = ({ A, B, pastA, pastB }: Periodic): Factors => ({ A: concat([A, pastA], 0), B: concat([B, pastB], 1) });
const buffer = (rows: number, cols: number): Tensor => param(new Float32Array(rows * cols), [rows, cols], { active: false });

/** Count: r(in + out) trained for each layer, K times as much stored. */
export const periodicLora = defineMethod<'linear', PeriodicLoraConfig, Periodic>({
  name: 'periodicLora',
  family: 'reparameterized',
  paper: 'arXiv:2402.16141',
  at: 'linear',
  defaults: {
    ...{ rank: 8, alpha: 8, rankStabilized: false, dropout: 0, init: 'kaiming' },
    ...{ period: 500, stages: 4, restart: 0 },
    where: ['q', 'v'],
  },
  takes: { init: STARTS },
  check: (site, c) => {
    checkUpdate('periodicLora')(site, c);
    for (const name of ['period', 'stages'] as const) wholeNumber('periodicLora', name, c[name]);
    wholeNumber('periodicLora', 'restart', c.restart, 0);
    if (c.stages < 2) throw new RangeError(`periodicLora: ${c.stages} stage at ${site.path} is LoRA; take 2 or more`);
  },
  init: (site, c, r) => {
    const [out, into] = site.shape as [number, number];
    const past = (c.stages - 1) * c.rank;
    return { train: factors(site, c, r), buffer: { pastA: buffer(past, into), pastB: buffer(out, past) } };
  },
  around: (call, p, c, site) => (x, ctx) => {
    const { A, B } = whole(p);
    return call(x, ctx).add(dropped(x, c, site, ctx).matmul(A.T).matmul(B.T).mul(scaling(c)));
  },
  fold: (w, p, c, site) => update.fold(w, whole(p), c, site),
  control: (at, c) => ({
    after: async ({ step }, read) => {
      const stage = step / c.period;
      if (!Number.isInteger(stage) || stage >= c.stages) return null;
      const written = new Map<Param, Data>();
      for (const { path, own } of at) {
        const [A, B, pastA, pastB] = [own.A, own.B, own.pastA, own.pastB].map((t) => paramOf(t)!) as [Param, Param, Param, Param];
        const now = await read([A, B, pastA, pastB]);
        const [rowsA, colsB] = [now.get(pastA)!.slice(), now.get(pastB)!.slice()];
        rowsA.set(now.get(A)!, (stage - 1) * c.rank * A.shape[1]!);
        const [out, past] = pastB.shape as [number, number];
        for (let o = 0; o < out; o++)
          for (let j = 0; j < c.rank; j++) colsB[o * past + (stage - 1) * c.rank + j] = now.get(B)![o * c.rank + j]!;
        const fresh = factors({ shape: [out, A.shape[1]!] }, c, rng(c.restart).split(`periodicLora ${path} ${stage}`));
        written.set(pastA, rowsA).set(pastB, colsB).set(A, paramOf(fresh.A)!.value).set(B, paramOf(fresh.B)!.value);
      }
      return written;
    },
  }),
  count: (sites, c) => {
    const { train } = update.count(sites, c);
    return { train, stored: c.stages * train };
  },
  startsAsBase: () => 'close', // adds exact zeros
});
