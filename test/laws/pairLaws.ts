// Laws for two methods on one model, one attached after the other: the second starts as it declares on top of the first,
// everything trains, both merge where both can, and both come off.
import type { Engine } from '../../core/engine.ts';
import type { Numbers } from '../../core/plan.ts';
import type { Model } from '../../nn/layer.ts';
import { layers, trainable } from '../../nn/tree.ts';
import { stack } from '../../peft/combinators.ts';
import type { Listed } from '../../peft/listed.ts';
import { detach, merge } from '../../peft/merge.ts';
import type { Transform } from '../../peft/method.ts';
import { gradients } from './graph.ts';
import { apart, CLOSE, mergeable, ready, sameBits, start } from './methodCase.ts';
import { type Network, numbersOf, perturb, run, snapshot } from './models.ts';

/** What became of a pair: its laws hold, the second method refused to sit on the first one, or it trains before it attaches and the first lets nothing through; saying why. */
export type Verdict = { readonly kind: 'holds'; readonly merged: boolean } | { readonly kind: 'refused' | 'idle'; readonly why: string };

/** Reasons for which a method may refuse to be put on top of another: it needs a weight, and what is beneath is not one. */
const REASONS = /cannot be folded into a weight|replaces the weight beneath/;
const NOTHING_MOVED = /training moved none of its weights/;

/** A first method on a network, attached and moved to generic values: what any number of second ones are judged on. */
export interface Beneath {
  readonly a: Listed;
  readonly net: Network;
  readonly seed: number;
  readonly engine: Engine;
  readonly first: Transform;
  readonly under: Model;
  /** What the network computes with it, and without. */
  readonly numbers: Numbers;
  readonly base: Numbers;
}
export async function beneath(a: Listed, net: Network, seed: number, engine: Engine): Promise<Beneath> {
  const first = await ready(a.tiny({ seed }), net, engine);
  const under = perturb(first(net.base), seed);
  const [numbers, base] = [await numbersOf(engine, net, under), await numbersOf(engine, net, net.base)];
  return { a, net, seed, engine, first, under, numbers, base };
}

/** Throws where a law is broken, naming methods, network and seed. */
export async function judgeOn(on: Beneath, b: Listed): Promise<Verdict> {
  try {
    return await judged(on, b);
  } catch (e) {
    const { a, net, seed } = on;
    throw new Error(`${a.name}, then ${b.name}, on ${net.name}, seed ${seed}: ${e instanceof Error ? e.message : String(e)}`, { cause: e });
  }
}
export const judgePair = async (a: Listed, b: Listed, net: Network, seed: number, engine: Engine): Promise<Verdict> =>
  judgeOn(await beneath(a, net, seed, engine), b);

/** A transform that is ready for every model: it was prepared on the same one before. */
const prepared = (t: Transform): Transform =>
  Object.assign((m: Model): Model => t(m), { title: t.title, parts: t.parts, prepare: async (): Promise<Transform> => t });

