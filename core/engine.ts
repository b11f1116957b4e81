// An engine runs recipes: it reads values, keeps stores of parameters, and compiles programs into plans.
import { compile, type Device, type Feed, lru, type Plan, type Program } from './plan.ts';
import { ShapeError, show, size, table } from './shape.ts';
import { format } from './show.ts';
import { type DeviceStore, deviceStore, type Numbers, type Store } from './store.ts';
import type { Data, Tensor } from './tensor.ts';

export interface EngineReport {
  readonly engine: 'gpujs' | 'float64' | 'simd';
  readonly mode: string; // webgpu, webasm, cpu, float64, …
  readonly adapter: string | null;
  readonly why: string; // why this mode and no faster one
}
/** Counters that only grow. */
export interface EngineStats {
  readonly kernelsCompiled: number;
  readonly plansCompiled: number;
  readonly plansReused: number;
  readonly leavesUploaded: number;
}

export interface Engine extends AsyncDisposable {
  readonly report: EngineReport;
  readonly stats: EngineStats;
  /** The numbers of a recipe, row by row. Parameters have the values they start from; use a plan to read trained ones. */
  read(t: Tensor, feed?: Feed): Promise<Numbers>;
  /** The one number of a scalar recipe. */
  item(t: Tensor, feed?: Feed): Promise<number>;
  /** Prints values and shapes. */
  print(...ts: Tensor[]): Promise<void>;
  store(): Store;
  compile<O extends string>(store: Store, program: Program<O>): Promise<Plan<O>>;
  /** Bytes the engine's own memory has grown to, where it has one. */
  readonly memory?: () => number;
  /**
   * The same numbers as an array in the engine's own memory, where it has one that JavaScript sees: reading them costs no second copy. They
   * stay until the engine is closed and everything that holds such an array is gone. See `moveTo` in nn/freeze.ts.
   */
  readonly adopt?: <D extends Data>(data: D) => D;
  close(): Promise<void>;
}

/** Plans kept per engine: train, evaluate and decode for several length buckets fit; sixty search evaluations do not pile up. */
const PLANS = 32;

export function makeEngine<H extends object>(
  device: Device<H> & { close(): Promise<void>; readonly compiled: () => number } & Pick<Engine, 'memory' | 'adopt'>,
  report: EngineReport,
): Engine {
  const cache = lru<H>(PLANS);
  const stores = new Map<Store, DeviceStore<H>>();
  const life = { closed: false };
  const counts = { plansCompiled: 0, plansReused: 0, leavesUploaded: 0 };
  let uploaded = new WeakMap<Data, Map<string, Promise<H>>>(); // by data, column count and storage: one upload however many plans read it
  const garbage = new FinalizationRegistry<H>((h) => device.free(h));
  const leafOn = (d: Data, rows: number, cols: number, bytes: boolean): Promise<H> => {
    const byWidth = uploaded.get(d) ?? new Map<string, Promise<H>>();
    uploaded.set(d, byWidth);
    const key = `${cols}${bytes ? ' bytes' : ''}`;
    const known = byWidth.get(key);
    if (known !== undefined) return known;
    counts.leavesUploaded++;
    const h = bytes ? device.uploadBytes(d, rows, cols) : device.upload(d, rows, cols);
    byWidth.set(key, h);
    void h.then((held) => garbage.register(d, held));
    return h;
  };
  const store = (): Store => {
    if (life.closed) throw new Error('engine: it was closed; open another with openEngine()');
    const s = deviceStore(device, () => stores.delete(s));
    stores.set(s, s);
    return s;
  };
  const own = async <O extends string>(s: Store, program: Program<O>): Promise<Plan<O>> => {
    const mine = stores.get(s);
    if (mine === undefined) throw new Error('compile: this store belongs to another engine, or was closed; make one with engine.store()');
    const plan = await compile(device, mine, leafOn, cache, program);
    if (plan.report.cached) counts.plansReused++;
    else counts.plansCompiled++;
    return plan;
  };
  const read = async (t: Tensor, feed: Feed = {}): Promise<Numbers> => {
    const scratch = store(); // its own, so that reads may overlap
    try {
      return (await (await own(scratch, { outputs: { y: t } })).run(feed)).y;
    } finally {
      scratch.close();
    }
  };
  const close = async (): Promise<void> => {
    if (life.closed) return;
    life.closed = true;
    for (const s of [...stores.values()]) s.close();
    uploaded = new WeakMap();
    await device.close();
  };
  return {
    report,
    get stats() {
      return { ...counts, kernelsCompiled: device.compiled() };
    },
    ...(device.memory === undefined ? {} : { memory: device.memory }),
    ...(device.adopt === undefined ? {} : { adopt: device.adopt }),
    read,
    store,
    close,
    compile: own,
    async item(t, feed) {
      if (size(t.shape) !== 1) throw new ShapeError(`item: ${show(t.shape)} is not one number; use read, or take a mean`);
      return (await read(t, feed))[0]!;
    },
    async print(...ts) {
      for (const t of ts) console.log(`${show(t.shape)} ${format(await read(t), table(t.shape).cols)}`);
    },
    [Symbol.asyncDispose]: close,
  };
}
