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
  /** Where a parameter is; uploaded from its starting value the first time. */
  slot(p: Param): Promise<H>;
  put(p: Param, h: H): void;
}

export function deviceStore<H>(device: Device<H>): DeviceStore<H> {
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
  return {
    slot,
    put,
    async read(params) {
      const out = new Map<Param, Numbers>();
      for (const p of params) {
        const { rows, cols } = table(p.shape);
        out.set(p, await device.download(await slot(p), rows, cols));
      }
      return out;
    },
    async write(values) {
      for (const [p, data] of values)
        if (data.length !== size(p.shape)) throw new RangeError(`store: ${data.length} numbers for a parameter of shape ${show(p.shape)}`);
      for (const [p, data] of values) put(p, await upload(p, data));
    },
    forget(params) {
      for (const p of params) {
        release(slots.get(p));
        slots.delete(p);
      }
    },
    close() {
      for (const h of slots.values()) release(h);
      slots.clear();
    },
  };
}
