// NumPy's random numbers, for files that keep a seed instead of what was drawn with it. RandomState's choice (AdaMSS), and
// default_rng(seed): PCG64 (O'Neill 2014, XSL-RR) started by its SeedSequence, for what UniLoRA shuffles.
import { mersenne } from './torchRandom.ts';

const WORD = (1n << 64n) - 1n;
const WIDE = (1n << 128n) - 1n;
const MULTIPLIER = 0x2360ed051fc65da44385df649fccf645n;

/** The first eight 32-bit words of SeedSequence(seed), for a seed below 2⁵³. */
function seedWords(seed: number): number[] {
  let constant = 0x43b0d7e5;
  const hashed = (v: number): number => {
    const x = v ^ constant;
    constant = Math.imul(constant, 0x931e8875);
    const y = Math.imul(x, constant);
    return (y ^ (y >>> 16)) >>> 0;
  };
  const pool = [seed >>> 0, Math.floor(seed / 2 ** 32), 0, 0].map(hashed);
  for (let from = 0; from < 4; from++)
    for (let to = 0; to < 4; to++)
      if (from !== to) {
        const m = (Math.imul(0xca01f9dd, pool[to]!) - Math.imul(0x4973f715, hashed(pool[from]!))) | 0;
        pool[to] = (m ^ (m >>> 16)) >>> 0;
      }
  constant = 0x8b51f9dd;
  return Array.from({ length: 8 }, (_, k) => {
    const x = pool[k % 4]! ^ constant;
    constant = Math.imul(constant, 0x58f38ded);
    const y = Math.imul(x, constant);
    return (y ^ (y >>> 16)) >>> 0;
  });
}

export interface NumpyRandom {
  /** A whole number from 0 to `top`, both included; top below 2³² − 1. */
  upTo(top: number): number;
  /** The array itself, in another order: Generator.shuffle. */
  shuffle<T extends Int32Array | number[]>(list: T): T;
  /** k different numbers below n in random order: Generator.choice(n, k, replace=False). */
  choice(n: number, k: number): number[];
}
export function numpyRandom(seed: number): NumpyRandom {
  const w = seedWords(seed).map(BigInt);
  const [s0, s1, i0, i1] = [0, 2, 4, 6].map((k) => w[k]! | (w[k + 1]! << 32n)) as [bigint, bigint, bigint, bigint];
  const increment = ((((i0 << 64n) | i1) << 1n) | 1n) & WIDE;
  let state = 0n;
  const step = (): void => {
    state = (state * MULTIPLIER + increment) & WIDE;
  };
  step();
  state = (state + ((s0 << 64n) | s1)) & WIDE;
  step();
  let kept: number | null = null; // the upper half of the last 64 bits
  const word = (): number => {
    if (kept !== null) {
      const now = kept;
      kept = null;
      return now;
    }
    step();
    const mixed = (state >> 64n) ^ (state & WORD);
    const by = state >> 122n;
    const turned = ((mixed >> by) | (mixed << (64n - by))) & WORD;
    kept = Number(turned >> 32n);
    return Number(turned & 0xffffffffn);
  };
  const upTo = (top: number): number => {
    if (top === 0) return 0;
    const n = top + 1;
    for (;;) {
      const m = BigInt(word()) * BigInt(n); // Lemire's: the upper half, unless the lower is among the few that would be drawn too often
      if (Number(m & 0xffffffffn) >= (2 ** 32 - n) % n) return Number(m >> 32n);
    }
  };
  /** The same, another way: as many bits as `top` has, drawn until they are small enough. */
  const masked = (top: number): number => {
    const mask = 2 ** Math.ceil(Math.log2(top + 1)) - 1;
    for (;;) {
      const v = (word() & mask) >>> 0;
      if (v <= top) return v;
    }
  };
  const shuffle = <T extends Int32Array | number[]>(list: T, first = 1, draw = upTo): T => {
    for (let i = list.length - 1; i >= first; i--) {
      const j = draw(i);
      [list[i], list[j]] = [list[j]!, list[i]!];
    }
    return list;
  };
  return {
    upTo,
    shuffle: (list) => shuffle(list, 1, masked),
    choice: (n, k) => {
      if (n > 10_000 && k > Math.floor(n / 50)) {
        const all = shuffle(
          Array.from({ length: n }, (_, i) => i),
          Math.max(n - k, 1),
        );
        return all.slice(n - k);
      }
      const chosen = new Set<number>(); // Floyd's
      for (let top = n - k; top < n; top++) {
        const v = upTo(top);
        chosen.add(chosen.has(v) ? top : v);
      }
      return shuffle([...chosen]);
    },
  };
}

/** RandomState(seed).choice(n, k, replace=False, p=1/n for each): by where uniform numbers fall; what is drawn twice is drawn again among the rest. */
export function legacyChoice(seed: number, n: number, k: number): number[] {
  const draw = mersenne(seed);
  const uniform = (): number => ((draw() >>> 5) * 2 ** 26 + (draw() >>> 6)) * 2 ** -53;
  const chosen = new Set<number>();
  while (chosen.size < k) {
    const rest = Array.from({ length: n }, (_, i) => i).filter((i) => !chosen.has(i));
    const places = Array.from({ length: k - chosen.size }, () => Math.floor(uniform() * rest.length));
    for (const at of places) chosen.add(rest[at]!);
  }
  return [...chosen];
}
