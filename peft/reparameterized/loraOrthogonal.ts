// Orthogonally initialised LoRA: neither factor starts at zero, yet their product does, so both learn from the first step.
//   y = W x + b + s·B A drop(x),   A = (G₁ Q_odd)ᵀ/10,   B = G₂ᵀ Q_even/10,   Q ∈ ℝ^{r×r} a random rotation, G₁ [in, r/2], G₂ [r/2, out] ~ N(0, 1)
// As built in PEFT (`init_lora_weights="orthogonal"`), after a note by Datta Nimmaturi, "Rethinking LoRA initialisation". The rank must be even.
import { param } from '../../core/tensor.ts';
import { defineMethod } from '../attach.ts';
import { orthonormal, product, transposed } from '../linalg.ts';
import { checkUpdate, type Factors, type UpdateConfig, update } from './lora.ts';

/** Count: r(in + out) for each layer. */
export const loraOrthogonal = defineMethod<'linear', UpdateConfig, Factors>({
  name: 'loraOrthogonal',
  family: 'reparameterized',
  paper: 'https://datta0.github.io/posts/rethink-lora-init/',
  at: 'linear',
  defaults: { rank: 8, alpha: 8, rankStabilized: false, dropout: 0, where: ['q', 'v'] },
  check: (site, c) => {
    checkUpdate('loraOrthogonal')(site, c);
    if (c.rank % 2 !== 0)
      throw new RangeError(`loraOrthogonal: rank ${c.rank} at ${site.path} must be even: half of a rotation's rows serve A, half B`);
  },
  init: ({ shape: [out, into] }, { rank }, r) => {
    const q = orthonormal(r.split('Q').normal(rank ** 2), rank, rank);
    const rows = (odd: 0 | 1): Float64Array => q.filter((_, k) => Math.floor(k / rank) % 2 === odd);
    const a = product(r.split('A').normal(into! * (rank / 2)), rows(0), into!, rank / 2, rank); // [in, r]
    const b = product(r.split('B').normal(out! * (rank / 2)), rows(1), out!, rank / 2, rank); // [out, r]
    const tenth = (v: number): number => v / 10;
    return { train: { A: param(transposed(a, into!, rank).map(tenth), [rank, into!]), B: param(b.map(tenth), [out!, rank]) } };
  },
  ...update,
  byRow: true,
  startsAsBase: () => 'close', // B A = 0 up to rounding
});
