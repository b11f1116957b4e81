// AdaLoRA's budget: how many triplets all layers together keep after each step.
//   b(t) = bᵀ + (b⁰ − bᵀ)(1 − (t − t_i)/(T − t_f − t_i))³ between the first t_i and the last t_f steps
// Zhang et al. 2023, arXiv 2303.10512, §3.
import type { AdaloraConfig } from './adalora.ts';

/** How many triplets all n matrices together keep after step t: b⁰, then a cubic down to bᵀ, then bᵀ. */
export function budget(t: number, total: number, c: AdaloraConfig, n: number): number {
  const [b0, bT, end] = [n * c.rank, n * c.targetRank, total - c.tfinal];
  if (t <= c.tinit) return b0;
  return t >= end ? bT : Math.floor(bT + (b0 - bT) * (1 - (t - c.tinit) / (end - c.tinit)) ** 3);
}
