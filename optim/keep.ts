// Where an optimizer's state is between steps when the engine does not hold it: in other numbers (8 bits), in another place (pages), or both.
import type { Numbers } from '../core/plan.ts';
import type { Data } from '../core/tensor.ts';

/** One state as it is kept: parts by name, or a single part named '' where it is the state's own numbers. */
export type Pieces = Readonly<Record<string, Data>>;

/** How numbers become what is kept. */
export interface Codec {
  encode(numbers: Numbers, state: string): Pieces;
  decode(pieces: Pieces, state: string): Numbers;
}
/** The numbers themselves. */
export const asNumbers: Codec = {
  encode: (numbers) => ({ '': numbers.slice() }),
  decode: ({ '': own }) => {
    if (own instanceof Float32Array || own instanceof Float64Array) return own;
    throw new Error('unreachable: a state kept as numbers holds floats');
  },
};

/** A place for states, opened for one trainer. */
export interface Shelf {
  /** Stores or replaces; a state keeps the sizes it was first stored with. */
  put(key: string, pieces: Pieces): Promise<void>;
  take(key: string): Promise<Pieces>;
  readonly report: ShelfReport;
  close(): Promise<void>;
}
export interface ShelfReport {
  readonly stored: number; // bytes of all states
  readonly resident: number; // bytes of them in memory
  readonly ins: number; // pages read so far
  readonly outs: number; // pages written so far
}

/** What an optimizer says about where its states are kept. */
export interface Keep {
  readonly codec: Codec;
  readonly open: () => Promise<Shelf>;
}

/** All of them in memory. */
export const inMemory = async (): Promise<Shelf> => {
  const states = new Map<string, Pieces>();
  return {
    put: async (key, pieces) => void states.set(key, pieces),
    take: async (key) => {
      const pieces = states.get(key);
      if (pieces === undefined) throw new Error(`unreachable: nothing was stored as ${key}`);
      return pieces;
    },
    get report() {
      const stored = [...states.values()].flatMap((p) => Object.values(p)).reduce((n, d) => n + d.byteLength, 0);
      return { stored, resident: stored, ins: 0, outs: 0 };
    },
    close: async () => states.clear(),
  };
};
