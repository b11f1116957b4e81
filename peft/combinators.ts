// Eight ways to make one method of several (or of one): what hybrids are written with, those of papers and those of nobody yet.
//   stack: f₂ ∘ f₁   parallel: y + Σ (y_i − y)   average: Σ w_i y_i   gate: y + σ(w·x + b)(y₁ − y)   route: Σ softmax(R x)_i y_i
//   fuse: y + Σ softmax((W_q x + b)·(W_k u_i))_i W_v u_i,  u_i = y_i − y      mask: y + m ⊙ (y₁ − y),  m ∈ {0, 1}
//   split: token t gets y_i,  i = the span that t's position is in
// y [B, T, out] is what a place computed, y_i what it computes with method i, x [B, T, in] what it reads. All but `stack` give every
// method the place as it was, and are given methods that meet at places or at places apart; each is a method again.
import { softmax } from '../core/ops/fused.ts';
import { add, lt, mul, sigmoid, sub, where } from '../core/ops/map.ts';
import { stack as stacked } from '../core/ops/move.ts';
import type { Rng } from '../core/rng.ts';
import { size } from '../core/shape.ts';
import { type Data, leaf, param, type Tensor } from '../core/tensor.ts';
import type { Model } from '../nn/layer.ts';
import type { Env, Transform } from './method.ts';
import { type Place, type Rule, sideBySide } from './sideBySide.ts';

/**
 * One after the other, the first one innermost: each sees the model that those before it made. `stack(f, g)(model)` is g(f(model));
 * `stack()` changes nothing. The one combinator for methods at places inside one another (MAD-X, MAM, S4).
 */
export function stack(...transforms: readonly Transform[]): Transform {
  return Object.assign((model: Model): Model => transforms.reduce((m, t) => t(m), model), {
    title: transforms.length === 0 ? 'nothing' : transforms.map((t) => t.title).join(' + '),
    parts: transforms.flatMap((t) => t.parts),
    prepare: async (model: Model, env: Env): Promise<Transform> => {
      const ready: Transform[] = [];
      let m = model;
      for (const t of transforms) {
        // each sees the model its predecessors made
        const r = await t.prepare(m, env);
        ready.push(r);
        m = r(m);
      }
      return stack(...ready);
    },
  });
}

const none: Pick<Rule, 'own' | 'readsX'> = { own: () => [], readsX: false };
/** softmax over the last dimension, and the answers weighed by it: p [B, T, n], ys n × [B, T, out] → [B, T, out] */
const weighed = (p: Tensor, ys: readonly Tensor[]): Tensor => ys.map((v, i) => v.mul(p.slice(p.shape.length - 1, i, i + 1))).reduce(add);

/**
 * y + Σ (y_i − y): changes add up, each made to the layer as it was (He et al. 2022, the parallel form). Commutative and associative; one
 * member is that member; for LoRA the same as `stack`, for methods that read what the one before computed it is not. Merges where all
 * members do. Brings nothing.
 */
export const parallel = (...members: readonly Transform[]): Transform =>
  sideBySide({ name: 'parallel', paper: 'arXiv:2110.04366', ...none, mix: (y, ys) => ys.map((v) => sub(v, y)).reduce(add, y) }, members, 0);

/**
 * Σ w_i y_i with weights that sum to 1 (equal ones by default): the mean of what the methods make of a place (AdaMix, AdapterSoup, on
 * outputs). Merges where all members do. Brings nothing.
 */
export function average(members: readonly Transform[], weights: readonly number[] = members.map(() => 1 / members.length)): Transform {
  const sum = weights.reduce((a, b) => a + b, 0);
  if (weights.length !== members.length || !(Math.abs(sum - 1) < 1e-9))
    throw new RangeError(`average: ${members.length} methods need as many weights that sum to 1, got ${weights.join(', ')}`);
  const mix: Rule['mix'] = (_, ys) => ys.map((v, i) => v.mul(weights[i]!)).reduce(add);
  return sideBySide({ name: 'average', paper: 'arXiv:2302.07027', ...none, mix }, members, 0);
}

/** The width of what a place reads; a place that reads no vectors was refused before. */
const read = ({ reads }: Place): number => reads!;

/** y + g(y₁ − y), g = σ(w·x + b) for each token (Mao et al. 2022, UniPELT's gate). w ~ N(0, 0.02²), b = 0. Count: in + 1 at each place. */
export const gate = (member: Transform, seed = 0): Transform =>
  sideBySide(
    {
      name: 'gate',
      paper: 'arXiv:2110.07577',
      readsX: true,
      own: (at, _, r) => [param(r.normal(read(at), 0.02), [1, read(at)]), param([0], [1], { decay: false })],
      mix: (y, [y1], x, [w, b]) => add(y, mul(sigmoid(x.matmul(w!.T).add(b!)), sub(y1!, y))), // g [B, T, 1]
    },
    [member],
    seed,
  );

/** Σ softmax(R x)_i y_i for each token, all members computed (soft merging, Zadouri et al. 2023). R [n, in] ~ N(0, 0.02²). Count: n·in at each place. */
export const route = (members: readonly Transform[], seed = 0): Transform =>
  sideBySide(
    {
      name: 'route',
      paper: 'arXiv:2309.05444',
      readsX: true,
      own: (at, n, r) => [param(r.normal(n * read(at), 0.02), [n, read(at)])],
      mix: (_, ys, x, [R]) => weighed(softmax(x.matmul(R!.T)), ys), // [B, T, n]
    },
    members,
    seed,
  );

