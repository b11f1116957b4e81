// 22: AdapterHub's six composition blocks (Stack, Fuse, Split, BatchSplit, Parallel, Average) in our combinators, each checked against its parts.

import { rng } from '../core/rng.ts';
import { size } from '../core/shape.ts';
import { leaf, type Tensor } from '../core/tensor.ts';
import { context } from '../nn/context.ts';
import { bert, encoder } from '../nn/encoder.ts';
import { freeze, withValues } from '../nn/freeze.ts';
import type { Model } from '../nn/layer.ts';
import { trainable } from '../nn/tree.ts';
import { adapterHub } from '../peft/adapterHub.ts';
import { fused } from '../peft/additive/adapterFusionStages.ts';
import { average, parallel, split, stack } from '../peft/combinators.ts';
import type { Transform } from '../peft/method.ts';
import { mixed } from '../peft/mixed.ts';
import { inSpans, repeated } from '../peft/spans.ts';
import { engineFor } from './engine.ts';

await using engine = await engineFor('22: the blocks of AdapterHub');

/* 0. A small BERT, frozen, that answers hidden states [B, T, d]; and two adapters by AdapterHub's name for them, with numbers as after
 *    some training. A method is a function from models to models, so `a` and `b` carry their numbers with them. One block, so that what an
 *    adapter changes at one token is not read by another token of a later block, and the parts can be seen in the whole. */
const [B, T, d] = [3, 5, 8];
const base = freeze(encoder(bert({ vocabulary: 20, width: d, layers: 1, heads: 2, inner: 16, positions: T }), rng(22)));
const text = rng(22).split('text');
const batch = {
  ids: leaf(
    Array.from({ length: B * T }, () => text.below(20)),
    [B, T],
  ),
};
const trained = (t: Transform, seed: number): Transform =>
  Object.assign((model: Model): Model => {
    const r = rng(seed);
    const fresh = t(model);
    const numbers = [...trainable(fresh)].map(([p, path]) => [p, r.split(path).normal(size(p.shape), 0.5)] as const);
    return freeze(withValues(fresh, new Map(numbers)));
  }, t);
const a = trained(adapterHub.seq_bn({ reduction: 4 }), 1);
const b = trained(adapterHub.seq_bn({ reduction: 2 }), 2);
const [withA, withB] = [a(base), b(base)];
const answer = (m: Model): Tensor => m(batch, context(T));
const read = async (m: Model): Promise<Float64Array> => Float64Array.from(await engine.read(answer(m)));
const [ofA, ofB] = [await read(withA), await read(withB)];

/** What a block is, the shape of its answer, and the largest difference to what its parts say. */
const differences: number[] = [];
async function block(title: string, ours: string, meaning: string, m: Model, claim: string, parts: (k: number) => number): Promise<void> {
  const got = await read(m);
  const off = got.reduce((worst, v, k) => Math.max(worst, Math.abs(v - parts(k))), 0);
  differences.push(off);
  console.log(`${title}\n  ours     ${ours}\n  meaning  ${meaning}`);
  console.log(`  answer   [${answer(m).shape.join(', ')}]; ${claim}: ${off < 1e-5 ? 'yes' : 'NO'} (to ${off.toExponential(0)})\n`);
}
const token = (k: number): number => Math.floor(k / d) % T; // of an entry k of [B, T, d]
const row = (k: number): number => Math.floor(k / (T * d));

/* 1. Stack: b sits on what a made. Attaching is composing, so the parts are b and the model that a made; and b read a's answer: side by
 *    side, where each sees the base, they make something else. */
const onTop = await read(b(withA));
await block(
  'Stack("a", "b")',
  'stack(a, b)',
  'b reads and adds to what a has made of it',
  stack(a, b)(base),
  'equals b(a(base))',
  (k) => onTop[k]!,
);
const beside = await read(parallel(a, b)(base));
const apart = Math.max(...onTop.map((v, k) => Math.abs(v - beside[k]!)));
console.log(
  `  (a and b each on the base, their changes added, would differ by ${apart.toFixed(2)}: ${apart > 1e-2 ? 'b reads a' : 'NO'})\n`,
);

/* 2. Fuse: an attention over both, per token (AdapterFusion). With keys of 0 it asks nobody in particular: the mean of the two, when W_v = I.
 *    The mean is of changes before the last norm, which is why it is checked against `average`, and not against (a + b)/2. */
const undecided = (m: Model): Model =>
  withValues(
    m,
    new Map(
      [...trainable(m)].map(([p, path]) => [
        p,
        Float32Array.from({ length: size(p.shape) }, (_, k) => (path.endsWith('.value') && k % (d + 1) === 0 ? 1 : 0)),
      ]),
    ),
  );
const middle = await read(average([a, b])(base));
await block(
  'Fuse("a", "b")',
  'fused([a(base), b(base)])   (any methods at any place: fuse([a, b]))',
  'each token asks the adapters, and takes their answers as its attention weighs them',
  undecided(fused([withA, withB])(base)),
  'with keys of 0 equals Average',
  (k) => middle[k]!,
);

/* 3. Split: tokens by their positions. */
await block(
  'Split("a", "b", splits=[2, 3])',
  'split([a, b], [2])',
  'the first 2 tokens of each text pass through a, the others through b',
  split([a, b], [2])(base),
  'tokens 0, 1 are those of a(base), tokens 2, 3, 4 those of b(base)',
  (k) => (token(k) < 2 ? ofA : ofB)[k]!,
);

/* 4. BatchSplit: rows of one batch by different adapters, in one pass. */
await block(
  'BatchSplit("a", "b", batch_sizes=[1, 2])',
  'mixed([a(base), b(base)], inSpans(1, 2))',
  'the first text is served by a, the other two by b',
  mixed([withA, withB], inSpans(1, 2)),
  'row 0 is that of a(base), rows 1, 2 those of b(base)',
  (k) => (row(k) < 1 ? ofA : ofB)[k]!,
);

/* 5. Parallel: every adapter on the whole batch. The answer has n·B rows. (Our `parallel` is another thing: He et al.'s sum of changes.) */
await block(
  'Parallel("a", "b")',
  'repeated([a(base), b(base)])',
  'the batch is repeated, and every adapter answers all of it in one pass',
  repeated([withA, withB]),
  'the first 3 rows are a(base), the next 3 b(base)',
  (k) => (k < ofA.length ? ofA[k]! : ofB[k - ofA.length]!),
);

/* 6. Average: of what the adapters make of a place, with weights. Weights 1 and 0 choose; the library's own result is smaller by the number
 *    of adapters, because it takes a mean of answers that it has weighed already (adapters 1.3). */
await block(
  'Average("a", "b", weights=[1, 0])',
  'average([a, b], [1, 0])',
  'the answers of the place, weighed; weights sum to 1',
  average([a, b], [1, 0])(base),
  'equals a(base)',
  (k) => ofA[k]!,
);
console.log(`six blocks, ${differences.filter((v) => v < 1e-5).length} of them equal to their parts`);
