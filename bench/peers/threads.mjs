// Gives jax-js the Worker of a browser in Node, so that its thread pool starts. Not something jax-js ships: THREADS=2 node --import ./threads.mjs …
import { resolveObjectURL } from 'node:buffer';
import { Worker as NodeWorker } from 'node:worker_threads';

const threads = Number(process.env.THREADS ?? 2);
process.env.JAX_THREADS = String(threads);
Object.defineProperty(globalThis, 'navigator', { configurable: true, value: { userAgent: 'Node.js', hardwareConcurrency: threads } });

/** A browser's names inside the worker. */
const inside = `const { parentPort } = require('node:worker_threads');
globalThis.self = globalThis;
globalThis.postMessage = (m) => parentPort.postMessage(m);
parentPort.on('message', (data) => self.onmessage({ data }));
`;

globalThis.Worker = class {
  #waiting = [];
  #worker = null;
  constructor(url) {
    void this.#start(url);
  }
  async #start(url) {
    const source = await resolveObjectURL(String(url)).text();
    const worker = new NodeWorker(inside + source, { eval: true });
    worker.on('message', (data) => this.onmessage?.({ data }));
    worker.on('error', (e) => {
      console.error(e);
      process.exit(1);
    });
    this.#worker = worker;
    for (const m of this.#waiting) worker.postMessage(m);
  }
  postMessage(m) {
    if (this.#worker === null) this.#waiting.push(m);
    else this.#worker.postMessage(m);
  }
};
