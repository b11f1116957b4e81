// Regular expressions of other people's configurations: Python's notation turned into JavaScript's, and matched within a time limit.
import { TimeOver, timeLimit } from '../timeLimit.ts';

/** What one list of names may take: a busy machine stops an honest pattern for some 300 ms; catastrophic ones need minutes or years. */
const LIMIT_MS = 2000;
const LONGEST = 10_000;

/** A pattern that cannot be used, with what to do. */
export class PatternError extends Error {
  override readonly name = 'PatternError';
}

/** A Python pattern as a JavaScript one. Refuses what JavaScript does not have: flags inside, possessive and atomic groups, conditions. */
export function fromPython(pattern: string): string {
  const refuse = (what: string): never => {
    throw new PatternError(`the regular expression ${show(pattern)} has ${what}, which JavaScript cannot match; write it without`);
  };
  if (pattern.length > LONGEST)
    throw new PatternError(`a regular expression of ${pattern.length} characters; the longest allowed is ${LONGEST}`);
  let out = '';
  let inClass = false;
  for (let i = 0; i < pattern.length; i++) {
    const c = pattern[i]!;
    const rest = pattern.slice(i, i + 8);
    if (c === '\\') {
      const next = pattern[++i] ?? refuse('a backslash at its end');
      if (!inClass && next === 'Z') out += '$';
      else if (!inClass && next === 'A') out += '^';
      else out += /[a-zA-Z]/.test(next) && !/[dDwWsSbBnrtfvxu]/.test(next) ? refuse(`\\${next}`) : `\\${next}`;
    } else if (inClass) {
      if (c === ']') inClass = false;
      out += c === '[' ? '\\[' : c;
    } else if (c === '[') {
      inClass = true;
      const negated = pattern[i + 1] === '^';
      if (negated) i++;
      const first = pattern[i + 1] === ']';
      if (first) i++; // Python: a bracket that comes first is a character
      out += `[${negated ? '^' : ''}${first ? '\\]' : ''}`;
    } else if (rest.startsWith('(?P<')) {
      out += '(?<';
      i += 3;
    } else if (rest.startsWith('(?P=')) {
      const name = /^\(\?P=(\w+)\)/.exec(pattern.slice(i))?.[1] ?? refuse('a reference without a name');
      out += `\\k<${name}>`;
      i += name.length + 4;
    } else if (/^\(\?(?![:=!<])/.test(rest)) refuse(`the group ${rest.slice(0, 4)}`);
    else if (/^[*+?}]\+/.test(rest)) refuse('a possessive quantifier');
    else if (/^\{,\d+\}/.test(pattern.slice(i))) {
      out += '{0,';
      i++;
    } else out += c;
  }
  if (inClass) refuse('a bracket that is not closed');
  return out;
}

/** How a pattern stands in the whole expression: what is before it and after it. */
export interface Around {
  readonly before: string;
  readonly after: string;
}
const WHOLE: Around = { before: '^(?:', after: ')$' };

/**
 * The names that a Python pattern matches, each with what the group `idx` caught (empty without such a group). Throws when the names together take
 * longer than 2 seconds.
 */
export function matching(pattern: string, names: readonly string[], { before, after }: Around = WHOLE): ReadonlyMap<string, string> {
  const source = fromPython(pattern);
  const regex = compiled(`${before}${source}${after}`, pattern);
  const found = (): [string, string][] =>
    names.flatMap((n) => {
      const m = regex.exec(n);
      return m === null ? [] : [[n, m.groups?.idx ?? '']];
    });
  try {
    return new Map(timeLimit()(found, LIMIT_MS));
  } catch (e) {
    if (!(e instanceof TimeOver)) throw e;
    throw new PatternError(
      `the regular expression ${show(pattern)} ${e.message} on ${names.length} names: repetition inside repetition, as in (a+)+, tries exponentially many ways. List the modules instead`,
    );
  }
}
function compiled(source: string, pattern: string): RegExp {
  try {
    return new RegExp(source);
  } catch (e) {
    throw new PatternError(`the regular expression ${show(pattern)} is not valid: ${(e as Error).message}`);
  }
}
const show = (pattern: string): string => JSON.stringify(pattern.length > 80 ? `${pattern.slice(0, 80)}…` : pattern);
