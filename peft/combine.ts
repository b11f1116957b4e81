// Compositions with a name of their own, and with conditions on the model.
import type { Model } from '../nn/layer.ts';
import { stack } from './combinators.ts';
import type { Env, Transform } from './method.ts';

/** A stack under a title of its own: `hybrid('mam', prefix(…), parallelAdapter(…))`. */
export const hybrid = (title: string, ...transforms: readonly Transform[]): Transform => Object.assign(stack(...transforms), { title });
/** The same, refused for models on which `check` throws. */
export const guarded = (transform: Transform, check: (model: Model) => void): Transform =>
  Object.assign(
    (model: Model): Model => {
      check(model);
      return transform(model);
    },
    {
      title: transform.title,
      parts: transform.parts,
      prepare: async (model: Model, env: Env): Promise<Transform> => {
        check(model);
        return guarded(await transform.prepare(model, env), check);
      },
    },
  );
