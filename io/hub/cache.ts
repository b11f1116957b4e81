// The hub's cache on disk, as Hugging Face's own library lays it out: models--org--name with refs, blobs, snapshots and .no_exist.
import { randomBytes } from 'node:crypto';
import { copyFile, lstat, mkdir, readFile, realpath, rename, rm, symlink } from 'node:fs/promises';
import { dirname, isAbsolute, join, relative, resolve, sep } from 'node:path';
import { writeAtomic } from '../files.ts';
import { checkFile, checkRepository, checkRevision, isCommit } from './names.ts';

export interface RepositoryCache {
  readonly folder: string; // …/models--org--name
  /** The commit a branch or tag was at when it was last asked for; null when it never was. */
  commitOf(revision: string): Promise<string | null>;
  remember(revision: string, commit: string): Promise<void>;
  snapshot(commit: string): string;
  /** The path of a file of a snapshot; null when it is not there. Throws when a link leads out of the cache. */
  find(commit: string, name: string): Promise<string | null>;
  /** Whether the hub has said that this commit has no such file. */
  lacks(commit: string, name: string): Promise<boolean>;
  markAbsent(commit: string, name: string): Promise<void>;
  /** Where content with this etag belongs; the folder is made. */
  blob(etag: string): Promise<string>;
  /** Puts a blob into a snapshot under its name, as a link, or as a copy where the system has none. */
  link(blob: string, commit: string, name: string): Promise<string>;
}

const kind = (path: string): Promise<'file' | 'link' | 'other' | null> =>
  lstat(path).then(
    (s) => (s.isFile() ? 'file' : s.isSymbolicLink() ? 'link' : 'other'),
    () => null,
  );

/** One repository's part of the cache at `root`. Names are checked here, and so is where links lead: nothing is read or written outside `root`. */
export function repositoryCache(root: string, id: string): RepositoryCache {
  const folder = join(resolve(root), `models--${checkRepository(id).replace('/', '--')}`);
  const within = async (path: string): Promise<string> => {
    const [real, base] = [await realpath(path), await realpath(root)];
    const way = relative(base, real);
    if (way === '..' || way.startsWith(`..${sep}`) || isAbsolute(way))
      throw new Error(`${path}: is a link to ${real}, outside the cache ${root}; delete the link, and the file is fetched again`);
    return real;
  };
  /** Makes the folder of a file that is to be written, and checks that no link on the way leads out. */
  const ready = async (path: string): Promise<string> => {
    await mkdir(resolve(root), { recursive: true });
    const steps = relative(resolve(root), dirname(path)).split(sep);
    let at = resolve(root);
    for (const step of steps) {
      at = join(at, step);
      await mkdir(at).catch((e: NodeJS.ErrnoException) => {
        if (e.code !== 'EEXIST') throw e;
      });
      await within(at); // before the next folder is made in it
    }
    return path;
  };
  const place = (area: 'snapshots' | '.no_exist', commit: string, name: string): string => {
    if (!isCommit(commit)) throw new RangeError(`${JSON.stringify(commit)} is not a commit of 40 hexadecimal digits`);
    return join(folder, area, commit, ...checkFile(name).split('/'));
  };
  const ref = (revision: string): string => join(folder, 'refs', ...checkRevision(revision).split('/'));
  const commitOf = async (revision: string): Promise<string | null> => {
    const path = ref(revision);
    if ((await kind(path)) === null) return null;
    const text = (await readFile(await within(path), 'utf8')).trim();
    return isCommit(text) ? text : null;
  };

  return {
    folder,
    snapshot: (commit) => dirname(place('snapshots', commit, 'x')),
    commitOf,
    async remember(revision, commit) {
      const path = ref(revision);
      if (isCommit(revision) || (await commitOf(revision)) === commit) return;
      await writeAtomic(await ready(path), [new TextEncoder().encode(commit)]);
    },
    async find(commit, name) {
      const path = place('snapshots', commit, name);
      const found = await kind(path);
      if (found === null || found === 'other') return null;
      const there = await realpath(path).catch(() => null);
      if (there === null) return null; // a link to a blob that was deleted
      await within(path);
      return path;
    },
    lacks: async (commit, name) => (await kind(place('.no_exist', commit, name))) === 'file',
    markAbsent: async (commit, name) => writeAtomic(await ready(place('.no_exist', commit, name)), []),
    async blob(etag) {
      if (!/^[A-Za-z0-9][A-Za-z0-9_-]{7,127}$/.test(etag))
        throw new Error(`the hub calls the content ${JSON.stringify(etag)}, which cannot be the name of a file; is HF_ENDPOINT a hub?`);
      return ready(join(folder, 'blobs', etag));
    },
    async link(blob, commit, name) {
      const path = await ready(place('snapshots', commit, name));
      const temporary = join(dirname(path), `.${randomBytes(6).toString('hex')}.tmp`);
      try {
        await symlink(relative(dirname(path), blob), temporary).catch(() => copyFile(blob, temporary)); // Windows has links for some users only
        await rename(temporary, path);
      } finally {
        await rm(temporary, { force: true });
      }
      return path;
    },
  };
}
