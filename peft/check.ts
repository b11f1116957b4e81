// Configurations refused before anything is built.
import { type AnyLayer, isLayer, type Kind } from '../nn/layer.ts';
import { pick, type Site } from './site.ts';

/** 1 ≤ rank ≤ min(in, out) of the site's weight. */
export function rankFits(method: string, site: Site<Kind>, rank: number): void {
  const most = Math.min(...site.shape);
  if (!Number.isInteger(rank) || rank < 1 || rank > most)
    throw new RangeError(
      `${method}: rank ${rank} at ${site.path} must be a whole number from 1 to ${most}, the smaller side of its weight [${site.shape.join(', ')}]`,
    );
}

/** A whole number from `least` that no side of the weight bounds. */
export function wholeNumber(method: string, name: string, value: number, least = 1, most = Number.POSITIVE_INFINITY): void {
  if (!Number.isInteger(value) || value < least || value > most)
    throw new RangeError(
      `${method}: ${name} ${value} must be a whole number, ${least} ${most < Number.POSITIVE_INFINITY ? `to ${most}` : 'or more'}`,
    );
}

/** low ≤ value < high, or ≤ high where `closed`. */
export function between(method: string, name: string, value: number, low: number, high: number, closed = false): void {
  if (!(value >= low && (closed ? value <= high : value < high)))
    throw new RangeError(`${method}: ${name} ${value} must be at least ${low} and ${closed ? 'at most' : 'below'} ${high}`);
}

/** A share of inputs to drop: 0 ≤ p < 1. */
export const dropoutFits = (method: string, p: number): void => between(method, 'dropout', p, 0, 1);

/** A prompt or prefix that leaves room for at least one token: 0 ≤ p < longest. */
export function lengthFits(method: string, site: Site<'trunk'>, p: number): void {
  const longest = site.dim('longest');
  if (!Number.isInteger(p) || p < 0 || p >= longest)
    throw new RangeError(
      `${method}: length ${p} at ${site.path} must be a whole number from 0 to ${longest - 1}: this model has ${longest} positions, and the text needs some; choose a shorter length, or a model with more positions`,
    );
}

/** Ids that the model's embedding has rows for, at least one. */
export function idsFit(method: string, site: Site<Kind>, ids: readonly number[]): void {
  const [rows] = pick(site.root, 'embedding', 'embed', method)[0]!.shape as readonly [number];
  if (!(ids?.length > 0)) throw new RangeError(`${method}: init needs at least one token id`);
  const bad = ids.find((id) => !Number.isInteger(id) || id < 0 || id >= rows);
  if (bad !== undefined)
    throw new RangeError(
      `${method}: init names token ${bad}, but the vocabulary of this model is 0 … ${rows - 1}; encode the text with its own tokenizer`,
    );
}

/** For methods that put another number table in the place of a weight: it must be the whole weight, with no method on it. */
export function replaceable(l: AnyLayer): void {
  const there = l.attached ?? (isLayer(l.fields.weight) ? l.fields.weight.attached : null);
  if (there !== null)
    throw new Error(`${there.method} is already attached here, and this method replaces the weight beneath it; attach this one first`);
}
