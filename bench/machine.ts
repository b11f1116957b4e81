// The machine a measurement was made on.
import { availableParallelism, cpus, loadavg, platform, release, totalmem } from 'node:os';

export interface Machine {
  readonly cpu: string;
  readonly cores: number;
  readonly memory: number; // bytes
  readonly system: string;
  readonly node: string;
  /** Processes that wanted to run in the last minute before measuring. */
  readonly load: number;
}

export const machine = (): Machine => ({
  cpu: cpus()[0]?.model.trim() ?? 'unknown processor',
  cores: availableParallelism(),
  memory: totalmem(),
  system: `${platform()} ${release()}`,
  node: process.version,
  load: loadavg()[0] ?? 0,
});

/** One line for people. */
export const described = (m: Machine): string =>
  `${m.cpu}, ${m.cores} cores, ${(m.memory / 2 ** 30).toFixed(0)} GiB, ${m.system}, Node ${m.node}, load ${m.load.toFixed(1)}`;

/** What to say of a machine that is doing something else too; null of a quiet one. */
export const busy = (m: Machine): string | null =>
  m.load > m.cores / 4 + 0.5
    ? `The machine is busy (load ${m.load.toFixed(1)} on ${m.cores} cores): times below are not to be quoted. Wait until it is quiet.`
    : null;
