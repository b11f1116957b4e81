// What is promised of the simd engine, as ratios within one run, and whether this run keeps it.
import { columns } from '../core/columns.ts';
import type { CompareWork } from './contestants.ts';
import { beside, type Summary } from './verdict.ts';

export interface Goal {
  readonly what: string;
  readonly value: number;
  readonly bound: number;
  readonly least: boolean; // the bound is the least it may be, else the most
}
export const kept = (g: Goal): boolean => (g.least ? g.value >= g.bound : g.value <= g.bound);

/** The goals that this run measured. */
export function goals(all: readonly Summary[]): Goal[] {
  const of = (work: CompareWork, name: string, product: string | null = null): Summary | undefined =>
    all.find((s) => s.work === work && s.name === name && s.case === product && Number.isFinite(s.ms));
  const list: Goal[] = [];
  const add = (what: string, value: number | undefined, bound: number, least: boolean): void => {
    if (value !== undefined && Number.isFinite(value)) list.push({ what, value, bound, least });
  };
  const ratio = (a: number | undefined, b: number | undefined): number | undefined =>
    a === undefined || b === undefined ? undefined : a / b;
  const faster = (s: Summary | undefined): number | undefined => (s === undefined ? undefined : ratio(beside(all, s).javascript?.ms, s.ms));
  const slower = (s: Summary | undefined): number | undefined => (s === undefined ? undefined : ratio(s.ms, beside(all, s).pytorch?.ms));

  for (const t of [1, 2]) {
    const [threads, fused, plain] = [`${t} thread${t === 1 ? '' : 's'}`, of('W2', `ours-${t}t`), of('W2', `ours-plain-${t}t`)];
    add(`W2, ${threads}: times faster than the best JavaScript peer`, faster(fused), 3, true);
    add(`W2, ${threads}, without relaxed SIMD: the same`, faster(plain), 1.8, true);
    add(`W2, ${threads}: PyTorch's time × at most`, slower(fused), 3.5, false);
  }
  const w2 = of('W2', 'ours-1t');
  add("W2: peak memory, part of the best JavaScript peer's", w2 && ratio(w2.peak, beside(all, w2).javascript?.peak), 0.6, false);
  add('W3: times faster than the best JavaScript peer', faster(of('W3', 'ours-1t')), 2.5, true);
  const w4 = of('W4', 'ours-1t');
  const jax = all.filter((s) => s.work === 'W4' && s.name.startsWith('jax') && s.threads <= 1 && Number.isFinite(s.ms));
  add('W4: times faster than jax-js', w4 && jax.length > 0 ? Math.min(...jax.map((s) => s.ms)) / w4.ms : undefined, 5, true);
  add("W4: PyTorch's time × at most", slower(w4), 4, false);
  add('W4: peak memory, MB', w4?.peak, 1100, false);
  add('W4h: times faster than the best JavaScript peer', faster(of('W4h', 'ours-1t')), 3, true);
  const full = of('W3', 'ours-1t');
  add('LoRA step, part of a full step', ratio(w2?.ms, full?.ms), 0.75, false);
  add('LoRA on the last block, part of a full step', ratio(of('W2-last', 'ours-1t')?.ms, full?.ms), 0.48, false);
  for (const c of ['nn', 'nt', 'tn', 'tt'])
    add(
      `1024³ ${c}: two threads, times faster than one`,
      ratio(of('W1', 'ours-1t', `1024 ${c}`)?.ms, of('W1', 'ours-2t', `1024 ${c}`)?.ms),
      1.8,
      true,
    );
  return list;
}

export const goalTable = (list: readonly Goal[]): string =>
  columns(
    ['goal', 'here', 'bound', ''],
    list.map((g) => [g.what, g.value.toPrecision(3), `${g.least ? '≥' : '≤'} ${g.bound}`, kept(g) ? 'kept' : 'MISSED']),
  );
