// The progress display and the two-stage Ctrl-C.
import { describe, expect, test } from 'vitest';
import { interrupt, type Signals } from '../../io/interrupt.ts';
import { duration, progress } from '../../io/progress.ts';
import type { StepEvent } from '../../optim/fit.ts';

const event = (step: number, more: Partial<StepEvent> = {}): StepEvent => ({
  step,
  total: 10,
  loss: 1 / step,
  penalty: 0,
  aux: {},
  norm: null,
  lr: 1,
  validation: null,
  tokensPerSecond: 1234.5,
  eta: 75,
  ...more,
});
const sink = () => {
  const text: string[] = [];
  return { text, write: (t: string) => void text.push(t) };
};

describe('where the output is no terminal', () => {
  test('plain lines: the first step, evaluations, the last; in between only now and then', () => {
    const out = sink();
    const view = progress({ title: 'fit', stream: out, every: 3600 });
    for (let k = 1; k <= 10; k++) view.update(event(k, { validation: k === 5 ? 0.25 : null }));
    view.stop();
    expect(out.text).toEqual([
      'fit 1/10  loss 1.0000  1235 tokens/s  1m15s left\n',
      'fit 5/10  loss 0.2000  val 0.2500  1235 tokens/s  1m15s left\n',
      'fit 10/10  loss 0.1000  1235 tokens/s  1m15s left\n',
    ]);
  });
  test('stopping early shows the step it stopped at', () => {
    const out = sink();
    const view = progress({ stream: out, every: 3600 });
    for (let k = 1; k <= 3; k++)
      view.update(event(k, { total: Number.POSITIVE_INFINITY, eta: Number.POSITIVE_INFINITY, tokensPerSecond: 3.2149 }));
    view.stop();
    view.stop();
    expect(out.text.at(-1)).toBe('training 3/?  loss 0.3333  3.21 tokens/s\n');
    expect(out.text).toHaveLength(2);
  });
});

test.each([
  [0, '0s'],
  [0.2, '1s'],
  [59.5, '1m00s'],
  [75, '1m15s'],
  [3600, '1h00m'],
  [7384, '2h03m'],
])('%s seconds are %s', (s, text) => expect(duration(s)).toBe(text));

describe('Ctrl-C', () => {
  const host = () => {
    const listeners = new Set<() => void>();
    const exits: number[] = [];
    const signals: Signals = {
      on: (_, f) => listeners.add(f),
      off: (_, f) => listeners.delete(f),
      exit: (code) => exits.push(code),
    };
    return { signals, exits, listeners, press: () => [...listeners].forEach((f) => void f()) };
  };
  test('the first asks to end, the second quits', () => {
    const h = host();
    const said: string[] = [];
    const stop = interrupt((t) => said.push(t), h.signals);
    expect(stop.signal.aborted).toBe(false);
    h.press();
    expect(stop.signal.aborted).toBe(true);
    expect(said.join()).toMatch(/Stopping after this step, then saving\. Ctrl-C again quits at once/);
    expect(h.exits).toEqual([]);
    h.press();
    expect(h.exits).toEqual([130]);
  });
  test('disposed of, it no longer listens', () => {
    const h = host();
    interrupt(() => {}, h.signals)[Symbol.dispose]();
    expect(h.listeners.size).toBe(0);
  });
  test('a real process: finishes its step, says so, and ends by itself', async () => {
    const { spawn } = await import('node:child_process');
    const program = `
      import { interrupt } from '${new URL('../../io/interrupt.ts', import.meta.url).href}';
      const stop = interrupt();
      console.log('ready');
      while (!stop.signal.aborted) await new Promise((r) => setTimeout(r, 5));
      console.log('saved; resume with --resume');
      stop[Symbol.dispose]();`;
    const child = spawn(process.execPath, ['--import', 'tsx', '--input-type=module', '-e', program], { stdio: ['ignore', 'pipe', 'pipe'] });
    let [out, err] = ['', ''];
    child.stderr.on('data', (d) => (err += d));
    child.stdout.on('data', (d) => {
      out += d;
      if (String(d).includes('ready')) child.kill('SIGINT');
    });
    const code = await new Promise((done) => child.on('exit', done));
    expect(code).toBe(0);
    expect(out).toBe('ready\nsaved; resume with --resume\n');
    expect(err).toMatch(/Stopping after this step/);
  });
});
