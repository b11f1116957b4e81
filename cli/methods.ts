// npm run methods: `tinypeft methods` under its own name.
import { methodsCommand } from './commands/methods.ts';
import { quietWhenUnread } from './unread.ts';
import { UsageError } from './usage.ts';

quietWhenUnread();
try {
  await methodsCommand(process.argv.slice(2));
} catch (e) {
  if (!(e instanceof UsageError)) throw e;
  console.error(`methods: ${e.message}`);
  process.exitCode = 2;
}
