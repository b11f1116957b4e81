import { defineConfig } from 'vitest/config';

// `npm test` runs everything but *.long.test.ts; `npm run test:long` runs those. Two workers: the machines have two cores.
const long = process.env.TINYPEFT_LONG === '1';
export default defineConfig({
  test: {
    include: [long ? 'test/**/*.long.test.ts' : 'test/**/*.test.ts'],
    exclude: long ? [] : ['test/**/*.long.test.ts'],
    setupFiles: ['test/setup.ts'],
    pool: 'forks',
    maxWorkers: 2,
    execArgv: ['--max-semi-space-size=64'], // graphs are many small objects that die young
    isolate: long, // files share what they import: a third less time; no module here keeps state
    testTimeout: long ? 1_800_000 : 60_000,
  },
});
