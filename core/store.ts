// A store: the values of parameters on one device, shared by all plans made for it.
import type { Device } from './plan.ts';
import { show, size, table } from './shape.ts';
import type { Data, Param } from './tensor.ts';

/** Numbers that came from an engine. */
export type Numbers = Float32Array | Float64Array;

export interface Store {
  read(params: Iterable<Param>): Promise<Map<Param, Numbers>>;
  /** Replaces values. Throws before changing anything when a length does not fit. */
  write(values: ReadonlyMap<Param, Data>): Promise<void>;
  /** Gives back what is kept for these parameters; asked for again, they have their starting values. */
  forget(params: Iterable<Param>): void;
  close(): void;
}
export interface DeviceStore<H> extends Store {
  /** Runs `f` after what is under way on this store: steps that were not awaited one by one still follow each other. */
  turn<T>(f: () => Promise<T>): Promise<T>;
  /** Where a parameter is; uploaded from its starting value the first time. */
  slot(p: Param): Promise<H>;
  put(p: Param, h: H): void;
}

export function deviceStore<H>(device: Device<H>, closed: () => void): DeviceStore<H> {
  const slots = new Map<Param, Promise<H>>();
  const release = (h: Promise<H> | undefined): void => void h?.then((old) => device.free(old));
  const upload = (p: Param, data: Data): Promise<H> => {
    const { rows, cols } = table(p.shape);
    return device.upload(data, rows, cols);
  };
  const slot = (p: Param): Promise<H> => {
    const h = slots.get(p) ?? upload(p, p.value);
    slots.set(p, h);
    return h;
  };
  const put = (p: Param, h: H): void => {
    release(slots.get(p));
    slots.set(p, Promise.resolve(h));
  };
  const queue: { last: Promise<unknown> } = { last: Promise.resolve() };
  const turn = <T>(f: () => Promise<T>): Promise<T> => {
    const mine = queue.last.then(f);
    queue.last = mine.catch(() => {}); // whoever asked hears of the failure; the next one still gets its turn
    return mine;
  };
  return {
    slot,
    put,
    turn,
    read: (params) =>
      turn(async () => {
        const out = new Map<Param, Numbers>();
        for (const p of params) {
          const { rows, cols } = table(p.shape);
          out.set(p, await device.download(await slot(p), rows, cols));
        }
        return out;
      }),
    write: (values) =>
      turn(async () => {
        for (const [p, data] of values)
          if (data.length !== size(p.shape))
            throw new RangeError(`store: ${data.length} numbers for a parameter of shape ${show(p.shape)}`);
        for (const [p, data] of values) put(p, await upload(p, data));
      }),
    forget(params) {
      for (const p of params) {
        release(slots.get(p));
        slots.delete(p);
      }
    },
    close() {
      for (const h of slots.values()) release(h);
      slots.clear();
      closed();
    },
  };
}
