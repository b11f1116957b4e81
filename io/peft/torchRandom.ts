// What PyTorch draws at random on the CPU, for files that keep a seed instead of the numbers: places (FourierFT, WaveFT) and matrices (VeRA, PVeRA, AdaMSS).

/** The 32-bit Mersenne Twister (Matsumoto & Nishimura 1998), seeded as mt19937's init_genrand: whole numbers below 2³². */
export function mersenne(seed: number): () => number {
  const N = 624;
  const state = new Uint32Array(N);
  state[0] = seed;
  for (let i = 1; i < N; i++) {
    const s = state[i - 1]! ^ (state[i - 1]! >>> 30);
    state[i] = Math.imul(1812433253, s) + i;
  }
  let at = N;
  const turn = (): void => {
    for (let k = 0; k < N; k++) {
      const y = (state[k]! & 0x80000000) | (state[(k + 1) % N]! & 0x7fffffff);
      state[k] = state[(k + 397) % N]! ^ (y >>> 1) ^ (y & 1 ? 0x9908b0df : 0);
    }
    at = 0;
  };
  return () => {
    if (at === N) turn();
    let y = state[at++]!;
    y ^= y >>> 11;
    y ^= (y << 7) & 0x9d2c5680;
    y ^= (y << 15) & 0xefc60000;
    return (y ^ (y >>> 18)) >>> 0;
  };
}

/** The first k entries of torch.randperm(n, generator seeded with `seed`): n below 2³²/20, where each swap draws one 32-bit number. */
export function firstOfRandperm(n: number, k: number, seed: number): number[] {
  if (n >= 2 ** 32 / 20) throw new RangeError(`a permutation of ${n} numbers is drawn in another way, which is not reproduced here`);
  const draw = mersenne(seed);
  const moved = new Map<number, number>(); // places that no longer hold their own number
  const at = (i: number): number => moved.get(i) ?? i;
  return Array.from({ length: Math.min(k, n) }, (_, i) => {
    if (i === n - 1) return at(i);
    const j = i + (draw() % (n - i));
    const [here, there] = [at(i), at(j)];
    moved.set(i, there).set(j, here);
    return there;
  });
}

/** Float32 tensors as torch's uniform_(−bound, bound) fills them, one after the other, from one generator seeded with `seed`. */
export function uniforms(seed: number): (n: number, bound: number) => Float32Array {
  const draw = mersenne(seed);
  return (n, bound) => {
    const from = Math.fround(-bound);
    const width = Math.fround(Math.fround(bound) - from);
    return Float32Array.from({ length: n }, () => Math.fround((draw() & 0xffffff) * 2 ** -24 * width) + from);
  };
}

/**
 * torch.randn of n float32 numbers, n ≥ 16, from a generator seeded with `seed`, to 1e-6: Box and Muller's pairs, eight at a time.
 * Of a number that 16 does not divide, the last 16 are drawn once more.
 */
export function normals(seed: number, n: number): Float32Array {
  if (n < 16) throw new RangeError(`${n} normal numbers are drawn in another way than 16 or more, which is not reproduced here`);
  const draw = mersenne(seed);
  const part = (): number => (draw() & 0xffffff) * 2 ** -24;
  const drawn = Float32Array.from({ length: n }, part);
  const pairs = (from: number): void => {
    for (let k = from; k < from + 8; k++) {
      const [radius, angle] = [Math.sqrt(-2 * Math.log(1 - drawn[k]!)), 2 * Math.PI * drawn[k + 8]!];
      drawn[k] = radius * Math.cos(angle);
      drawn[k + 8] = radius * Math.sin(angle);
    }
  };
  for (let from = 0; from + 16 <= n; from += 16) pairs(from);
  if (n % 16 !== 0) {
    for (let k = n - 16; k < n; k++) drawn[k] = part();
    pairs(n - 16);
  }
  return drawn;
}
