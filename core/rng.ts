// Seeded random numbers for the host. A generator is a value: `split` by a path, never shared state between callers.

export interface Rng {
  /** An independent generator for `path`; the same seed and path always give the same numbers. */
  split(path: string | number): Rng;
  /** The next number, uniform in [0, 1). */
  next(): number;
  /** A whole number in [0, n). */
  below(n: number): number;
  uniform(n: number, low?: number, high?: number): Float32Array;
  /** Gaussian, by Box–Muller. */
  normal(n: number, std?: number, mean?: number): Float32Array;
  /** 1 with probability `keep`, else 0. */
  bernoulli(n: number, keep: number): Float32Array;
  /** 0 … n − 1 in random order. */
  permutation(n: number): number[];
}

/** FNV-1a over the characters of a path, started from a seed. */
function hash(text: string, seed: number): number {
  let h = (seed ^ 0x811c9dc5) >>> 0;
  for (let i = 0; i < text.length; i++) h = Math.imul(h ^ text.charCodeAt(i), 0x01000193) >>> 0;
  return mix(h);
}
const mix = (x: number): number => {
  let h = x >>> 0;
  h = Math.imul(h ^ (h >>> 16), 0x7feb352d);
  h = Math.imul(h ^ (h >>> 15), 0x846ca68b);
  return (h ^ (h >>> 16)) >>> 0;
};

/** sfc32 (Doty-Humphrey, PractRand): 128 bits of state, passes BigCrush. */
export function rng(seed: number): Rng {
  const s = Uint32Array.of(mix(seed), mix(seed + 0x9e3779b9), mix(seed ^ 0x85ebca77), 1);
  const bits = (): number => {
    const [a, b, c, d] = s as unknown as [number, number, number, number];
    const t = (a + b + d) >>> 0;
    s[0] = b ^ (b >>> 9);
    s[1] = c + (c << 3);
    s[2] = ((c << 21) | (c >>> 11)) + t;
    s[3] = d + 1;
    return t;
  };
  for (let i = 0; i < 12; i++) bits();
  const next = (): number => bits() / 2 ** 32;
  const make = (n: number, f: () => number): Float32Array => {
    const out = new Float32Array(n);
    for (let i = 0; i < n; i++) out[i] = f();
    return out;
  };
  const gauss = (): number => Math.sqrt(-2 * Math.log(1 - next())) * Math.cos(2 * Math.PI * next());
  return {
    split: (path) => rng(hash(String(path), seed)),
    next,
    below: (n) => Math.floor(next() * n),
    uniform: (n, low = 0, high = 1) => make(n, () => low + (high - low) * next()),
    normal: (n, std = 1, mean = 0) => make(n, () => mean + std * gauss()),
    bernoulli: (n, keep) => make(n, () => (next() < keep ? 1 : 0)),
    permutation: (n) => {
      const p = Array.from({ length: n }, (_, i) => i);
      for (let i = n - 1; i > 0; i--) {
        const j = Math.floor(next() * (i + 1));
        [p[i], p[j]] = [p[j]!, p[i]!];
      }
      return p;
    },
  };
}
