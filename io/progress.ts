// Training progress in a terminal: a bar with loss, speed and time left; plain lines where the output is not a terminal.
import { Presets, SingleBar } from 'cli-progress';
import type { StepEvent } from '../optim/fit.ts';

/** The part of a stream this needs; process.stderr and process.stdout are such. */
export interface Output {
  readonly isTTY?: boolean;
  write(text: string): unknown;
}
export interface ProgressOptions {
  readonly title?: string;
  /** Where to draw (process.stderr, so that results on stdout stay clean). */
  readonly stream?: NodeJS.WriteStream | Output;
  /** Seconds between plain lines (5); the first and the last step are always written. */
  readonly every?: number;
}
export interface ProgressView {
  /** For `onStep` of `fit`. */
  update(event: StepEvent): void;
  /** Ends the bar; the cursor goes to a new line. */
  stop(): void;
}

/** Shows steps as they come. */
export function progress({ title = 'training', stream = process.stderr, every = 5 }: ProgressOptions = {}): ProgressView {
  return stream.isTTY === true && isTerminal(stream) ? bar(title, stream) : lines(title, stream, every);
}
const isTerminal = (s: NodeJS.WriteStream | Output): s is NodeJS.WriteStream => 'cursorTo' in s;

function bar(title: string, stream: NodeJS.WriteStream): ProgressView {
  const view = new SingleBar(
    { stream, format: `${title} {bar} {value}/{goal}  loss {loss}{validation}  {speed}{left}`, hideCursor: true, clearOnComplete: false },
    Presets.shades_classic,
  );
  const shown = { started: false, validation: '' };
  return {
    update(e) {
      if (e.validation !== null) shown.validation = `  val ${e.validation.toFixed(4)}`;
      const payload = { goal: goal(e), loss: e.loss.toFixed(4), validation: shown.validation, speed: speed(e), left: left(e) };
      if (!shown.started) view.start(Number.isFinite(e.total) ? e.total : 0, e.step, payload);
      else view.update(e.step, payload);
      shown.started = true;
    },
    stop: () => view.stop(),
  };
}

function lines(title: string, stream: Output, every: number): ProgressView {
  const last = { at: Number.NEGATIVE_INFINITY, pending: null as string | null };
  return {
    update(e) {
      const line = `${title} ${e.step}/${goal(e)}  loss ${e.loss.toFixed(4)}${e.validation === null ? '' : `  val ${e.validation.toFixed(4)}`}  ${speed(e)}${left(e)}\n`;
      const now = performance.now() / 1000;
      const due = now - last.at >= every || e.step === e.total || e.validation !== null;
      last.pending = due ? null : line;
      if (!due) return;
      last.at = now;
      stream.write(line);
    },
    stop() {
      if (last.pending !== null) stream.write(last.pending);
      last.pending = null;
    },
  };
}

const goal = (e: StepEvent): string => (Number.isFinite(e.total) ? String(e.total) : '?');
const speed = (e: StepEvent): string =>
  `${e.tokensPerSecond >= 100 ? Math.round(e.tokensPerSecond) : e.tokensPerSecond.toPrecision(3)} tokens/s`;
const left = (e: StepEvent): string => (Number.isFinite(e.eta) ? `  ${duration(e.eta)} left` : '');

/** 75 → 1m15s */
export function duration(seconds: number): string {
  const s = Math.ceil(seconds);
  if (s < 60) return `${s}s`;
  if (s < 3600) return `${Math.floor(s / 60)}m${String(s % 60).padStart(2, '0')}s`;
  return `${Math.floor(s / 3600)}h${String(Math.floor((s % 3600) / 60)).padStart(2, '0')}m`;
}
