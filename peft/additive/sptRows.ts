// What SPT, selective prompt tuning, has at the blocks it prompts: for each a prompt or what generates it, and while it searches a gate.
//   a_i = sigmoid(α_i)
// Zhu & Tan 2023, arXiv 2310.20127 (EMNLP 2023).
import { sigmoid } from '../../core/ops/map.ts';
import type { Rng } from '../../core/rng.ts';
import { param, type Tensor } from '../../core/tensor.ts';
import type { Site } from '../site.ts';
import { type Generator, type GeneratorConfig, newGenerator } from './promptGenerator.ts';

export interface SptPromptConfig extends GeneratorConfig {
  readonly tau: number; // τ: how much of the prompt from below an open gate replaces
  readonly kept: readonly number[]; // blocks that have a new prompt, with a_i = 1; empty: all have, and their gates are trained
}
/** For each prompted block in turn: P or W1, b1, W2, b2; and all gates, alpha [n], while they are trained. */
export type SptPrompt = { readonly alpha?: Tensor } & { readonly [K in keyof Generator]?: readonly Tensor[] };
const NAMES = ['P', 'W1', 'b1', 'W2', 'b2'] as const;

/** The blocks that have a new prompt, in order. */
export const prompted = (site: Site<'trunk'>, c: SptPromptConfig): readonly number[] =>
  c.kept.length === 0 ? site.within('block').map((b) => b.index) : c.kept;

/** Prompts as `newGenerator` starts them, α = 0. */
export function newRows(site: Site<'trunk'>, c: SptPromptConfig, r: Rng): SptPrompt {
  const at = prompted(site, c);
  const each = at.map((i) => newGenerator(c, site.dim('width'), r.split(`block ${i}`)));
  const listed = NAMES.flatMap((k) => (each[0]![k] === undefined ? [] : [[k, each.map((g) => g[k]!)] as const]));
  const alpha = c.kept.length > 0 ? {} : { alpha: param(new Float32Array(at.length), [at.length], { decay: false }) };
  return { ...Object.fromEntries(listed), ...alpha };
}

/** The prompt of the n-th prompted block, or what generates it. */
export const generatorOf = (t: SptPrompt, n: number): Generator =>
  Object.fromEntries(NAMES.flatMap((k) => (t[k] === undefined ? [] : [[k, t[k][n]!]])));

/** τ a of the n-th prompted block. */
export const gateOf = ({ alpha }: SptPrompt, { tau }: SptPromptConfig, n: number): Tensor | number =>
  alpha === undefined ? tau : sigmoid(alpha.slice(0, n, n + 1)).mul(tau);
