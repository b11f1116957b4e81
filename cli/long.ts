// npm run test:long: everything `npm test` leaves out because it takes minutes. Arguments go to vitest.
import { vitest } from './vitest.ts';

process.exitCode = await vitest(['run', ...process.argv.slice(2)], { TINYPEFT_LONG: '1' });
