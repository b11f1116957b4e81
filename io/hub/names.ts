// Names of repositories, revisions and files on a hub, checked: each becomes part of a path on this disk and of an address.

/** huggingface.co's own rules for a part of a repository's name. */
const PART = /^[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?$/;
const tame = (s: string): boolean => !s.includes('..') && !s.includes('--') && !/\.git$|\.ipynb$/.test(s);

/** Whether a text can be the name of a repository: `org/name`, or one word. */
export const isRepository = (id: string): boolean => {
  const parts = id.split('/');
  return parts.length <= 2 && parts.every((p) => PART.test(p) && tame(p));
};

export function checkRepository(id: string): string {
  if (!isRepository(id))
    throw new RangeError(
      `${JSON.stringify(id)} is not the name of a repository: it is organisation/name, or a name alone as gpt2 has, of letters, digits, '-', '_' and '.', without '--' or '..'`,
    );
  return id;
}

/** A branch, a tag or a commit; branches may contain slashes (refs/pr/1). */
export function checkRevision(revision: string): string {
  const parts = revision.split('/');
  if (revision.length > 250 || !parts.every((p) => /^[A-Za-z0-9_][A-Za-z0-9_.+-]*$/.test(p) && !p.includes('..') && !p.endsWith('.lock')))
    throw new RangeError(`${JSON.stringify(revision)} is not a revision: give a branch, a tag or a commit, main for example`);
  return revision;
}

/** A file within a repository, in folders at most: no step up, no absolute path, no backslash, nothing hidden from one system by another. */
export function checkFile(name: string): string {
  const parts = name.split('/');
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is refused
  const bad = (p: string): boolean => p === '' || p === '.' || p === '..' || /[\u0000-\u001f\\:*?"<>|]/.test(p) || /[. ]$/.test(p);
  if (name.length > 500 || parts.some(bad))
    throw new RangeError(`${JSON.stringify(name)} is not the name of a file in a repository: it would leave the cache's folder`);
  return name;
}

export const isCommit = (s: string | null | undefined): s is string => typeof s === 'string' && /^[0-9a-f]{40}$/.test(s);
