// From logits to a token, on the host: temperature, top-k and top-p make a distribution, one uniform number picks from it.

export interface Sampling {
  /** Logits are divided by it: below 1 sharper, above 1 flatter; 0 always takes the largest (greedy). Default 1. */
  readonly temperature?: number;
  /** Only the k most likely tokens; of equally likely ones those with the lower ids. */
  readonly topK?: number;
  /** Only the fewest most likely tokens that together reach probability p (Holtzman et al. 2019, arXiv 1904.09751), after topK. */
  readonly topP?: number;
}

/** Throws a RangeError that names the option and what it may be. */
export function checkSampling({ temperature = 1, topK, topP }: Sampling): void {
  if (!(temperature >= 0 && temperature < Infinity))
    throw new RangeError(`temperature is ${temperature}; it must be a number from 0 (greedy) upwards`);
  if (topK !== undefined && !(Number.isInteger(topK) && topK >= 1))
    throw new RangeError(`topK is ${topK}; it must be a whole number of tokens from 1 upwards, or be left out`);
  if (topP !== undefined && !(topP > 0 && topP <= 1))
    throw new RangeError(`topP is ${topP}; it must be above 0 and at most 1, or be left out`);
}

/** The largest logit's token; of equal ones the first. Throws when a logit is not a number. */
function largest(logits: ArrayLike<number>): number {
  let best = 0;
  for (let i = 0; i < logits.length; i++) {
    const v = logits[i]!;
    if (Number.isNaN(v)) throw new Error(`the logit of token ${i} is NaN: the model's weights or its input are broken`);
    if (v > logits[best]!) best = i;
  }
  return best;
}

/** What is drawn from: probabilities [V] after temperature, top-k and top-p, in that order. */
export function distribution(logits: ArrayLike<number>, options: Sampling = {}): Float64Array {
  checkSampling(options);
  const { temperature = 1, topK = logits.length, topP = 1 } = options;
  const best = largest(logits);
  const p = new Float64Array(logits.length);
  if (temperature === 0) {
    p[best] = 1;
    return p;
  }
  for (let i = 0; i < p.length; i++) p[i] = Math.exp((logits[i]! - logits[best]!) / temperature);
  if (topK < p.length || topP < 1) keepLikely(p, topK, topP);
  const total = sum(p);
  return p.map((v) => v / total);
}

const sum = (p: Float64Array): number => p.reduce((a, b) => a + b, 0);

/** Sets to 0 all but the k most likely, and of those all but the fewest that reach the share topP of what is left. */
function keepLikely(p: Float64Array, topK: number, topP: number): void {
  const order = Uint32Array.from(p.keys()).sort((a, b) => p[b]! - p[a]! || a - b);
  for (const i of order.subarray(topK)) p[i] = 0;
  const enough = topP * sum(p);
  let reached = 0;
  for (const i of order.subarray(0, topK)) {
    if (reached >= enough) p[i] = 0;
    else reached += p[i]!;
  }
}

/** The token whose share of [0, 1) holds u; tokens of probability 0 are never answered. */
export function pick(p: ArrayLike<number>, u: number): number {
  let below = 0;
  let last = 0;
  for (let i = 0; i < p.length; i++) {
    if (p[i]! === 0) continue;
    below += p[i]!;
    last = i;
    if (u < below) return i;
  }
  return last; // rounding left the sum just under u
}
