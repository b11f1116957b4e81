// The simd engine in a real browser: on a plain page (one thread, memory not shared), and in a worker of an isolated page
// (threads). Needs a Chromium; counted as skipped where there is none.
import { spawn } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { build } from 'esbuild';
import { expect, it } from 'vitest';
import { type Report, train } from './train.ts';

const chromium = ['/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome', process.env.CHROMIUM ?? ''].find(
  (p) => p !== '' && existsSync(p),
);
if (chromium === undefined) console.warn('SKIPPED: the simd engine in a browser. There is no Chromium here (set CHROMIUM to its path).');

/** Serves the bundle to a headless Chromium and answers what the page reports. */
async function inBrowser(page: string, isolated: boolean): Promise<Report> {
  const { outputFiles } = await build({
    entryPoints: [new URL('./train.ts', import.meta.url).pathname],
    bundle: true,
    write: false,
    format: 'esm',
    platform: 'browser',
    target: 'es2023',
    external: ['node:*', 'gpu.js', 'webgpu'],
  });
  const script = outputFiles[0]!.text;
  const profile = mkdtempSync(join(tmpdir(), 'tinypeft-browser-'));
  const headers: Record<string, string> = isolated
    ? { 'Cross-Origin-Opener-Policy': 'same-origin', 'Cross-Origin-Embedder-Policy': 'require-corp' }
    : {};
  let done: (r: Report) => void = () => {};
  let failed: (e: Error) => void = () => {};
  const answer = new Promise<Report>((ok, bad) => {
    done = ok;
    failed = bad;
  });
  const server = createServer((request, response) => {
    if (request.url === '/report') {
      let body = '';
      request.on('data', (d) => {
        body += d;
      });
      request.on('end', () => {
        const report = JSON.parse(body) as Report & { error?: string };
        if (report.error === undefined) done(report);
        else failed(new Error(report.error));
        response.end();
      });
    } else if (request.url?.startsWith('/train.js')) response.writeHead(200, { ...headers, 'Content-Type': 'text/javascript' }).end(script);
    else response.writeHead(200, { ...headers, 'Content-Type': 'text/html' }).end(page);
  });
  await new Promise<void>((ok) => server.listen(0, '127.0.0.1', ok));
  const browser = spawn(
    chromium!,
    [
      '--headless',
      '--no-sandbox',
      '--disable-gpu',
      '--disable-quic',
      '--no-first-run',
      '--disable-background-networking',
      '--disable-component-update',
      '--disable-sync',
      '--disable-dev-shm-usage',
      `--user-data-dir=${profile}`,
      `http://127.0.0.1:${(server.address() as AddressInfo).port}/`,
    ],
    { stdio: 'ignore', detached: true },
  );
  browser.on('exit', (code) => failed(new Error(`Chromium ended with ${code} before the page reported`)));
  try {
    return await answer;
  } finally {
    const gone = new Promise((ok) => browser.once('exit', ok));
    process.kill(-browser.pid!, 'SIGKILL'); // with its helper processes, which still write to the profile
    await gone;
    server.close();
    rmSync(profile, { recursive: true, force: true, maxRetries: 10, retryDelay: 200 });
  }
}

const close = (a: readonly number[], b: readonly number[]): void => {
  for (const [k, v] of a.entries()) expect(Math.abs(v - b[k]!)).toBeLessThan(1e-5);
};

it.skipIf(chromium === undefined)(
  'trains on a plain page, on one thread',
  async () => {
    const report = await inBrowser('<!doctype html><script type="module" src="/train.js"></script>', false);
    expect(report.mode).toMatch(/1 thread.*memory not shared/);
    expect(report.isolated).toBe(false);
    close(report.losses, (await train(1)).losses);
  },
  60_000,
);

it.skipIf(chromium === undefined)(
  'trains in a worker of an isolated page, on two threads',
  async () => {
    const report = await inBrowser('<!doctype html><script>new Worker("/train.js?threads=2", { type: "module" })</script>', true);
    expect(report.mode).toMatch(/2 threads/);
    expect(report.isolated).toBe(true);
    close(report.losses, (await train(2)).losses);
  },
  60_000,
);
