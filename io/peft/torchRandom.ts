// What PyTorch draws at random on the CPU, for files that keep a seed instead of the numbers: places (FourierFT, WaveFT) and matrices (VeRA, PVeRA).

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
