// Learning-rate schedules: pure functions from where training stands to a multiplier of the learning rate.
import type { Progress } from '../nn/hooks.ts';

/**
 * The multiplier for optimizer step `step` of `total`, counted from 1. A decay takes its start value at step 1 and would
 * take its end value one step after the last, as in PyTorch and Transformers.
 */
export type Schedule = (at: Progress) => number;

/** The fraction of the steps that were taken before this one: 0 at step 1, 1 from step total + 1 on. */
function done({ step, total }: Progress, schedule: string): number {
  if (!Number.isFinite(total))
    throw new RangeError(`schedule ${schedule}: it needs to know how many steps there will be; give the trainer total: n`);
  return total <= 0 ? 1 : Math.min(1, Math.max(0, (step - 1) / total));
}
const between = (from: number, to: number, x: number): number => from + (to - from) * x;
/** Half a cosine wave from `from` (x = 0) to `to` (x = 1). */
const glide = (from: number, to: number, x: number): number => to + ((from - to) * (1 + Math.cos(Math.PI * x))) / 2;

/** Always 1. */
export const constant = (): Schedule => () => 1;

/** A straight line from `start` (1) to `end` (0). */
export const linear =
  ({ start = 1, end = 0 } = {}): Schedule =>
  (at) =>
    between(start, end, done(at, 'linear'));

/** end + (1 − end)(1 + cos πx)/2 (Loshchilov & Hutter 2017, arXiv 1608.03983, eq. 5, one period). `end` is 0. */
export const cosine =
  ({ end = 0 } = {}): Schedule =>
  (at) =>
    glide(1, end, done(at, 'cosine'));

/** end + (1 − end)(1 − x)^power; power 1 is linear. Defaults: power 2, end 0. */
export const polynomial =
  ({ power = 2, end = 0 } = {}): Schedule =>
  (at) =>
    end + (1 - end) * (1 - done(at, 'polynomial')) ** power;

/** √(τ/(τ + steps before)), without end (Vaswani et al. 2017, arXiv 1706.03762, §5.3, started at 1). τ counts steps. */
export function inverseSquareRoot({ timescale }: { timescale: number }): Schedule {
  if (!(timescale > 0)) throw new RangeError(`schedule inverseSquareRoot: timescale must be above 0 steps, got ${timescale}`);
  return ({ step }) => Math.sqrt(timescale / (timescale + Math.max(0, step - 1)));
}

/**
 * Up from 1/div to 1 in the first `rise` of the steps, then down to 1/(div·finalDiv), both along a cosine
 * (Smith & Topin 2018, arXiv 1708.07120; phases and defaults as torch.optim.lr_scheduler.OneCycleLR).
 * The peak is at step rise·total, the end at the last step. Defaults: rise 0.3, div 25, finalDiv 1e4.
 */
export const oneCycle =
  ({ rise = 0.3, div = 25, finalDiv = 1e4 } = {}): Schedule =>
  (at) => {
    done(at, 'oneCycle');
    const k = at.step - 1; // PyTorch counts from 0
    const [peak, last] = [rise * at.total - 1, at.total - 1];
    const [low, end] = [1 / div, 1 / (div * finalDiv)];
    if (k <= peak) return peak <= 0 ? 1 : glide(low, 1, k / peak);
    return last <= peak ? end : glide(1, end, Math.min(1, (k - peak) / (last - peak)));
  };

/** A straight rise to the start of `then` over the first `steps` steps: step/steps. The rest of the steps are those of `then`. */
export function warmup(steps: number, then: Schedule = constant()): Schedule {
  if (!(Number.isInteger(steps) && steps >= 0)) throw new RangeError(`schedule warmup: steps must be a whole number from 0, got ${steps}`);
  return ({ step, total }) => {
    const rest = total - steps;
    return step <= steps ? (step / steps) * then({ step: 1, total: rest }) : then({ step: step - steps, total: rest });
  };
}
