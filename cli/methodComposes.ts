// What a method can be put on top of, found by doing it: on small networks on which stand a method that merges, and one that does not.
import { float64 } from '../core/engines/float64.ts';
import { rng } from '../core/rng.ts';
import type { Tensor } from '../core/tensor.ts';
import { decoder, llama } from '../nn/decoder.ts';
import { freeze } from '../nn/freeze.ts';
import type { Kind, Model } from '../nn/layer.ts';
import { defineMethod } from '../peft/attach.ts';
import { stack } from '../peft/combinators.ts';
import type { Listed } from '../peft/listed.ts';
import type { Transform } from '../peft/method.ts';
import { small, smallAttached } from './methodFigure.ts';

/** What may stand at its places already: any method, those that merge into weights, or none. What may be put on top of it, the other says. */
export type Composable = 'any' | 'mergeable' | 'none';
/** For a table whose column says `composable`. */
export const COMPOSABLE: Readonly<Record<Composable, string>> = { any: 'yes', mergeable: 'over what merges', none: 'as the first' };

/** A method that computes nothing of its own and merges, or does not. */
const probe = (at: Kind, merges: boolean): Transform =>
  defineMethod<Kind, object, Record<string, Tensor>>({
    name: 'probe',
    family: 'hybrid',
    paper: 'https://example.org',
    at,
    defaults: { where: () => true },
    init: () => ({ train: {} }),
    around: (call) => call,
    ...(merges ? { fold: (w) => w } : {}),
    count: () => ({ train: 0, stored: 0 }),
    startsAsBase: () => 'bitwise',
  })();
/** Nothing at a weight is without a fold: it is a number table, whatever computes it. */
const everywhere = (merges: boolean): Transform =>
  stack(...(['linear', 'norm', 'embedding', ...(merges ? (['weight'] as const) : [])] as const).map((at) => probe(at, merges)));

const REFUSED = /cannot be folded into a weight|replaces the weight beneath/;

/** Answers what methods can be put on top of. The networks are made once: a GPT-2, and a LLaMA for what GPT-2 has no place for. */
export function composing(): (m: Listed) => Promise<Composable> {
  const engine = float64();
  const bases = [small(), freeze(decoder(llama({ vocabulary: 12, width: 8, layers: 2, heads: 2, inner: 12, positions: 16 }), rng(0)))];
  const grounds = bases.map((base) => ({ merges: everywhere(true)(base), stays: everywhere(false)(base) }));
  /** Whether it can be attached to a model: null where that is refused for another reason than what stands there. */
  const attaches = async (m: Listed, model: Model): Promise<boolean | null> => {
    try {
      await smallAttached(m, model, engine);
      return true;
    } catch (e) {
      return e instanceof Error && REFUSED.test(e.message) ? false : null;
    }
  };
  return async (m) => {
    for (const { merges, stays } of grounds) {
      const over = [await attaches(m, stays), await attaches(m, merges)];
      if (over.includes(null)) continue; // no place for it in this network
      // over layers with a method, and not over weights with one: it replaces the weight itself (PEQA)
      return over[1] ? (over[0] ? 'any' : 'mergeable') : 'none';
    }
    throw new Error(`${m.name}: neither a small GPT-2 nor a small LLaMA has a place for it, so what it composes with is unknown`);
  };
}