async function judged({ a, net, seed, engine, first, under, numbers, base }: Beneath, b: Listed): Promise<Verdict> {
  const must = (holds: boolean, what: string): void => {
    if (!holds) throw new Error(what);
  };
  let second: Transform;
  let both: Model;
  try {
    second = await ready(b.tiny({ seed: seed + 1 }), net, engine, under);
    both = second(under);
  } catch (e) {
    const why = e instanceof Error ? e.message : String(e);
    const idle = NOTHING_MOVED.test(why);
    if (!idle && !REASONS.test(why)) throw e;
    must(why.includes(a.name) || first.parts.some((p) => why.includes(p.method.name)), `a refusal must name what is in the way: ${why}`);
    return { kind: idle ? 'idle' : 'refused', why };
  }

  const fresh = await numbersOf(engine, net, both);
  const [declared, d] = [start(second), apart(numbers, fresh)];
  if (declared === 'bitwise') must(sameBits(numbers, fresh), `the second declares 'bitwise' but changes the first by ${d}`);
  if (declared === 'close') must(d <= CLOSE, `the second declares 'close' but changes the first by ${d}`);
  if (declared === 'no') must(d > 1e-6, `the second declares that it changes what is beneath, but does so by only ${d}`);

  const model = perturb(both, seed + 2);
  const { loss } = run(net, model);
  const grads = gradients(loss, model);
  const names = [...trainable(model).values()];
  const [trained, were, brings] = [trainable(both), trainable(under), trainable(second(net.base)).size];
  const lost = [...were].filter(([p]) => !trained.has(p)).map(([, path]) => path);
  must(lost.length === 0, `no longer trains ${lost.join(', ')}`);
  // GLoRA has more to train where the first method brings a bias to a layer that had none.
  must(trained.size - were.size >= brings, `brings ${trained.size - were.size} trained tensors, and to the base it brought ${brings}`);
  const outputs = Object.fromEntries([loss, ...grads].map((g, k) => [`g${k}`, g]));
  const store = engine.store();
  const got = await (await engine.compile(store, { outputs })).run();
  store.close();
  for (const [k, name] of ['loss', ...names].entries()) must(got[`g${k}`]!.every(Number.isFinite), `${name} is not finite`);

  const merged = mergeable(first) && mergeable(second);
  if (merged) {
    const apartBy = apart(await numbersOf(engine, net, model), await numbersOf(engine, net, merge(model)));
    must(apartBy <= CLOSE, `merged and attached differ by ${apartBy}`);
  }
  const changed = snapshot(net.base);
  const off = detach(model);
  must(
    [...layers(off)].every(({ layer }) => layer.attached === null),
    'attachments are left after detaching',
  );
  must(sameBits(await numbersOf(engine, net, off), base), 'detached is not the base bit for bit');
  must(changed() === null, `a frozen number of ${changed()} changed`);

  const composed = await ready(stack(prepared(first), b.tiny({ seed: seed + 1 })), net, engine);
  must(composed.parts.length === first.parts.length + second.parts.length, 'stack lost a part');
  must((await numbersOf(engine, net, composed(net.base))).every(Number.isFinite), 'stacked, the output is not finite');
  return { kind: 'holds', merged };
}

/** What became of all pairs that have one first method, on one network. */
export interface Tally {
  readonly pairs: number;
  readonly held: number;
  readonly merged: number;
  readonly refused: readonly string[];
  readonly idle: readonly string[];
  readonly broken: readonly string[];
}
export async function judgeAllOn(a: Listed, all: readonly Listed[], net: Network, seed: number, engine: Engine): Promise<Tally> {
  const count = { held: 0, merged: 0 };
  const refused: string[] = [];
  const idle: string[] = [];
  const broken: string[] = [];
  const on = await beneath(a, net, seed, engine);
  const changed = snapshot(on.under);
  for (const b of all)
    try {
      const verdict = await judgeOn(on, b);
      if (verdict.kind === 'refused') refused.push(`${a.name} → ${b.name}`);
      else if (verdict.kind === 'idle') idle.push(`${a.name} → ${b.name}`);
      else count.held++;
      if (verdict.kind === 'holds' && verdict.merged) count.merged++;
    } catch (e) {
      broken.push(e instanceof Error ? e.message : String(e));
    }
  if (changed() !== null || !sameBits(on.numbers, await numbersOf(engine, net, on.under)))
    broken.push(`${a.name} on ${net.name}, seed ${seed}: one of the second methods changed the model it was attached to (${changed()})`);
  return { pairs: all.length, ...count, refused, idle, broken };
}

export const fitting = (methods: readonly Listed[], net: Network): readonly Listed[] =>
  methods.filter((m) => m.unfit[net.name] === undefined);
/** Every ordered pair of methods that fit a network. */
export const pairsOn = (methods: readonly Listed[], net: Network): (readonly [Listed, Listed])[] => {
  const fit = fitting(methods, net);
  return fit.flatMap((a) => fit.map((b) => [a, b] as const));
};
