// `tinypeft COMMAND`: finds the command and says how its errors end.
import { nearest } from '../core/nearest.ts';
import { quietWhenUnread } from './unread.ts';
import { UsageError } from './usage.ts';

const COMMANDS: Readonly<
  Record<string, { readonly says: string; readonly run: () => Promise<(args: readonly string[]) => Promise<void>> }>
> = {
  train: { says: 'fine-tunes a model on a file of texts with a PEFT method', run: async () => (await import('./commands/train.ts')).train },
  eval: {
    says: 'measures a model, with or without an adapter, on a file of texts',
    run: async () => (await import('./commands/eval.ts')).evaluateCommand,
  },
  generate: {
    says: 'continues a prompt or answers in a conversation',
    run: async () => (await import('./commands/generate.ts')).generateCommand,
  },
  merge: {
    says: 'folds an adapter into its model and writes an ordinary checkpoint',
    run: async () => (await import('./commands/merge.ts')).mergeCommand,
  },
  convert: {
    says: 'adapters between this library and Hugging Face PEFT, GGUF into a checkpoint',
    run: async () => (await import('./commands/convert.ts')).convertCommand,
  },
  inspect: {
    says: 'what is in a checkpoint, an adapter or a GGUF file, and what it would attach to',
    run: async () => (await import('./commands/inspect.ts')).inspectCommand,
  },
  methods: {
    says: 'all methods: families, places, papers, counts (as npm run methods)',
    run: async () => (await import('./commands/methods.ts')).methodsCommand,
  },
};

const HELP = `tinypeft COMMAND [options]

${Object.entries(COMMANDS)
  .map(([name, { says }]) => `  ${name.padEnd(10)} ${says}`)
  .join('\n')}

tinypeft COMMAND --help says more. Exit codes: 0 done, 1 an error, 2 a wrong command line or configuration, 130 interrupted.`;

const isUsage = (e: unknown): boolean =>
  e instanceof UsageError || (e instanceof Error && 'code' in e && String(e.code).startsWith('ERR_PARSE_ARGS'));

async function main([name, ...args]: readonly string[]): Promise<void> {
  if (name === undefined || name === '--help' || name === '-h') return console.log(HELP);
  const command = Object.hasOwn(COMMANDS, name) ? COMMANDS[name]! : null;
  if (command === null)
    throw new UsageError(`there is no command ${name}. Nearest: ${nearest(name, Object.keys(COMMANDS)).join(', ')}\n\n${HELP}`);
  await (await command.run())(args);
}

quietWhenUnread();
try {
  await main(process.argv.slice(2));
} catch (e) {
  console.error(`tinypeft: ${e instanceof Error ? e.message : String(e)}`);
  if (process.env.DEBUG !== undefined && e instanceof Error) console.error(e.stack);
  process.exitCode = isUsage(e) ? 2 : 1;
}
