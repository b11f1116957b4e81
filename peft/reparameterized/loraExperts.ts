// Trained LoRAs as the experts of a mixture: taken from models over one network, or placeholders to be filled from a file.
import type { Rng } from '../../core/rng.ts';
import { leaf, param, type Tensor } from '../../core/tensor.ts';
import { freeze } from '../../nn/freeze.ts';
import type { Model } from '../../nn/layer.ts';
import { layers } from '../../nn/tree.ts';
import { rankFits } from '../check.ts';
import type { Site } from '../site.ts';
import { type Factors, scaling, type UpdateConfig } from './lora.ts';

/** What a mixture has to know of an expert. */
export interface ExpertConfig {
  readonly rank: number;
  readonly scale: number; // s = α/r
}
export interface LoraExperts {
  readonly configs: readonly ExpertConfig[];
  /** The layers that have one, and there the factors of every expert in turn. */
  readonly at: ReadonlyMap<string, readonly Factors[]>;
}

/**
 * The LoRA of each model. Throws where one has none, or two at a place, or others than the first; or where they are not all at the same places, unless
 * `absent` says what stands for an expert of that rank that is not where another is.
 */
export function loraExperts(
  name: string,
  models: readonly Model[],
  absent: ((rank: number, other: Factors) => Factors) | null = null,
): LoraExperts {
  if (models.length === 0) throw new RangeError(`${name}: no models given; give one or more, each with a trained lora on one network`);
  const each = models.map((model, k) => {
    const found = new Map<string, Factors>();
    const configs: UpdateConfig[] = [];
    for (const { path, layer } of layers(model)) {
      if (layer.attached?.method !== 'lora') continue;
      if (found.has(path)) throw new Error(`${name}: model ${k} has two LoRAs at ${path}; keep one`);
      found.set(path, layer.fields[layer.attached.field] as Factors);
      configs.push(layer.attached.application.config as UpdateConfig); // a seam: lora's own configuration
    }
    const [first] = configs;
    if (first === undefined) throw new Error(`${name}: model ${k} has no lora on it; train one first: lora({ … })(base)`);
    const odd = configs.find((c) => c.rank !== first.rank || scaling(c) !== scaling(first));
    if (odd !== undefined)
      throw new Error(`${name}: model ${k} has LoRAs of rank ${first.rank} and ${odd.rank}; an expert has one rank and one alpha`);
    return { found, config: { rank: first.rank, scale: scaling(first) } };
  });
  const places = [...new Set(each.flatMap((e) => [...e.found.keys()]))];
  for (const [k, { found }] of absent === null ? each.entries() : []) {
    const odd = places.find((p) => found.has(p) !== each[0]!.found.has(p));
    if (odd !== undefined) throw new Error(`${name}: models 0 and ${k} do not both have a lora at ${odd}; train them at the same places`);
  }
  const at = (p: string): Factors[] => {
    const there = each.find((e) => e.found.has(p))!.found.get(p)!;
    return each.map((e) => freeze(e.found.get(p) ?? absent!(e.config.rank, there)));
  };
  return { configs: each.map((e) => e.config), at: new Map(places.map((p) => [p, at(p)])) };
}
/** Factors of 0: an expert that adds nothing here. */
export const nothing = (rank: number, { A, B }: Factors): Factors => {
  const [into, out] = [A.shape[1]!, B.shape[0]!];
  return { A: leaf(new Float32Array(rank * into), [rank, into]), B: leaf(new Float32Array(out * rank), [out, rank]) };
};

/** Random factors, neither of them zero: what stands for experts until a file fills them. A ~ U(±1/√in), B ~ U(±1/√r). */
export const placeholders = ({ shape: [out, into] }: Pick<Site<'linear'>, 'shape'>, configs: readonly ExpertConfig[], r: Rng): Factors[] =>
  configs.map(({ rank }, e) => {
    const draw = (name: string, n: number, from: number): Float32Array =>
      r.split(`${name} ${e}`).uniform(n, -1 / Math.sqrt(from), 1 / Math.sqrt(from));
    return { A: leaf(draw('A', rank * into!, into!), [rank, into!]), B: leaf(draw('B', out! * rank, rank), [out!, rank]) };
  });

/** The same numbers, to be trained on. */
export const opened = (t: Tensor): Tensor => (t.source.kind === 'leaf' ? param(t.source.data, t.shape) : t);

/** At least one expert, each of a rank that fits. */
export function expertsFit(name: string, site: Site<'linear'>, configs: readonly ExpertConfig[]): void {
  if (configs.length === 0) throw new RangeError(`${name} at ${site.path}: there are no experts; give at least one`);
  for (const c of configs) rankFits(name, site, c.rank);
}
/** Σ r(in + out) over the experts. */
export const expertsSize = ({ shape: [out, into] }: Pick<Site<'linear'>, 'shape'>, configs: readonly ExpertConfig[]): number =>
  configs.reduce((n, { rank }) => n + rank * (out! + into!), 0);
