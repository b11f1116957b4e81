// Every ordered pair of methods on every network, dealt to as many processes as there are cores.
import { type ChildProcess, fork } from 'node:child_process';
import { availableParallelism } from 'node:os';
import { fileURLToPath } from 'node:url';
import type { Listed } from '../../peft/listed.ts';
import type { Network } from './models.ts';
import { fitting, type Tally } from './pairLaws.ts';

/** All pairs that have one first method, on one network: what a process does in one go. */
export interface Unit {
  readonly net: string;
  readonly first: string;
  readonly seed: number;
}

/** Tallies by network. `progress` hears of every unit: pairs done, pairs in all, broken so far. */
export async function allPairs(
  methods: readonly Listed[],
  networks: readonly Network[],
  seed: number,
  progress: (done: number, all: number, broken: readonly string[]) => void,
): Promise<ReadonlyMap<string, Tally>> {
  const units = networks.flatMap((net) => fitting(methods, net).map((m): Unit => ({ net: net.name, first: m.name, seed })));
  const all = networks.reduce((n, net) => n + fitting(methods, net).length ** 2, 0);
  const sums = new Map<string, Tally>();
  let [next, done] = [0, 0];
  const worker = async (): Promise<void> => {
    const child = fork(fileURLToPath(new URL('pairsChild.ts', import.meta.url)), { execArgv: ['--import', 'tsx'] });
    try {
      for (let unit = units[next++]; unit !== undefined; unit = units[next++]) {
        const tally = await answer(child, unit);
        sums.set(unit.net, plus(sums.get(unit.net), tally));
        done += tally.pairs;
        progress(done, all, tally.broken);
      }
    } finally {
      child.kill();
    }
  };
  await Promise.all(Array.from({ length: availableParallelism() }, worker));
  return sums;
}

const answer = (child: ChildProcess, unit: Unit): Promise<Tally> =>
  new Promise((resolve, reject) => {
    const died = (code: number | null): void => reject(new Error(`the process for ${unit.first} on ${unit.net} ended with ${code}`));
    child.once('exit', died);
    child.once('message', (tally) => {
      child.off('exit', died);
      resolve(tally as Tally); // a seam: what pairsChild.ts sends
    });
    child.send(unit);
  });

const plus = (a: Tally | undefined, b: Tally): Tally =>
  a === undefined
    ? b
    : {
        pairs: a.pairs + b.pairs,
        held: a.held + b.held,
        merged: a.merged + b.merged,
        refused: [...a.refused, ...b.refused],
        idle: [...a.idle, ...b.idle],
        broken: [...a.broken, ...b.broken],
      };
