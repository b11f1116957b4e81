// NOAH's supernet: its leading rows and columns are every smaller subnet's, and it is trained subnet by subnet.
// Zhang et al. 2022, arXiv 2206.04673, §3.2.
import { type Rng, rng } from '../../core/rng.ts';
import { withValues } from '../../nn/freeze.ts';
import type { Model } from '../../nn/layer.ts';
import { trainable } from '../../nn/tree.ts';
import type { Transform } from '../method.ts';
import { type NoahConfig, noah } from './noah.ts';
import type { NoahSpace } from './noahSpace.ts';

/** `to` with the numbers of `from` wherever both have them: at equal paths, the leading rows and columns of the two. */
export function inherit(from: Model, to: Model): Model {
  const given = new Map([...trainable(from)].map(([p, path]) => [path, p]));
  return withValues(
    to,
    new Map(
      [...trainable(to)].map(([p, path]) => {
        const own = Float32Array.from(p.value);
        const other = given.get(path);
        if (other !== undefined) {
          const [cols, theirs] = [p.shape.at(-1)!, other.shape.at(-1)!];
          const rows = Math.min(own.length / cols, other.value.length / theirs);
          for (let i = 0; i < rows; i++) for (let j = 0; j < Math.min(cols, theirs); j++) own[i * cols + j] = other.value[i * theirs + j]!;
        }
        return [p, own];
      }),
    ),
  );
}

/**
 * Trains a supernet by its subnets: draws one, lets `train` train it from the supernet's numbers, writes those back; `rounds` times. The
 * authors draw one for every step of a single optimizer; here an optimizer starts anew with each, so let `train` take few steps.
 */
export async function noahSupernet(
  base: Model,
  space: NoahSpace,
  {
    train,
    rounds,
    seed = 0,
    make = noah,
  }: {
    readonly train: (subnet: Model) => Promise<Model>;
    readonly rounds: number;
    readonly seed?: number;
    readonly make?: (c: NoahConfig) => Transform;
  },
): Promise<Model> {
  const r = rng(seed).split('supernet');
  let whole = make(space.largest)(base);
  for (let k = 0; k < rounds; k++) whole = inherit(await train(inherit(whole, subnet(base, space, r, make))), whole);
  return whole;
}
function subnet(base: Model, space: NoahSpace, r: Rng, make: (c: NoahConfig) => Transform): Model {
  for (;;) {
    const c = space.draw(r);
    if (space.size(c) > 0) return make(c)(base);
  }
}
