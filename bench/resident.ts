// What a process holds: resident memory after garbage has been collected, and what JavaScript has in use.
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';

setFlagsFromString('--expose-gc');
/** Collects garbage now. The one way to reach the collector without a flag on the command line. */
export const collect = runInNewContext('gc') as () => void;

/** Collects garbage, finalizers included, until there is no more: buffers are given back by another thread, in its own time. */
export async function settle(): Promise<void> {
  for (let [k, before] = [0, Number.POSITIVE_INFINITY]; k < 20; k++) {
    collect();
    await new Promise((r) => setTimeout(r, 50)); // finalizers run between tasks
    const now = inUse();
    if (k >= 2 && now >= before - 2 ** 16) return;
    before = now;
  }
}
/** Resident bytes once what is garbage has been collected. */
export async function resident(): Promise<number> {
  await settle();
  return process.memoryUsage.rss();
}
/** Bytes of JavaScript values and of their buffers. */
export const inUse = (): number => process.memoryUsage().heapUsed + process.memoryUsage().arrayBuffers;

export const mb = (bytes: number): string => `${(bytes / 2 ** 20).toFixed(1)} MB`;
