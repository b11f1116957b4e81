// Threads that walk a program together with the caller. Each waits in its own WebAssembly instance over the shared memory.

export interface Pool {
  readonly threads: number;
  /** Lets every worker run the program between two addresses; the caller must run it too, as thread 0. */
  start(from: number, to: number): void;
  /** An error when a worker has died, else null. */
  readonly failure: Error | null;
  close(): Promise<void>;
}

/** Words at the start of the memory: barrier (arrived, generation), then order number, from, to, quit. */
export const CONTROL = 64;
export const CONTROL_WORDS = { order: 2, from: 3, to: 4, quit: 5 } as const;

// The worker's body is text, so that Node and browsers start it alike. It waits for the next order, runs it, waits again.
const body = `
const serve = async ({ module, memory, tid, threads, scratch, control }) => {
  const { exports } = await WebAssembly.instantiate(module, { env: { memory } });
  const words = new Int32Array(memory.buffer, control, 8);
  let seen = 0;
  post('ready');
  for (;;) {
    Atomics.wait(words, 2, seen);
    seen = Atomics.load(words, 2);
    if (Atomics.load(words, 5) !== 0) return;
    exports.run(Atomics.load(words, 3), Atomics.load(words, 4), tid, threads, scratch, control);
  }
};`;
const nodeBody = `const { parentPort } = require('node:worker_threads');
require('node:v8').setFlagsFromString('--experimental-wasm-relaxed-simd');
const post = (m) => parentPort.postMessage(m);
${body}
parentPort.once('message', (m) => serve(m).then(() => process.exit(0)));`;
const browserBody = `const post = (m) => self.postMessage(m);\n${body}\nself.onmessage = (e) => serve(e.data).then(() => self.close());`;

interface Thread {
  send(message: object): void;
  ready: Promise<void>;
  end(): Promise<void>;
}

export async function pool(
  module: WebAssembly.Module,
  memory: WebAssembly.Memory,
  threads: number,
  scratch: (tid: number) => number,
): Promise<Pool> {
  const state: { failure: Error | null } = { failure: null };
  const fail = (e: unknown): void => {
    state.failure ??= new Error(
      `simd engine: a worker thread died (${e instanceof Error ? e.message : String(e)}); open a new engine, with threads: 1 if it happens again`,
    );
  };
  const words = new Int32Array(memory.buffer, CONTROL, 8);
  const make = typeof process === 'undefined' ? browserThread : await nodeThread();
  const workers = Array.from({ length: threads - 1 }, (_, k) => {
    const t = make(fail);
    t.send({ module, memory, tid: k + 1, threads, scratch: scratch(k + 1), control: CONTROL });
    return t;
  });
  await Promise.all(workers.map((w) => w.ready));
  const order = (): void => {
    Atomics.add(words, CONTROL_WORDS.order, 1);
    Atomics.notify(words, CONTROL_WORDS.order);
  };
  return {
    threads,
    get failure() {
      return state.failure;
    },
    start(from, to) {
      Atomics.store(words, CONTROL_WORDS.from, from);
      Atomics.store(words, CONTROL_WORDS.to, to);
      order();
    },
    async close() {
      Atomics.store(words, CONTROL_WORDS.quit, 1);
      order();
      await Promise.all(workers.map((w) => w.end()));
    },
  };
}

async function nodeThread(): Promise<(fail: (e: unknown) => void) => Thread> {
  const { Worker } = await import('node:worker_threads');
  return (fail) => {
    const w = new Worker(nodeBody, { eval: true });
    const ready = new Promise<void>((done, bad) => {
      w.once('message', () => {
        w.unref(); // from here on it does not keep Node alive
        done();
      });
      w.once('error', bad);
    });
    const closing = { now: false };
    w.on('error', fail);
    w.on('exit', () => {
      if (!closing.now) fail('it stopped');
    });
    return {
      send: (m) => w.postMessage(m),
      ready,
      end: async () => {
        closing.now = true;
        await w.terminate();
      },
    };
  };
}

function browserThread(fail: (e: unknown) => void): Thread {
  const url = URL.createObjectURL(new Blob([browserBody], { type: 'text/javascript' }));
  const w = new Worker(url);
  const ready = new Promise<void>((done, bad) => {
    w.onmessage = () => {
      URL.revokeObjectURL(url);
      done();
    };
    w.onerror = (e) => bad(new Error(e.message));
  });
  w.addEventListener('error', (e) => fail(e.message));
  return { send: (m) => w.postMessage(m), ready, end: async () => w.terminate() };
}
