// One measurement: what every program that `npm run compare` starts prints as a line of JSON, and the statistics on it.

/** What a child process prints; times in ms, memory in MB. */
export interface Measurement {
  readonly ms: readonly number[];
  /** The first step, with compilation: not among `ms`. */
  readonly first: number;
  /** Peak resident memory of the process. */
  readonly peak: number;
  /** Losses of the first steps, of a training workload. */
  readonly losses?: readonly number[];
  /** Which product, of W1: '512 nn' is 512³ without transposes, 't' says which operand is transposed. */
  readonly case?: string;
  /** c[3, 5] of a product. */
  readonly check?: number;
  /** What ran, in the program's own words. */
  readonly note?: string;
}

export function median(values: readonly number[]): number {
  const s = [...values].sort((x, y) => x - y);
  const m = s.length >> 1;
  return s.length === 0 ? Number.NaN : s.length % 2 ? s[m]! : (s[m - 1]! + s[m]!) / 2;
}

/** Steps to take: `warm` untimed ones, then `steps` timed ones, fewer when `seconds` have passed and two are timed. */
export interface Effort {
  readonly steps: number;
  readonly warm: number;
  readonly seconds: number;
}

/** Times `step` (which answers its loss). The first step is never among the timed ones. */
export async function timeSteps(
  step: () => Promise<number>,
  { steps, warm, seconds }: Effort,
): Promise<Pick<Measurement, 'ms' | 'first' | 'losses'>> {
  const losses: number[] = [];
  const ms: number[] = [];
  const began = performance.now();
  let first = 0;
  for (let i = 0; ms.length < steps; i++) {
    const t = performance.now();
    losses.push(await step());
    const took = performance.now() - t;
    const spent = (performance.now() - began) / 1000;
    if (i === 0) first = took;
    else if (i >= warm || spent > seconds / 2) ms.push(took);
    if (spent > seconds && ms.length >= 2) break;
  }
  return { ms, first, losses: losses.slice(0, 8) };
}
