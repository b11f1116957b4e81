// 17: AdapterFusion in its two stages. Adapters learn one speaker each; then, frozen, they are consulted for another one, token by token.
import { mkdir } from 'node:fs/promises';
import { columns } from '../core/columns.ts';
import { leaf } from '../core/tensor.ts';
import { type Curve, curves, writeFigure } from '../io/figure.ts';
import { inOrder } from '../io/text.ts';
import { adapterFusionStages, fused } from '../peft/additive/adapterFusionStages.ts';
import { pfeiffer } from '../peft/additive/pfeiffer.ts';
import { fusionUse } from '../peft/additive/pruneFused.ts';
import { engineFor } from './engine.ts';
import { reader, TOKENS, trained } from './melville.ts';

await using engine = await engineFor('17: adapters that consult each other');
const SOURCES = ['George Washington', 'Abraham Lincoln', 'Donald J Trump'];
const TARGET = 'John F Kennedy';
const { base, speaker, train, loss } = await reader(engine, [...SOURCES, TARGET], 17);
const lastName = (name: string): string => name.split(' ').at(-1)!;

/* 1. Knowledge extraction: an adapter h + W_up σ(W_down z) of its own for each of three speakers, on 40,000 letters. Knowledge
 *    composition: all of them frozen, and for each token an attention over what they answer, h + Σ α_n W_v u_n, is trained on the
 *    target, who has left us little. Both stages in one call, first with 1,000 letters: */
const MUCH = 40_000;
const AMOUNTS = [1000, 4000, 16_000];
const adapter = pfeiffer({ bottleneck: 8, activation: 'silu', where: 'mlp', seed: 17 });
const unseen = speaker(TARGET).subarray(MUCH);
const little = (letters: number): Int32Array => speaker(TARGET).subarray(0, letters);
const first = await adapterFusionStages(
  SOURCES.map((name) => ({ base, data: speaker(name).subarray(0, MUCH) })),
  { base, data: little(AMOUNTS[0]!) },
  adapter,
  (model, text, stage) => (stage === 'extraction' ? train(model, text, 300, 1e-2) : train(model, text, 150, 2e-3)),
);

/* 2. With more letters; and beside it a fresh adapter that knows nobody, trained on the same letters for as long. */
const rows: { letters: number; fusion: number; fresh: number }[] = [];
let most = first.model;
for (const letters of AMOUNTS) {
  const model = letters === AMOUNTS[0] ? first.model : await train(fused(first.adapters)(base), little(letters), 150, 2e-3);
  const fresh = await train(adapter(base), little(letters), 150, 1e-2);
  rows.push({ letters, fusion: await loss(model, unseen), fresh: await loss(fresh, unseen) });
  most = model;
}
const alone = await Promise.all(first.adapters.map((m) => loss(m, unseen)));
const before = await loss(base, unseen);
console.log(`Loss on unseen letters of ${TARGET}: ${before.toFixed(3)} for the base, which has read Melville.`);
console.log(`The adapters as they are: ${SOURCES.map((name, k) => `${lastName(name)}'s ${alone[k]!.toFixed(3)}`).join(', ')}.\n`);
console.log(
  columns(
    [`letters of ${lastName(TARGET)}`, 'a fresh adapter', 'fusion of the three'],
    rows.map((r) => [r.letters.toLocaleString('en-US'), r.fresh.toFixed(3), r.fusion.toFixed(3)]),
  ),
);
console.log(`trained: ${trained(adapter(base))} numbers, and ${trained(most)} of the attention\n`);

/* 3. Whom does it ask? Mean α over 2,048 letters, block by block: of the target, and of each speaker whose adapter is there. */
const texts = await Promise.all(
  [TARGET, ...SOURCES].map(async (name) => {
    const batches = [...inOrder(speaker(name).subarray(MUCH), { rows: 16, tokens: TOKENS, batches: 4 })];
    return {
      name,
      use: await fusionUse(
        most,
        batches.map(({ ids }) => ({ ids: leaf(ids.data, ids.shape) })),
        engine,
      ),
    };
  }),
);
console.log(
  columns(
    ['reading', ...[...texts[0]!.use.keys()].flatMap((_, block) => SOURCES.map((s) => `block ${block}: ${lastName(s)}`))],
    texts.map(({ name, use }) => [lastName(name), ...[...use.values()].flatMap((alpha) => alpha.map((a) => a.toFixed(2)))]),
  ),
);

/* 4. What to see in it. */
const [least, last] = [rows[0]!, rows.at(-1)!];
const apart = Math.max(
  ...[...texts[0]!.use].flatMap(([path, alpha]) =>
    alpha.map((_, n) => {
      const all = texts.map((t) => t.use.get(path)![n]!);
      return Math.max(...all) - Math.min(...all);
    }),
  ),
);
const best = SOURCES[alone.indexOf(Math.min(...alone))]!;
console.log(`
With ${least.letters} letters the fresh adapter has ${least.fresh.toFixed(3)} and the fusion ${least.fusion.toFixed(3)}; with ${last.letters} they have ${last.fresh.toFixed(3)} and ${last.fusion.toFixed(3)}.
The best adapter alone, ${lastName(best)}'s, has ${Math.min(...alone).toFixed(3)} without one letter of the target; the fusion is below that from ${rows.find((r) => r.fusion < Math.min(...alone))?.letters ?? 'no number of'} letters on.
Between speakers α differs by ${apart.toFixed(2)} at most: ${apart < 0.1 ? 'who is asked depends on the block and hardly on the speaker; these adapters know English of Congress, not different tasks' : 'it asks others for others'}.`);

const line = (name: string, of: (r: (typeof rows)[number]) => number, dashed = false): Curve => ({
  ...{ name, dashed },
  points: rows.map((r) => ({ x: Math.log10(r.letters), y: of(r) })),
});
const lines = [
  line('a fresh adapter', (r) => r.fresh),
  line('fusion of three', (r) => r.fusion),
  line(`${lastName(best)}'s adapter, as it is`, () => Math.min(...alone), true),
];
const file = 'out/17-adapters-that-consult-each-other.svg';
await mkdir('out', { recursive: true });
await writeFigure(
  file,
  curves(`A little of ${TARGET}`, { x: 'log₁₀ of the letters trained on', y: 'loss on unseen letters (nats)' }, lines),
);
console.log(`as a picture: ${file}`);
