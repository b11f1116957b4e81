// A folder in which adapters are trained on packed bases and measured again, by the commands themselves.
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll } from 'vitest';
import { evaluateCommand } from '../../cli/commands/eval.ts';
import { train } from '../../cli/commands/train.ts';
import { called, lastLine, workplace } from './tinypeft.ts';

let root = '';
/** The folder is there while the tests of a file run. */
export function inWorkplace(): void {
  beforeAll(async () => {
    root = await workplace();
  });
  afterAll(() => rm(root, { recursive: true }));
}
export const at = (name: string): string => join(root, name);
/** Trains into a folder, and answers the loss afterwards. */
export async function trained(out: string, ...flags: string[]): Promise<number> {
  const on = ['--model', at('model'), '--data', at('pairs.jsonl'), '--eval-data', at('pairs.jsonl')];
  const { out: said } = await called(train, [...on, '--steps', '3', '--lr', '0.02', '--json', '--out', at(out), ...flags]);
  return lastLine(said).after as number;
}
export async function measured(...flags: string[]): Promise<{ readonly loss: number; readonly err: string }> {
  const { out, err } = await called(evaluateCommand, ['--data', at('pairs.jsonl'), '--json', ...flags]);
  return { loss: lastLine(out).loss as number, err };
}
