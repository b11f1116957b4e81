// From measurements to what is printed: medians, whether everybody computed the same, ratios, tables, and the goals.
import { columns } from '../core/columns.ts';
import type { CompareWork, Contestant } from './contestants.ts';
import { type Measurement, median } from './measurement.ts';
import { numbers, workloads } from './workloads.ts';

/** All rounds of one contestant on one workload (of W1: on one product). */
export interface Result {
  readonly work: CompareWork;
  readonly name: string;
  readonly side: Contestant['side'];
  readonly threads: number;
  readonly rounds: readonly Measurement[];
  /** Why there is nothing, or not all. */
  readonly error: string | null;
}
export interface Summary extends Pick<Result, 'work' | 'name' | 'side' | 'threads' | 'error'> {
  readonly case: string | null;
  readonly note: string;
  readonly ms: number; // median over all timed steps of all rounds
  readonly min: number;
  readonly max: number;
  readonly perRound: readonly number[]; // medians
  readonly first: number; // ms of the first step, compilation included
  readonly peak: number; // MB, the most of all rounds
  readonly rate: number; // tokens/s, or GFLOP/s of a product
  /** Largest difference of a loss from ours (of W1: of an element from its exact value, over Σ|aᵢ||bᵢ|). */
  readonly difference: number;
}

/** Losses of everybody must agree to this. */
export const AGREEMENT = 1e-4;
/** An element of a product, relative to the sum of its terms' magnitudes. */
const PRODUCT_AGREEMENT = 1e-6;

/** c[3, 5] in double precision and Σ|aᵢ||bᵢ|, for a case such as '512 nt'. */
export function exactProduct(name: string): { value: number; magnitude: number } {
  const [size, flags] = name.split(' ') as [string, string];
  const n = Number(size);
  const [a, b] = [numbers(n * n, 1), numbers(n * n, 2)];
  let [value, magnitude] = [0, 0];
  for (let k = 0; k < n; k++) {
    const term = a[flags[0] === 't' ? k * n + 3 : 3 * n + k]! * b[flags[1] === 't' ? 5 * n + k : k * n + 5]!;
    value += term;
    magnitude += Math.abs(term);
  }
  return { value, magnitude };
}

/** Largest distance between two lists of losses, over the steps both took; infinite when a loss is not a number. */
export function distance(a: readonly number[], b: readonly number[]): number {
  const n = Math.min(a.length, b.length);
  if (n === 0) return Number.POSITIVE_INFINITY;
  const d = Math.max(...a.slice(0, n).map((x, k) => Math.abs(x - b[k]!)));
  return Number.isFinite(d) ? d : Number.POSITIVE_INFINITY;
}

/** One summary per contestant and workload, or per product of W1. */
export function summarise(results: readonly Result[]): Summary[] {
  return results.flatMap((r): Summary[] => {
    const cases = new Set(r.rounds.map((m) => m.case ?? null));
    const { rounds, ...who } = r;
    if (rounds.length === 0)
      return [
        {
          ...who,
          case: null,
          note: '',
          ms: Number.NaN,
          min: Number.NaN,
          max: Number.NaN,
          perRound: [],
          first: Number.NaN,
          peak: Number.NaN,
          rate: Number.NaN,
          difference: Number.NaN,
        },
      ];
    return [...cases].map((c) => {
      const own = rounds.filter((m) => (m.case ?? null) === c);
      const every = own.flatMap((m) => m.ms);
      const ms = median(every);
      return {
        ...who,
        case: c,
        note: own[0]!.note ?? '',
        ms,
        min: Math.min(...every),
        max: Math.max(...every),
        perRound: own.map((m) => median(m.ms)),
        first: median(own.map((m) => m.first)),
        peak: Math.max(...own.map((m) => m.peak)),
        rate: rateOf(r.work, c, ms),
        difference: Math.max(...own.map((m) => differenceOf(m, r.work, results))),
      };
    });
  });
}
function rateOf(work: CompareWork, product: string | null, ms: number): number {
  if (product !== null) return (2 * Number(product.split(' ')[0]) ** 3) / ms / 1e6;
  const { B, T } = workloads[work === 'W2-last' || work === 'W1' ? 'W2' : work].sizes;
  return ((B * T) / ms) * 1e3;
}
function differenceOf(m: Measurement, work: CompareWork, results: readonly Result[]): number {
  if (m.case !== undefined) {
    const { value, magnitude } = exactProduct(m.case);
    const d = Math.abs((m.check ?? Number.NaN) - value) / magnitude;
    return Number.isFinite(d) ? d : Number.POSITIVE_INFINITY;
  }
  const there = results.filter((r) => r.work === work && r.rounds.length > 0);
  const reference = there.find((r) => r.side === 'ours') ?? there[0];
  return distance(m.losses ?? [], reference?.rounds[0]?.losses ?? []);
}

