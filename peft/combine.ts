// Methods are functions, so composing them is composing functions.
import type { Model } from '../nn/layer.ts';
import type { Env, Transform } from './method.ts';

/** All of them, the first one innermost. */
export function compose(...transforms: readonly Transform[]): Transform {
  return Object.assign((model: Model): Model => transforms.reduce((m, t) => t(m), model), {
    title: transforms.map((t) => t.title).join(' + '),
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
      return compose(...ready);
    },
  });
}
/** The same, under a title of its own: `hybrid('mam', prefix(…), parallelAdapter(…))`. */
export const hybrid = (title: string, ...transforms: readonly Transform[]): Transform => Object.assign(compose(...transforms), { title });
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
