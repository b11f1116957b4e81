// Jinja templates with an end: what a template may do is counted, so that one from a stranger can neither hang nor fill the memory.
import { Environment, Interpreter, Template } from '@huggingface/jinja';

// The seam: the library's own declarations do not resolve in a module like this one. What is used of it is declared here.
interface Node {
  readonly type: string;
  readonly iterable?: Node;
  readonly lhs?: Node;
}
interface Value {
  readonly value: unknown;
}
interface Scope {
  set(name: string, value: unknown): unknown;
}
interface Runner {
  evaluate(node: Node | undefined, scope: Scope): Value;
  run(program: unknown): Value;
}
const Running = Interpreter as unknown as new (scope: Scope) => Runner;
const Globals = Environment as unknown as new () => Scope;

/** Expressions evaluated in one rendering, a turn of a loop counted as TURN; a conversation of a thousand messages takes about 40,000. */
const STEPS = 1_000_000;
const TURN = 10;
/** Characters of any text, and items of any list, on the way. */
const LONGEST = 1 << 22;

class Bounded extends Running {
  #left = STEPS;
  readonly #iterated = new WeakSet<object>();

  spend(n: number): void {
    this.#left -= n;
    if (this.#left < 0) throw new Error(`it does not end: more than ${STEPS.toLocaleString('en-US')} steps`);
  }
  override evaluate(node: Node | undefined, scope: Scope): Value {
    this.spend(1);
    const iterable = node?.type === 'For' ? node.iterable : undefined;
    if (iterable !== undefined) this.#iterated.add(iterable.type === 'SelectExpression' ? (iterable.lhs ?? iterable) : iterable);
    const value = super.evaluate(node, scope);
    const { value: inner } = value;
    const length = typeof inner === 'string' || Array.isArray(inner) ? inner.length : inner instanceof Map ? inner.size : 0;
    if (length > LONGEST) throw new Error(`it makes a text or list of ${length} parts; the most allowed is ${LONGEST}`);
    this.spend(node !== undefined && this.#iterated.has(node) ? TURN * length : length >> 10); // filters go through a list or text too
    return value;
  }
}

/** A template as a function of its variables. Throws where it cannot be parsed; the function throws where the template does, or has no end. */
export function jinja(source: string): (variables: Readonly<Record<string, unknown>>) => string {
  const { parsed } = new Template(source);
  return (variables) => {
    const globals = new Globals();
    const interpreter = new Bounded(globals);
    const own = {
      ...{ true: true, false: false, none: null, True: true, False: false, None: null },
      raise_exception: (message: unknown): never => {
        throw new Error(String(message));
      },
      range: (start: number, stop?: number, step = 1): number[] => {
        const [from, to] = stop === undefined ? [0, start] : [start, stop];
        const n = step === 0 ? Number.NaN : Math.max(0, Math.ceil((to - from) / step));
        if (!(n <= STEPS)) throw new Error(`range(${from}, ${to}, ${step}) is too long, or no range`);
        interpreter.spend(n);
        return Array.from({ length: n }, (_, k) => from + k * step);
      },
      strftime_now: (format: string): string => new Template('{{ strftime_now(format) }}').render({ format }),
    };
    for (const [name, value] of Object.entries({ ...own, ...variables })) globals.set(name, value);
    return String(interpreter.run(parsed).value);
  };
}
