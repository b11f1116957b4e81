// The reference workloads, the same for every library: weights and tokens from an integer hash, so that losses must agree.
//   W1 matmul · W2 LoRA step · W3 full step · W4 LoRA step at MiniLM's size, batch 16 · W4h the same, batch 8
import { leaf, param, type Tensor } from '../core/tensor.ts';
import { fusedAttention } from '../nn/attention.ts';
import { preNormBlock } from '../nn/block.ts';
import { languageModel, tiedHead, trunk } from '../nn/decoder.ts';
import { embedding } from '../nn/embedding.ts';
import type { Model } from '../nn/layer.ts';
import { linear, weight } from '../nn/linear.ts';
import { mlp } from '../nn/mlp.ts';
import { layerNorm } from '../nn/norm.ts';
import { mapTensors } from '../nn/tree.ts';
import type { Batch } from '../optim/trainer.ts';
import { lora } from '../peft/reparameterized/lora.ts';

export interface Sizes {
  readonly V: number;
  readonly d: number;
  readonly L: number;
  readonly H: number;
  readonly F: number;
  readonly T: number;
  readonly B: number;
}
const small: Sizes = { V: 512, d: 256, L: 4, H: 4, F: 1024, T: 128, B: 8 };
const mini: Sizes = { V: 2048, d: 384, L: 6, H: 12, F: 1536, T: 128, B: 16 };
const RANK = 8;
const ALPHA = 16;

export type Work = 'W2' | 'W3' | 'W4' | 'W4h';
export const workloads: Readonly<Record<Work, { readonly sizes: Sizes; readonly mode: 'lora' | 'full' }>> = {
  W2: { sizes: small, mode: 'lora' },
  W3: { sizes: small, mode: 'full' },
  W4: { sizes: mini, mode: 'lora' },
  W4h: { sizes: { ...mini, B: 8 }, mode: 'lora' },
};
/** AdamW's learning rate; the rest is β 0.9 and 0.999, ε 1e-8, decay 0.01. */
export const rate = { lora: 1e-2, full: 1e-3 } as const;

function hash(i: number, seed: number): number {
  let h = (Math.imul(i, 0x9e3779b1) + Math.imul(seed, 0x85ebca77)) >>> 0;
  h ^= h >>> 16;
  h = Math.imul(h, 0x7feb352d);
  h ^= h >>> 15;
  h = Math.imul(h, 0x846ca68b);
  return (h ^ (h >>> 16)) >>> 0;
}
/** n numbers, uniform with standard deviation 0.02 around `offset`. */
export function numbers(n: number, seed: number, offset = 0): Float32Array {
  const w = new Float32Array(n);
  for (let i = 0; i < n; i++) w[i] = offset + (hash(i, seed) / 4294967296 - 0.5) * 0.0692;
  return w;
}

/** The model of a workload. */
export const model = (work: Work): Model => build(workloads[work].sizes, workloads[work].mode);

/**
 * A pre-norm GPT-2 with fused qkv and tied head; LoRA of rank 8 on qkv with B ≠ 0, so that A learns from the first step.
 * `lastOnly` attaches it to the last block alone.
 */
export function build({ V, d, L, H, F, T }: Sizes, mode: 'lora' | 'full', lastOnly = false): Model {
  let seed = 0;
  const make = mode === 'full' ? param : leaf;
  const vector = (n: number, offset = 0): Tensor => make(numbers(n, ++seed, offset), [n]);
  const table = (rows: number): Tensor => make(numbers(rows * d, ++seed), [rows, d]);
  const matrix = (into: number, out: number): Tensor => {
    // the harness keeps [in, out]; ours are [out, in]
    const w = numbers(into * out, ++seed);
    const t = new Float32Array(w.length);
    for (let i = 0; i < into; i++) for (let o = 0; o < out; o++) t[o * into + i] = w[i * out + o]!;
    return make(t, [out, into]);
  };
  const words = weight(table(V));
  const positions = weight(table(T));
  const blocks = Array.from({ length: L }, () => {
    const norm1 = layerNorm(vector(d, 1), vector(d));
    const qkv = linear(matrix(d, 3 * d), vector(3 * d));
    const o = linear(matrix(d, d), vector(d));
    const norm2 = layerNorm(vector(d, 1), vector(d));
    const up = linear(matrix(d, F), vector(F));
    const down = linear(matrix(F, d), vector(d));
    return preNormBlock({
      norm1,
      attn: fusedAttention(qkv, o, { width: d, heads: H, kvHeads: H, rope: null }),
      norm2,
      mlp: mlp(up, down, 'geluTanh', d),
      width: d,
    });
  });
  const last = layerNorm(vector(d, 1), vector(d));
  const base = languageModel(embedding(words), trunk(embedding(positions), blocks, last, d, T), tiedHead(words));
  if (mode === 'full') return base;
  const where = lastOnly ? (path: string): boolean => path.endsWith(`blocks.${L - 1}.attn.qkv`) : 'qkv';
  const attached = lora({ rank: RANK, alpha: ALPHA, where })(base);
  return mapTensors(attached, (t, path) => {
    const found = /blocks\.(\d+)\..*lora\.([AB])$/.exec(path);
    if (found === null) return t;
    const k = seed + 1 + 2 * Number(found[1]) + (found[2] === 'A' ? 0 : 1);
    return param(numbers(t.shape[0]! * t.shape[1]!, k), t.shape);
  });
}

/** The same tokens every step. */
export const batch = (work: Work): Batch<{ ids: Tensor; targets: Tensor }> => tokens(workloads[work].sizes);

export function tokens({ V, T, B }: Sizes): Batch<{ ids: Tensor; targets: Tensor }> {
  const at = (shift: number): Int32Array =>
    Int32Array.from({ length: B * T }, (_, i) => hash(Math.floor(i / T) * (T + 1) + (i % T) + shift, 7777) % V);
  return { ids: { data: at(0), shape: [B, T] }, targets: { data: at(1), shape: [B, T] } };
}
