// The laws of METHODS.md §0.5: what every method must keep, on every network, in double precision.
import { mkdtemp, rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { Numbers } from '../../core/plan.ts';
import { rng } from '../../core/rng.ts';
import { size } from '../../core/shape.ts';
import { type Data, type Param, stateOf, type Tensor, topological } from '../../core/tensor.ts';
import { loadAdapter, saveAdapter } from '../../io/adapters.ts';
import { stochastic } from '../../nn/context.ts';
import { realize } from '../../nn/freeze.ts';
import type { Model } from '../../nn/layer.ts';
import { layers, params, tensors, trainable } from '../../nn/tree.ts';
import { detach, finish, merge } from '../../peft/merge.ts';
import { mixed } from '../../peft/mixed.ts';
import { matches, pick, type Where } from '../../peft/site.ts';
import { unpacked } from '../../quant/quantize.ts';
import { SCRATCH } from '../scratch.ts';
import { backwardPaths, frozenGradientsIn, gradients, held, ownTensors } from './graph.ts';
import { apart, type Case, CLOSE, finite, type Law, largest, mergeable, must, ready, refusal, sameBits, start } from './methodCase.ts';
import { type Network, numbersOf, perturb, run, snapshot } from './models.ts';
import { textOf, trainerOn } from './training.ts';

const identity: Law = {
  id: 'I1',
  says: 'a fresh attachment starts as it declares: bit for bit, close, or really different',
  async check(c) {
    const declared = start(c.method);
    const [base, fresh] = [await numbersOf(c.engine, c.net, c.net.base), await numbersOf(c.engine, c.net, c.fresh)];
    const d = apart(base, fresh);
    if (declared === 'bitwise') must(c, sameBits(base, fresh), `declares 'bitwise' but differs from the base by ${d}`);
    if (declared === 'close') must(c, d <= CLOSE, `declares 'close' but differs from the base by ${d}`);
    if (declared === 'no') must(c, d > 1e-6, `declares that it does not start as the base, but differs by only ${d}`);
  },
};

const freezing: Law = {
  id: 'I2',
  says: 'no gradient of a frozen weight is in the graph, and frozen numbers keep their bits over three steps',
  async check(c) {
    const { loss } = run(c.net, c.model);
    const grads = gradients(loss, c.model);
    const found = frozenGradientsIn([loss, ...grads], loss, c.model);
    must(c, found.length === 0, `the training graph computes gradients of frozen ${found.join(', ')}`);
    const changed = snapshot(c.model);
    const before = await numbersOf(c.engine, c.net, c.net.base);
    const store = c.engine.store();
    const all = [...trainable(c.model).keys()];
    const next = new Map(all.map((p, k) => [p, stateOf(p).sub(grads[k]!.mul(0.05))]));
    const step = await c.engine.compile(store, { outputs: { loss }, next });
    for (let k = 0; k < 3; k++) must(c, Number.isFinite((await step.run()).loss[0]), `the loss is not finite at step ${k + 1}`);
    const moved = await store.read(all);
    must(
      c,
      [...moved].some(([p, now]) => now.some((v, i) => v !== p.value[i])),
      'three steps changed no trained tensor',
    );
    store.close();
    must(c, changed() === null, `training wrote into the frozen ${changed()}`);
    must(c, sameBits(before, await numbersOf(c.engine, c.net, c.net.base)), 'training changed what the base computes');
  },
};

/**
 * A key bias (or shift) adds the same number to a query's scores over all keys, which softmax cancels: its gradient is zero by theory. With
 * rotary positions it is turned with the keys, and counts.
 */
const cancels = ({ net }: Case, path: string): boolean => net.name !== 'llama' && /attn\.k\.(bias|ssfLinear\.beta)/.test(path);

/** Declared so by the method that brought the tensor. */
const declared = (what: 'idle' | 'inexact', c: Case, path: string): boolean =>
  c.method.parts.some(({ method: m }) => Object.keys(m[what] ?? {}).some((name) => path.endsWith(`.${m.name}.${name}`)));

const receives: Law = {
  id: 'I3',
  says: 'every trained tensor gets a finite gradient, and one that is not zero once the tensors are generic; those declared idle, and key biases where they cancel, get zero',
  async check(c) {
    for (const [when, model] of [['at the start', c.fresh] as const, ['when generic', c.model] as const]) {
      const { loss } = run(c.net, model);
      const grads = gradients(loss, model);
      const outputs = Object.fromEntries(grads.map((g, k) => [`g${k}`, g]));
      const got = await (await c.engine.compile(c.engine.store(), { outputs })).run();
      for (const [k, path] of [...trainable(model).values()].entries()) {
        const g = got[`g${k}`]!;
        must(c, finite(g), `${path} has a gradient that is not finite ${when}`);
        if (declared('idle', c, path)) must(c, largest(g) <= 1e-12, `${path} is declared idle but gets a gradient (largest ${largest(g)})`);
        else if (cancels(c, path))
          must(c, largest(g) <= 1e-12, `${path} cancels in the softmax but gets a gradient (largest ${largest(g)})`);
        else if (model === c.model) must(c, largest(g) > 1e-14, `${path} gets no gradient ${when} (largest ${largest(g)})`);
      }
    }
  },
};

const merging: Law = {
  id: 'I4',
  says: 'merged computes the same as attached, without attachments and in the shapes of the base; the unmergeable is refused by name',
  async check(c) {
    if (!mergeable(c.method)) {
      const why = refusal(() => merge(c.model));
      must(c, why !== null, 'has no fold, but merge did not refuse it');
      const names = c.method.parts.filter((p) => !p.method.mergeable).map((p) => p.method.name);
      must(c, names.some((n) => why!.includes(n)) && why!.length > 60, `merge must name the method and the reason; it said: ${why}`);
      return;
    }
    const merged = merge(c.model);
    const d = apart(await numbersOf(c.engine, c.net, c.model), await numbersOf(c.engine, c.net, merged));
    must(c, d <= CLOSE, `merged and attached differ by ${d}`);
    must(
      c,
      [...layers(merged)].every(({ layer }) => layer.attached === null),
      'attachments are left after merging',
    );
    const shapes = (m: Model): string =>
      [...tensors(unpacked(m))]
        .map(({ path, tensor }) => `${path} ${tensor.shape}`)
        .filter((l) => !l.includes('.bias'))
        .sort()
        .join('\n');
    must(c, shapes(merged) === shapes(c.net.base), `the merged model has other tensors than the base:\n${shapes(merged)}`);
  },
};

const unmerging: Law = {
  id: 'I5',
  says: 'merging leaves the attached model and the base as they were, bit for bit',
  async check(c) {
    const changed = snapshot(c.model);
    const before = await numbersOf(c.engine, c.net, c.model);
    if (mergeable(c.method)) await numbersOf(c.engine, c.net, merge(c.model));
    else refusal(() => merge(c.model));
    must(c, changed() === null, `merging wrote into ${changed()}`);
    must(c, sameBits(before, await numbersOf(c.engine, c.net, c.model)), 'merging changed the attached model');
  },
};

const counting: Law = {
  id: 'I6',
  says: 'the declared counts are what is trained, and what is stored after finish',
  async check(c) {
    let model = c.net.base;
    let [train, stored] = [0, 0];
    for (const part of c.method.parts) {
      const n = part.method.count(pick(model, part.method.at, part.config.where, part.method.name), part.config, part.prepared);
      train += n.train;
      stored += n.stored;
    }
    model = c.fresh;
    const actual = [...trainable(model).keys()].reduce((n, p) => n + size(p.shape), 0);
    must(c, train === actual, `declares ${train} trained scalars and has ${actual}`);
    const kept = [...ownTensors(finish(model)).values()].reduce((n, { tensor }) => n + size(tensor.shape), 0);
    must(c, stored === kept, `declares ${stored} stored scalars and holds ${kept} after finish`);
  },
};

const saving: Law = {
  id: 'I7',
  says: 'saved and loaded into a fresh attachment, it computes the same bits; so does its finished form',
  async check(c) {
    const folder = await mkdtemp(join(SCRATCH, 'tinypeft-laws-'));
    try {
      const before = await numbersOf(c.engine, c.net, c.model);
      await saveAdapter(c.model, folder);
      must(c, sameBits(before, await numbersOf(c.engine, c.net, await loadAdapter(c.fresh, folder))), 'loaded is not what was saved');
      const done = await realize(finish(c.model), c.engine);
      await saveAdapter(done, folder);
      const loaded = await loadAdapter(c.fresh, folder);
      must(
        c,
        sameBits(await numbersOf(c.engine, c.net, done), await numbersOf(c.engine, c.net, loaded)),
        'loaded is not what was finished and saved',
      );
    } finally {
      await rm(folder, { recursive: true });
    }
  },
};

const detaching: Law = {
  id: 'I8',
  says: 'detached is the base bit for bit; changing from one attachment to another and back changes nothing',
  async check(c) {
    const base = await numbersOf(c.engine, c.net, c.net.base);
    must(c, sameBits(base, await numbersOf(c.engine, c.net, detach(c.model))), 'the detached model is not the base bit for bit');
    const left = [...params(detach(c.model)).values()];
    must(c, left.length === 0, `parameters are left after detaching: ${left.join(', ')}`);
    const a = await numbersOf(c.engine, c.net, c.model);
    const other = perturb(c.fresh, c.seed + 1);
    const b = await numbersOf(c.engine, c.net, other);
    must(c, !sameBits(a, b), 'two different sets of values compute the same');
    must(c, sameBits(a, await numbersOf(c.engine, c.net, c.model)), 'A after B is not A');
    must(c, sameBits(base, await numbersOf(c.engine, c.net, c.net.base)), 'the base changed');
  },
};

const deterministic: Law = {
  id: 'I9',
  says: 'quiet evaluation is the same twice; random evaluation follows its seed',
  async check(c) {
    must(c, sameBits(await numbersOf(c.engine, c.net, c.model), await numbersOf(c.engine, c.net, c.model)), 'two quiet evaluations differ');
    const { output } = run(c.net, c.model, stochastic());
    const draws = topological([output]).some((t) => t.source.kind === 'input');
    const plan = await c.engine.compile(c.engine.store(), { outputs: { output } });
    const [a, again, b] = [await plan.run({}, 1), await plan.run({}, 1), await plan.run({}, 2)].map((r) => r.output);
    must(c, sameBits(a!, again!), 'two random evaluations with one seed differ');
    must(c, sameBits(a!, b!) !== draws, draws ? 'draws random numbers that change nothing' : 'is random without drawing');
  },
};

const derivative: Law = {
  id: 'I10',
  says: 'gradients agree with central differences of the loss, stopped gradients held; those declared inexact differ',
  async check(c) {
    const { loss } = run(c.net, c.model);
    const all = [...trainable(c.model)];
    const grads = gradients(loss, c.model);
    const store = c.engine.store();
    const got = await (await c.engine.compile(store, { outputs: Object.fromEntries(grads.map((g, k) => [`g${k}`, g])) })).run();
    const value = await c.engine.compile(store, { outputs: { loss: await held(loss, c.engine) } });
    const h = 1e-5;
    for (const [k, [p, path]] of all.entries()) {
      const d = unit(rng(c.seed).split(`direction ${path}`).normal(size(p.shape)));
      const at = async (t: number): Promise<number> => {
        store.write(new Map<Param, Data>([[p, Float64Array.from(p.value, (v, i) => v + t * d[i]!)]]));
        return (await value.run()).loss[0]!;
      };
      const measured = ((await at(h)) - (await at(-h))) / (2 * h);
      await at(0);
      const g = Array.from(got[`g${k}`]!);
      const analytic = g.reduce((n, v, i) => n + v * d[i]!, 0);
      const bound = 1e-6 * Math.sqrt(g.reduce((n, v) => n + v * v, 0)) + 1e-9;
      const agree = Math.abs(measured - analytic) <= bound;
      const inexact = declared('inexact', c, path);
      must(
        c,
        agree !== inexact,
        `${path}: the gradient gives ${analytic}, central differences ${measured}${inexact ? ', though it is declared inexact' : ''}`,
      );
    }
    store.close();
  },
};
const unit = (v: Float32Array): Float64Array => {
  const n = Math.hypot(...v);
  return Float64Array.from(v, (x) => x / n);
};

/** The same network on the first row of its batch alone. */
const firstRow = (net: Network): Network => {
  const first = (t: Tensor | null | undefined): Tensor | null => t?.slice(0, 0, 1) ?? null;
  const { ids, keyMask, types } = net.batch;
  return { ...net, targets: net.targets.slice(0, 0, 1), batch: { ids: ids.slice(0, 0, 1), keyMask: first(keyMask), types: first(types) } };
};

const mixing: Law = {
  id: 'I11',
  says: 'in a batch of mixed adapters each row is what its own adapter computes; where all rows must share a weight it is refused by name',
  async check(c) {
    const models = [c.model, c.net.base, perturb(c.fresh, c.seed + 1)];
    if (c.method.parts.some((p) => p.method.at === 'weight')) {
      const why = refusal(() => mixed(models));
      const alone = c.method.parts.every((p) => p.method.at === 'weight'); // else each adapter's layers may be computed whole, their weights with them
      must(
        c,
        (why === null && !alone) || why?.includes('all rows of a batch share') === true,
        `sits on weights, which rows cannot have of their own; mixed said: ${why}`,
      );
      if (why !== null) return;
    }
    const across = c.method.parts.map((p) => p.method.acrossRows).filter((why) => why !== undefined);
    if (across.length > 0) {
      const why = refusal(() => mixed(models));
      must(c, why?.includes(across[0]!) === true, `says that its rows depend on each other; mixed said: ${why}`);
      const [whole, alone] = [await numbersOf(c.engine, c.net, c.model), await numbersOf(c.engine, firstRow(c.net), c.model)];
      must(
        c,
        apart(whole.slice(0, alone.length), alone) > 1e-9,
        'says that its rows depend on each other, but the first computes the same alone',
      );
      return;
    }
    const served = [2, 0]; // the first text, the second text; the base is there and serves none
    const together = (await c.engine.read(run(c.net, mixed(models)).output, { adapter: served })).slice();
    const width = together.length / served.length;
    for (const [row, n] of served.entries()) {
      const part = (v: Numbers): Numbers => v.slice(row * width, (row + 1) * width);
      const d = apart(part(await numbersOf(c.engine, c.net, models[n]!)), part(together));
      must(c, d <= CLOSE, `row ${row} differs by ${d} from what model ${n} computes alone`);
    }
  },
};

const finishing: Law = {
  id: 'finish',
  says: 'the finished model computes the same and trains no more than before',
  async check(c) {
    const done = finish(c.model);
    const d = apart(await numbersOf(c.engine, c.net, c.model), await numbersOf(c.engine, c.net, done));
    must(c, d <= CLOSE, `finished and unfinished differ by ${d}`);
  },
};

const training: Law = {
  id: 'I12',
  says: 'a dozen real steps, hooks and controllers included, lower the loss; what comes out merges, finishes and comes off',
  async check(c) {
    const changed = snapshot(c.fresh);
    const steps = 12;
    await using t = await trainerOn(c.net, c.fresh, c.engine, steps, c.seed);
    const batch = textOf(c.net);
    const before = await t.evaluate([batch]);
    for (let k = 0; k < steps; k++) await t.step(batch);
    const after = await t.evaluate([batch]);
    must(c, after < before, `the loss went from ${before} to ${after}`);
    must(c, changed() === null, `training wrote into the frozen ${changed()}`);
    const trained = await t.model();
    const y = await numbersOf(c.engine, c.net, trained);
    must(c, apart(y, await numbersOf(c.engine, c.net, finish(trained))) <= CLOSE, 'trained and finished differ');
    if (mergeable(c.method)) must(c, apart(y, await numbersOf(c.engine, c.net, merge(trained))) <= CLOSE, 'trained and merged differ');
    const base = await numbersOf(c.engine, c.net, c.net.base);
    must(c, sameBits(base, await numbersOf(c.engine, c.net, detach(trained))), 'trained and detached is not the base bit for bit');
  },
};

/** Kinds that sit inside a block, so that a method can be placed on the last block alone. */
const INSIDE: ReadonlySet<string> = new Set(['weight', 'linear', 'norm', 'attend', 'branch', 'block']);
const lastOnly: Law = {
  id: 'depth',
  says: 'attached to the last block only, backward visits no earlier block',
  async check(c) {
    if (!c.listed.placeable || !c.method.parts.every((p) => INSIDE.has(p.method.at))) return;
    const wheres = c.method.parts.map((p) => p.config.where);
    const last: Where = (path) => /\bblocks\.1\b/.test(path) && wheres.some((w) => matches(w, path));
    const inBlocks = (path: string): boolean => /\bblocks\.\d/.test(path) && wheres.some((w) => matches(w, path));
    if (![...layers(c.net.base)].some(({ path, layer }) => c.method.parts.some((p) => p.method.at === layer.kind) && inBlocks(path)))
      return; // a head's
    const method = await ready(c.listed.tiny({ seed: c.seed, where: last }), c.net, c.engine);
    const model = perturb(method(c.net.base), c.seed);
    const { loss } = run(c.net, model);
    const early = backwardPaths(gradients(loss, model)).filter((p) => /^(embed|trunk\.(positions|first|blocks\.0))\b/.test(p));
    must(c, early.length === 0, `backward runs through ${early.join(', ')}`);
    const [short, long] = [backwardPaths(gradients(loss, model)), backwardPaths(gradients(run(c.net, c.model).loss, c.model))];
    must(c, short.some((p) => p.includes('blocks.1')) && long.some((p) => p.includes('blocks.0')), 'backward visits no block at all');
  },
};

export const laws: readonly Law[] = [
  identity,
  freezing,
  receives,
  merging,
  unmerging,
  counting,
  saving,
  detaching,
  deterministic,
  derivative,
  mixing,
  finishing,
  training,
  lastOnly,
];
