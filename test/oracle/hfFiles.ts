// What hf_files.py wrote, and the networks it is about.
import { readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Engine } from '../../core/engine.ts';
import { context } from '../../nn/context.ts';
import type { Model } from '../../nn/layer.ts';
import type { Table } from './fixtures.ts';
import { type Network, networks } from './networks.ts';

export const FILES = join(dirname(fileURLToPath(import.meta.url)), 'fixtures', 'hf-files');
/** What the library answers with an adapter, and whether it saves the same weights file again; or why it cannot read it. */
export type There = (Table & { readonly again: boolean }) | { readonly error: string };
export interface Answers {
  readonly about: Readonly<Record<string, string>>;
  readonly logits: Readonly<Record<string, Table>>;
}
export const recorded = JSON.parse(readFileSync(join(FILES, 'logits.json'), 'utf8')) as Answers;
export const answered = recorded.logits;

/** lora-patterns-llama is about the tiny LLaMA. */
export const networkOf = (title: string): Network => networks[title.split('-').at(-1) as keyof typeof networks];
/** Each row of the batch has its task, where the method has tasks. */
export const feedOf = (title: string): Readonly<Record<string, readonly number[]>> => (/^(poly|mpt)-/.test(title) ? { task: [1, 0] } : {});
/** Both sides compute in double precision from float32 numbers; a start taken out of the weight was taken out in float32 there. */
export const tolerance = (title: string): number => (/^(pissa|olora|kasa|osf|frod)-/.test(title) ? 2e-5 : 1e-7);

export async function logitsOf(
  engine: Engine,
  model: Model,
  n: Network,
  feed: Readonly<Record<string, readonly number[]>>,
): Promise<ArrayLike<number>> {
  const outputs = { logits: model(n.batch, context(n.tokens)) };
  return (await (await engine.compile(engine.store(), { outputs })).run(feed)).logits!;
}
