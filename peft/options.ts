// What the options of a method may be: values of their default's type, and what `takes` lists where a default does not say all.
import { nearest } from '../core/nearest.ts';
import { PLACES } from './site.ts';

/** One thing an option takes: that very word or number, null, or any text, finite number, truth value, list or other object. */
type Taken = string | number | null | AnyOf;
type AnyOf = StringConstructor | NumberConstructor | BooleanConstructor | ArrayConstructor | ObjectConstructor;

type KindOf<V> = V extends string
  ? string extends V
    ? StringConstructor
    : V
  : V extends number
    ? number extends V
      ? NumberConstructor
      : V
    : V extends boolean
      ? BooleanConstructor
      : V extends null
        ? null
        : V extends readonly unknown[]
          ? ArrayConstructor
          : ObjectConstructor;
/** Whether K is one kind, and one that a value shows by its type. A text shows less: not which other words there are. */
type SaidByDefault<K> = [K] extends [Exclude<AnyOf, StringConstructor>] ? Single<K> : false;
type Single<U, A = U> = U extends A ? ([A] extends [U] ? true : false) : never;
/** The members of a union as a list, each once, in any order: with one forgotten or one too many it is not of this type. */
type ListOf<U, A = U> = [U] extends [never] ? readonly [] : A extends U ? readonly [A, ...ListOf<Exclude<U, A>>] : never;

/** What every option of C takes whose type is words, single numbers, null or a union. */
export type Takes<C> = {
  readonly [K in keyof C as SaidByDefault<KindOf<C[K]>> extends true ? never : K]-?: ListOf<KindOf<C[K]>>;
};
/** `takes`, asked of a method where it has such options: one that is left out, or not of its type, does not compile. */
export type Taking<C> = keyof Takes<C> extends never ? { readonly takes?: never } : { readonly takes: Takes<C> };
/** The same with the options forgotten. */
export type AnyTakes = Readonly<Record<string, readonly Taken[]>>;

const SEED = [Number, Object] as const; // an Rng is an object

const isA = (v: unknown, k: Taken): boolean =>
  k === Number
    ? Number.isFinite(v)
    : k === Array
      ? Array.isArray(v)
      : k === Object
        ? Object(v) === v && !Array.isArray(v)
        : k === String || k === Boolean
          ? typeof v === (k === String ? 'string' : 'boolean')
          : v === k;

const NAMES = new Map<Taken, string>([
  [String, 'a text'],
  [Number, 'a finite number'],
  [Boolean, 'true or false'],
  [Array, 'a list'],
  [Object, 'an object'],
]);
/** For what `takes` does not list. */
const kindOf = (value: unknown): Taken => [Number, Boolean, Array, Object].find((k) => isA(value, k)) ?? null;

const plain = (v: unknown): v is object =>
  typeof v === 'object' && v !== null && [Object.prototype, Array.prototype, null].includes(Object.getPrototypeOf(v));
function shown(v: unknown): string {
  if (typeof v === 'string') return `'${v}'`;
  if (plain(v)) return JSON.stringify(v);
  return Object(v) === v ? `(${Object.prototype.toString.call(v).slice(8, -1)})` : String(v);
}

/** The first number within lists and plain objects that is not finite, and where: '[1].scale'. */
function notFinite(v: unknown, at = ''): string | null {
  if (typeof v === 'number') return Number.isFinite(v) ? null : `${at} ${v}`;
  if (!plain(v)) return null;
  for (const [key, inner] of Object.entries(v)) {
    const found = notFinite(inner, Array.isArray(v) ? `${at}[${key}]` : `${at}.${key}`);
    if (found !== null) return found;
  }
  return null;
}

/** Throws for an option that is not there, and for a value that it does not take, with what it does. Nothing has been built. */
export function checkOptions(method: string, defaults: object, takes: AnyTakes, options: object): void {
  const known: Readonly<Record<string, unknown>> = { ...defaults, seed: 0 };
  for (const [name, value] of Object.entries(options)) {
    if (!Object.hasOwn(known, name))
      throw new RangeError(
        `${method}: there is no option ${name}; nearest: ${nearest(name, Object.keys(known), 1)[0]}. It has ${Object.keys(known).join(', ')}`,
      );
    const kinds = { where: PLACES, seed: SEED, ...takes }[name] ?? [kindOf(known[name])];
    if (!kinds.some((k) => isA(value, k))) {
      const words = kinds.filter((k) => typeof k === 'string');
      const meant = typeof value === 'string' && words.length > 0 ? `; nearest: '${nearest(value, words, 1)[0]}'` : '';
      const may = kinds.map((k) => NAMES.get(k) ?? shown(k));
      const listed = [...may.slice(0, -2), may.slice(-2).join(' or ')].join(', ');
      throw new RangeError(`${method}: ${name} ${shown(value)} must be ${listed}${meant}. Its default is ${shown(known[name])}`);
    }
    if (name === 'seed' && typeof value === 'number' && !Number.isInteger(value))
      throw new RangeError(`${method}: seed ${value} must be a whole number; every one is another draw`);
    const odd = notFinite(value);
    if (odd !== null) throw new RangeError(`${method}: ${name}${odd} must be a finite number. Its default is ${shown(known[name])}`);
  }
}
