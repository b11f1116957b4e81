// `tinypeft train`: its command line is read and checked before anything heavy is loaded.
import { readTrainCall } from './config.ts';

export async function train(args: readonly string[]): Promise<void> {
  const call = await readTrainCall(args);
  if (typeof call === 'string') return console.log(call);
  const { training } = await import('./training.ts');
  await training(call, args);
}
