// 19: why a low rank is enough, and what it leaves out: the singular values of what full fine-tuning changes, beside LoRA.
import { mkdir } from 'node:fs/promises';
import { columns } from '../core/columns.ts';
import { leaf, type Tensor } from '../core/tensor.ts';
import { type Curve, curves, writeFigure } from '../io/figure.ts';
import { freeze, unfreeze } from '../nn/freeze.ts';
import type { Model } from '../nn/layer.ts';
import { mapTensors, tensors } from '../nn/tree.ts';
import { product, svd } from '../peft/linalg.ts';
import { merge } from '../peft/merge.ts';
import { lora } from '../peft/reparameterized/lora.ts';
import { engineFor } from './engine.ts';
import { reader, trained } from './melville.ts';

await using engine = await engineFor('19: the spectrum of what tuning changes');
const SPEAKER = 'Theodore Roosevelt';
const [STEPS, RATE] = [300, 5e-3];
const { base, speaker, train, loss } = await reader(engine, [SPEAKER], 19);
const text = speaker(SPEAKER);
const [seen, unseen] = [text.subarray(0, 200_000), text.subarray(200_000)];

/* 1. Full fine-tuning of the matrices of the blocks, and nothing else: W becomes W + ΔW. */
const ROLES = ['q', 'k', 'v', 'o', 'gate', 'up', 'down'];
const isMatrix = (path: string): boolean => /blocks\.\d\./.test(path) && ROLES.some((r) => path.endsWith(`.${r}.weight`));
const full = await train(unfreeze(base, isMatrix), seen, STEPS, RATE);
const change = await differences(full);

/* 2. ΔW = U S Vᵀ. Eckart and Young: the best matrix of rank r keeps the r largest singular values, and the share σ₁² + … + σ_r² of
 *    ‖ΔW‖². How much of what tuning *gained* is kept is another question: cut every ΔW to rank r, put it back, and look at the loss. */
const RANKS = [1, 2, 4, 8, 16, 32];
const parts = new Map(
  [...change].map(([path, { delta, out, into }]) => [path, { ...svd(delta, out, into, Math.min(out, into)), out, into }]),
);
const energy = (s: Float64Array, r: number): number => s.slice(0, r).reduce((n, v) => n + v * v, 0) / s.reduce((n, v) => n + v * v, 0);
const meanEnergy = (r: number): number => [...parts.values()].reduce((n, { s }) => n + energy(s, r), 0) / parts.size;

/* 3. LoRA of rank r on the same matrices, as many steps: it does not cut ΔW, it finds the best change that it can write down. And how
 *    much of LoRA's change lies in the directions that full tuning changed most: ‖U_rᵀ ΔW_LoRA V_r‖² / ‖ΔW_LoRA‖² (1: all of it). */
const [before, whole] = [await loss(base, unseen), await loss(full, unseen)];
const rows: { rank: number; energy: number; cut: number; lora: number; numbers: number; overlap: number }[] = [];
for (const rank of RANKS) {
  const tuned = await train(lora({ rank, alpha: 2 * rank, where: ROLES, seed: 19 })(base), seen, STEPS, RATE);
  const cut = withChanges(rank);
  rows.push({
    ...{ rank, energy: meanEnergy(rank), cut: await loss(cut, unseen), lora: await loss(tuned, unseen), numbers: trained(tuned) },
    overlap: await overlap(await differences(merge(tuned)), rank),
  });
}
console.log(
  `Loss on unseen letters of ${SPEAKER}: ${before.toFixed(3)} before, ${whole.toFixed(3)} with full tuning of ${change.size} matrices (${trained(full)} numbers).\n`,
);
const gained = (v: number): string => `${((100 * (before - v)) / (before - whole)).toFixed(0)} %`;
console.log(
  columns(
    ['rank', '‖ΔW‖² kept', 'loss, ΔW cut', 'gain kept', 'LoRA numbers', 'loss, LoRA', 'of the gain', 'LoRA within ΔW’s top directions'],
    rows.map((r) => [
      ...[String(r.rank), `${(100 * r.energy).toFixed(0)} %`, r.cut.toFixed(3), gained(r.cut)],
      ...[String(r.numbers), r.lora.toFixed(3), gained(r.lora), r.overlap.toFixed(2)],
    ]),
  ),
);

