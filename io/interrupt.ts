// Ctrl-C in two stages: the first asks training to end after the running step, the second quits at once.

export interface Interrupt extends Disposable {
  /** For `fit`: aborted by the first Ctrl-C (SIGINT) or a polite kill (SIGTERM). */
  readonly signal: AbortSignal;
}

/** The process as far as this needs it. */
export interface Signals {
  on(signal: 'SIGINT' | 'SIGTERM', f: () => void): unknown;
  off(signal: 'SIGINT' | 'SIGTERM', f: () => void): unknown;
  exit(code: number): unknown;
}

/**
 * Listens until disposed of (`using stop = interrupt()`). The caller saves once training has ended and says how to resume.
 * A second signal exits with 130, the shells' code for Ctrl-C; files are written atomically, so none is left half done.
 */
export function interrupt(say: (text: string) => void = (text) => process.stderr.write(`${text}\n`), host: Signals = process): Interrupt {
  const controller = new AbortController();
  const stop = (): void => {
    if (controller.signal.aborted) {
      host.exit(130);
      return;
    }
    controller.abort();
    say('\nStopping after this step, then saving. Ctrl-C again quits at once and loses what was not saved.');
  };
  host.on('SIGINT', stop);
  host.on('SIGTERM', stop);
  return {
    signal: controller.signal,
    [Symbol.dispose]: () => {
      host.off('SIGINT', stop);
      host.off('SIGTERM', stop);
    },
  };
}

/** Lets a Ctrl-C be heard: a CPU engine answers without ever waiting. */
export const breathe = (): Promise<void> => new Promise((done) => setImmediate(done));
