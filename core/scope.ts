// Where a tensor was written down: the layer's path, the phase of the step, and the checkpoint copy it belongs to.

export type Phase = 'forward' | 'backward' | 'update';
export interface Scope {
  readonly path: string;
  readonly phase: Phase;
  readonly copy: number;
}

// The library's only module-level `let`. Recipes are built synchronously, and `within` restores the value in
// `finally`, so it is an argument passed down the call stack without appearing in every signature.
let current: Scope = { path: '', phase: 'forward', copy: 0 };

export const here = (): Scope => current;

/** Runs `f` with parts of the scope replaced. `f` must be synchronous. */
export function within<T>(change: Partial<Scope>, f: () => T): T {
  const outer = current;
  current = { ...outer, ...change };
  try {
    return f();
  } finally {
    current = outer;
  }
}

/** Runs `f` one level deeper: inside `blocks.0`, `named('attn', f)` works at `blocks.0.attn`. */
export const named = <T>(name: string, f: () => T): T => within({ path: current.path === '' ? name : `${current.path}.${name}` }, f);

export const place = (s: Scope): string => (s.path === '' ? 'at the top level' : `in ${s.path}`);