/* 4. What to see in it. */
const most = Array.from({ length: 32 }, (_, k) => k + 1).find((r) => meanEnergy(r) >= 0.9)!;
const enough = rows.find((r) => before - r.lora >= 0.9 * (before - whole));
const better = rows.filter((r) => r.lora < r.cut).map((r) => r.rank);
console.log(`
Nine tenths of ‖ΔW‖² take rank ${most} of 32. Cut to ranks below, the change loses more of its gain than of its size: the small singular values
do their share. LoRA of the same rank does better at rank ${better.join(', ') || 'none of these'}: it is trained under the constraint, not cut to it
afterwards, and at low ranks it finds other directions than those in which ΔW is largest.
${enough === undefined ? 'No rank here reaches nine tenths of the gain' : `Nine tenths of the gain take rank ${enough.rank}`}; 32 gives LoRA more numbers than the matrices have, and any change they can make.`);

/* 5. The picture: what each rank has of ΔW and of the gain. (‖ΔW‖² up to rank 8: it is nearly all there.) */
const ofGain = (v: number): number => (before - v) / (before - whole);
const line = (name: string, y: (r: (typeof rows)[number]) => number, dashed = false): Curve => ({
  ...{ name, dashed },
  points: rows.map((r) => ({ x: Math.log2(r.rank), y: y(r) })),
});
const lines = [
  { ...line('of ‖ΔW‖²', (r) => r.energy, true), points: rows.slice(0, 4).map((r) => ({ x: Math.log2(r.rank), y: r.energy })) },
  line('of the gain: ΔW cut', (r) => ofGain(r.cut)),
  line('of the gain: LoRA', (r) => ofGain(r.lora)),
  line('of LoRA’s ΔW in the top of ΔW', (r) => r.overlap, true),
];
const file = 'out/19-the-spectrum-of-tuning.svg';
await mkdir('out', { recursive: true });
await writeFigure(file, curves('What a rank keeps of full tuning', { x: 'log₂ of the rank', y: 'share' }, lines));
console.log(`\nas a picture: ${file}`);

interface Change {
  readonly delta: Float64Array; // [out, into], row by row
  readonly weight: Float64Array;
  readonly out: number;
  readonly into: number;
}
/** What a model's matrices are more than the base's. */
async function differences(model: Model): Promise<Map<string, Change>> {
  const was = new Map([...tensors(base)].map(({ path, tensor }) => [path, tensor]));
  const found = new Map<string, Change>();
  for (const { path, tensor } of tensors(model)) {
    if (!isMatrix(path)) continue;
    const [now, then] = [Float64Array.from(await engine.read(tensor)), Float64Array.from(await engine.read(was.get(path)!))];
    const [out, into] = tensor.shape as readonly [number, number];
    found.set(path, { delta: now.map((v, i) => v - then[i]!), weight: then, out, into });
  }
  return found;
}
/** The base with every ΔW cut to its r largest singular values. */
function withChanges(r: number): Model {
  return freeze(
    mapTensors(base, (t: Tensor, path): Tensor => {
      const part = parts.get(path);
      if (part === undefined) return t;
      const { u, s, vt, out, into } = part;
      const [full, kept] = [s.length, s.map((v, i) => (i < r ? v : 0))];
      const us = u.map((v, k) => v * kept[k % full]!); // [out, full]
      const cut = product(us, vt, out, full, into);
      return leaf(
        change.get(path)!.weight.map((w, k) => w + cut[k]!),
        t.shape,
      );
    }),
  );
}
/** Mean over matrices of the share of another change that lies in the r top directions of ΔW, on both sides. */
async function overlap(other: ReadonlyMap<string, Change>, r: number): Promise<number> {
  let sum = 0;
  for (const [path, { delta, out, into }] of other) {
    const { u, vt, s } = parts.get(path)!;
    const full = s.length;
    const top = Float64Array.from({ length: r * out }, (_, k) => u[(k % out) * full + Math.floor(k / out)]!); // U_rᵀ [r, out]
    const right = Float64Array.from({ length: into * r }, (_, k) => vt[(k % r) * into + Math.floor(k / r)]!); // V_r [into, r]
    const inside = product(product(top, delta, r, out, into), right, r, into, r);
    const square = (m: Float64Array): number => m.reduce((n, v) => n + v * v, 0);
    sum += square(inside) / square(delta);
  }
  return sum / other.size;
}