/** Whoever computed something else than ours. */
export const disagreeing = (all: readonly Summary[]): Summary[] =>
  all.filter((s) => s.difference > (s.case === null ? AGREEMENT : PRODUCT_AGREEMENT));

const measured = (s: Summary): boolean => Number.isFinite(s.ms);
/** The fastest of some, or undefined. */
const fastest = (some: readonly Summary[]): Summary | undefined => some.filter(measured).toSorted((a, b) => a.ms - b.ms)[0];
/** What a summary is measured against: the best JavaScript peer with at most as many threads, PyTorch with as many. */
export function beside(all: readonly Summary[], s: Summary): { javascript: Summary | undefined; pytorch: Summary | undefined } {
  const size = s.case?.split(' ')[0];
  const same = all.filter((o) => o.work === s.work && (s.case === null ? o.case === null : o.case === `${size} nn`));
  return {
    javascript: fastest(same.filter((o) => o.side === 'javascript' && o.threads <= (s.threads || Number.POSITIVE_INFINITY))),
    pytorch: fastest(same.filter((o) => o.side === 'pytorch' && o.threads === s.threads)),
  };
}

const short = (x: number, digits = 3): string => (Number.isFinite(x) ? (x >= 100 ? x.toFixed(0) : x.toPrecision(digits)) : '—');
const over = (a: number | undefined, b: number | undefined): string => (a === undefined || b === undefined ? '—' : short(a / b));

/** The table of one training workload. */
export function trainingTable(all: readonly Summary[], work: CompareWork): string {
  const rows = all
    .filter((s) => s.work === work)
    .map((s) => {
      if (!measured(s)) return [s.name, '—'];
      const { javascript, pytorch } = beside(all, s);
      const loud = s.difference > AGREEMENT ? '!! ' : '';
      return [
        s.name,
        short(s.ms),
        `${short(s.min)}–${short(s.max)}`,
        s.rate.toFixed(0),
        over(javascript?.ms, s.ms),
        over(s.ms, pytorch?.ms),
        short(s.first),
        s.peak.toFixed(0),
        `${loud}${s.difference.toExponential(0)}`,
      ];
    });
  return columns(['', 'ms', 'min–max', 'tokens/s', '× best JS', 'time ÷ PyTorch', 'first ms', 'peak MB', 'loss differs by'], rows);
}

/** The table of the products of one size: GFLOP/s for every combination of transposes. */
export function productTable(all: readonly Summary[], size: number): string {
  const own = all.filter((s) => s.work === 'W1');
  const rows = [...new Set(own.map((s) => s.name))].map((name) => {
    const cases = (['nn', 'nt', 'tn', 'tt'] as const).map((c) => own.find((s) => s.name === name && s.case === `${size} ${c}`));
    const plain = cases[0];
    if (plain === undefined) return [name, '—'];
    const { javascript, pytorch } = beside(all, plain);
    const loud = cases.some((c) => c !== undefined && c.difference > PRODUCT_AGREEMENT) ? '!! ' : '';
    return [
      name,
      short(plain.ms),
      `${short(plain.min)}–${short(plain.max)}`,
      ...cases.map((c) => short(c?.rate ?? Number.NaN)),
      over(javascript?.ms, plain.ms),
      over(plain.ms, pytorch?.ms),
      `${loud}${Math.max(...cases.map((c) => c?.difference ?? 0)).toExponential(0)}`,
    ];
  });
  return columns(['', 'ms', 'min–max', 'GFLOP/s ab', 'abᵀ', 'aᵀb', 'aᵀbᵀ', '× best JS', 'time ÷ PyTorch', 'differs by'], rows);
}

/** Who did not finish, and why: a library that runs out of memory is a result too. */
export const failures = (all: readonly Summary[], work: CompareWork): string[] => [
  ...new Set(all.filter((s) => s.work === work && s.error !== null).map((s) => `${s.name}: ${s.error}`)),
];
