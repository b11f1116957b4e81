// One process at a time: a lock is a file that says who holds it, and one left behind by a process that ended is taken over.
import { open, readFile, rm } from 'node:fs/promises';
import { hostname } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';

/**
 * Runs `work` while holding `path`, waiting for others of this machine that hold it. Two that take over the same lock at once may both
 * believe they hold it: what is written under it must be checked at the end, as downloads are by their hash.
 */
export async function holding<T>(path: string, work: () => Promise<T>): Promise<T> {
  while (!(await taken(path))) {
    const holder = await readFile(path, 'utf8').catch(() => '');
    const [pid, host] = holder.split(' ');
    if (holder !== '' && host !== hostname())
      throw new Error(`${path}: process ${pid} on ${host} is fetching this file; wait for it, or delete the lock if it has ended`);
    // An empty lock was made a moment ago, or its maker was killed in that moment.
    if (holder === '' ? await stillEmpty(path) : !alive(Number(pid))) await rm(path, { force: true });
    else await sleep(100);
  }
  try {
    return await work();
  } finally {
    await rm(path, { force: true });
  }
}

async function taken(path: string): Promise<boolean> {
  try {
    const handle = await open(path, 'wx');
    await handle.writeFile(`${process.pid} ${hostname()}`);
    await handle.close();
    return true;
  } catch (e) {
    if ((e as NodeJS.ErrnoException).code === 'EEXIST') return false;
    throw e;
  }
}
async function stillEmpty(path: string): Promise<boolean> {
  await sleep(300);
  return (await readFile(path, 'utf8').catch(() => 'gone')) === '';
}
function alive(pid: number): boolean {
  try {
    process.kill(pid, 0); // asks only
    return true;
  } catch (e) {
    return (e as NodeJS.ErrnoException).code === 'EPERM';
  }
}
