// Where a prefix may start: the keys and values that the frozen network itself has for a real text.
// Li & Liang 2021, arXiv 2101.00190.
import type { Engine } from '../../core/engine.ts';
import { permute, reshape } from '../../core/ops/move.ts';
import type { Numbers } from '../../core/plan.ts';
import { leaf, type Tensor } from '../../core/tensor.ts';
import { context } from '../../nn/context.ts';
import { BASE, layer } from '../../nn/layer.ts';
import { substitute } from '../../nn/tree.ts';
import { idsFit } from '../check.ts';
import type { Site, Where } from '../site.ts';

/** Keys (rotated, where the network rotates) and values of a text, layer by layer, each [p, Hk·D]. */
export function keysAndValues(site: Site<'trunk'>, ids: readonly number[], attend: Where): Tensor[] {
  const seen = new Map<string, Tensor[]>();
  const listening = substitute(site.root, 'attend', (l, path) =>
    layer('attend', { [BASE]: l }, ({ [BASE]: l }) => (q, k, v, ctx) => {
      seen.set(path, [k, v]);
      return l(q, k, v, ctx);
    }),
  );
  listening({ ids: leaf(ids, [1, ids.length]) }, context(ids.length));
  const rows = (t: Tensor): Tensor => {
    const own = t.slice(2, -ids.length); // [1, Hk, p, D], without what another prompt put in front
    return reshape(permute(own, [0, 2, 1, 3]), [ids.length, t.shape[1]! * t.shape[3]!]);
  };
  return site.within('attend', attend).flatMap((a) => seen.get(a.path)!.map(rows));
}

/** The numbers of those, for every site. */
export async function fromText(
  sites: readonly Site<'trunk'>[],
  ids: readonly number[],
  attend: Where,
  engine: Engine,
): Promise<readonly (readonly Numbers[])[]> {
  const tables: Numbers[][] = [];
  for (const s of sites) {
    const own: Numbers[] = [];
    for (const t of keysAndValues(s, ids, attend)) own.push((await engine.read(t)).slice());
    tables.push(own);
  }
  return tables;
}

/** Throws where a prefix cannot start from that text. */
export function checkText(
  site: Site<'trunk'>,
  { length, bottleneck }: { readonly length: number; readonly bottleneck: number | null },
  ids: readonly number[],
): void {
  idsFit('prefixTuning', site, ids);
  if (bottleneck !== null)
    throw new Error(
      `prefixTuning: init from ids gives the keys and values themselves, and an MLP could not be made to produce them; set bottleneck: null`,
    );
  if (ids.length !== length)
    throw new RangeError(`prefixTuning: init from ${ids.length} ids makes a prefix of that length; set length: ${ids.length}`);
}