/**
 * Attention over what the methods change: y + Σ α_i W_v u_i with u_i = y_i − y and α = softmax_i((W_q x + b)·(W_k u_i)), for each token
 * (Pfeiffer et al. 2021, AdapterFusion, for any methods and any place; the paper's own layer, over trained adapters, is `fused`).
 * W_q [out, in], W_k [out, out] ~ N(0, 0.02²), b = 0; W_v [out, out] = I, or left out with `value: false`. No W_k bias: the softmax
 * cancels it. Count: out·in + out + out² at each place, and out² more with W_v.
 */
export function fuse(
  members: readonly Transform[],
  { value = true, seed = 0 }: { readonly value?: boolean; readonly seed?: number } = {},
): Transform {
  const own: Rule['own'] = (at, _, r) => {
    const [into, out] = [read(at), at.answers[0]!];
    const normal = (name: string, n: number): Tensor => param(r.split(name).normal(out * n, 0.02), [out, n]);
    const one = Float32Array.from({ length: out * out }, (_, i) => (i % (out + 1) === 0 ? 1 : 0));
    const q = [normal('query', into), param(new Float32Array(out), [out], { decay: false }), normal('key', out)];
    return value ? [...q, param(one, [out, out])] : q;
  };
  const mix: Rule['mix'] = (y, ys, x, [query, bias, key, v]) => {
    const us = ys.map((one) => sub(one, y)); // each [B, T, out]
    const q = x.matmul(query!.T).add(bias!); // [B, T, out]
    const scores = stacked(
      us.map((u) => mul(u.matmul(key!.T), q).sum([-1])),
      -1,
    ); // [B, T, n]
    const mean = weighed(softmax(scores), us);
    return y.add(v === undefined ? mean : mean.matmul(v.T)); // Σ α_i W_v u_i = W_v Σ α_i u_i
  };
  return sideBySide({ name: 'fuse', paper: 'arXiv:2005.00247', readsX: true, own, mix }, members, seed);
}

/**
 * y + m ⊙ (y₁ − y): the method's change, kept where m is 1 and left out where it is 0. `keep` is the share of 1s, drawn by `seed`, or a
 * function that gives m for a place: a number for each feature of its answers [out], or for each entry of a weight where the method
 * attaches to weights (diff pruning's z, Guo et al. 2021). m is frozen, and stored with the method. Merges where the member does.
 * What m leaves out is still trained, with a zero gradient; to leave out whole places say so with the method's `where`.
 */
export function mask(member: Transform, keep: number | ((at: Place, r: Rng) => Data), seed = 0): Transform {
  if (typeof keep === 'number' && !(keep >= 0 && keep <= 1)) throw new RangeError(`mask: a share of ${keep} must be from 0 to 1`);
  const drawn = (at: Place, r: Rng): Data => {
    const n = size(at.answers);
    const chosen = r.permutation(n).slice(0, Math.round((keep as number) * n));
    const m = new Float32Array(n);
    for (const k of chosen) m[k] = 1;
    return m;
  };
  const own: Rule['own'] = (at, _, r) => {
    const m = (typeof keep === 'number' ? drawn : keep)(at, r);
    if (m.length !== size(at.answers) || !m.every((v) => v === 0 || v === 1))
      throw new RangeError(
        `mask: ${at.path} needs a 0 or 1 for each of its ${size(at.answers)} ${at.answers.length > 1 ? 'entries' : 'features'}, got ${m.length} numbers${m.length === size(at.answers) ? ', some of them neither' : ''}`,
      );
    return [leaf(m, at.answers)];
  };
  const mix: Rule['mix'] = (y, [y1], _, [m]) => add(y, mul(m!, sub(y1!, y)));
  return sideBySide({ name: 'mask', paper: 'arXiv:2012.07463', readsX: false, own, mix }, [member], seed);
}

/**
 * A method for each span of the text: the first for `lengths[0]` tokens from the front, the next for `lengths[1]`, the last for what is
 * left (AdapterHub's `Split`, whose lengths are all given and add up to T). Tokens are told apart by their positions, so that a token made
 * in generation has the method it would have in the whole text; a prefix or prompt in front moves positions, and the spans are counted
 * with it. Splitting at 0 is the last method alone. Brings nothing.
 */
export function split(members: readonly Transform[], lengths: readonly number[]): Transform {
  if (lengths.length !== members.length - 1 || !lengths.every((n) => Number.isInteger(n) && n >= 0))
    throw new RangeError(
      `split: ${members.length} methods need ${members.length - 1} whole lengths (the last method has what is left), got ${lengths.join(', ')}`,
    );
  const ends = lengths.map((_, k) => lengths.slice(0, k + 1).reduce((a, b) => a + b));
  const mix: Rule['mix'] = (_, ys, _x, _own, ctx) => {
    const { positions } = ctx!; // never on weights: where x stands decides
    const at = positions.reshape(...(positions.shape.length === 1 ? [1] : []), ...positions.shape, 1); // [1 or B, T, 1]
    return ends.reduceRight((rest, end, k) => where(lt(at, end), ys[k]!, rest), ys.at(-1)!);
  };
  return sideBySide({ name: 'split', paper: 'arXiv:2311.11077', own: () => [], readsX: true, mix }, members, 0);
}
