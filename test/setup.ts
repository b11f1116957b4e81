// Properties draw new cases on every run here; in CI the seed is fixed, so that a submission is judged by what was tried before
// it. A failure prints seed and path either way.
import fc from 'fast-check';

if (process.env.CI !== undefined) fc.configureGlobal({ seed: 20261125 });
