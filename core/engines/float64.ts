// The oracle: the kernels' own text run as JavaScript on float64 numbers. Slow, exact, and open to a debugger.
import { type Engine, makeEngine } from '../engine.ts';
import type { Device, Executable, Numbers } from '../plan.ts';
import type { Ref, Schedule } from '../schedule.ts';
import { type Compiled, compileText, threeInOne } from './text.ts';

/** A table of doubles, and its rows as kernels read them: `a[row][col]`. */
interface Table {
  readonly data: Float64Array;
  readonly rows: readonly Float64Array[];
}
const tableOf = (data: Float64Array, rows: number, cols: number): Table => ({
  data,
  rows: Array.from({ length: rows }, (_, r) => data.subarray(r * cols, (r + 1) * cols)),
});

/** Tables of this many numbers or fewer are used again: making the rows costs more than filling them. */
const SMALL = 1 << 14;

export function float64(): Engine {
  const spare = new Map<string, Table[]>();
  const take = (rows: number, cols: number): Table =>
    spare.get(`${rows} ${cols}`)?.pop() ?? tableOf(new Float64Array(rows * cols), rows, cols);
  const give = (t: Table, rows: number, cols: number): void => {
    if (t.data.length > SMALL) return;
    const same = spare.get(`${rows} ${cols}`);
    if (same === undefined) spare.set(`${rows} ${cols}`, [t]);
    else same.push(t);
  };
  const kernels = new Map<string, Compiled>();
  const kernel = (text: string, helpers: readonly string[]): Compiled => {
    const known = kernels.get(text) ?? compileText(text, helpers);
    kernels.set(text, known);
    return known;
  };
  const device: Device<Table> & { close(): Promise<void>; compiled: () => number } = {
    upload: async (data, rows, cols) => tableOf(Float64Array.from(data), rows, cols),
    uploadBytes: async (data, rows, cols) => tableOf(Float64Array.from(threeInOne(data, rows, cols)), rows, Math.ceil(cols / 3)),
    download: async (h): Promise<Numbers> => h.data.slice(), // the caller's own copy
    free: () => {},
    compiled: () => kernels.size,
    close: async () => {
      kernels.clear();
      spare.clear();
    },
    prepare: async (s: Schedule): Promise<Executable<Table>> => {
      const ready = s.steps.map((st) => ({
        run: kernel(st.kernel.text, st.kernel.helpers),
        args: st.args,
        free: st.free,
        rows: st.kernel.rows,
        cols: st.kernel.cols,
      }));
      return {
        executor: 'float64',
        fallback: null,
        run: async (read) => {
          const values: (Table | undefined)[] = [];
          const get = (r: Ref): Table => (r.kind === 'step' ? values[r.index]! : read(r));
          for (const [k, st] of ready.entries()) {
            const out = take(st.rows, st.cols);
            st.run(out.data, st.rows, st.cols, ...st.args.map((a) => get(a).rows));
            values[k] = out;
            for (const f of st.free) {
              give(values[f]!, ready[f]!.rows, ready[f]!.cols);
              values[f] = undefined;
            }
          }
          return s.roots.map(get);
        },
      };
    },
  };
  return makeEngine(device, { engine: 'float64', mode: 'float64', adapter: null, why: 'asked for: double precision on the main thread' });
}
