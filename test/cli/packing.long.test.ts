// The same for more methods, packings and files (packing.test.ts).
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { convertCommand } from '../../cli/commands/convert.ts';
import { mergeCommand } from '../../cli/commands/merge.ts';
import { packingOf } from '../../cli/commands/packing.ts';
import { train } from '../../cli/commands/train.ts';
import { at, inWorkplace, measured, trained } from './packedBases.ts';
import { called } from './tinypeft.ts';

inWorkplace();

describe.each([
  ['lora', 'int4', 'peft', []],
  ['lora', 'nf4', 'own', []],
  ['dora', 'int2', 'peft', []],
  ['qaLora', 'int2', 'own', ['--option', 'group=16']],
  ['qlora', 'nf4-double', 'peft', ['--option', 'rank=4']],
] as const)('%s on %s, %s files', (method, packing, format, options) => {
  const out = `${method}-${packing}`;
  test('eval, merge and convert go on from what was trained', async () => {
    const after = await trained(
      out,
      '--method',
      method,
      ...(method === 'qlora' ? [] : ['--quantize', packing]),
      '--format',
      format,
      ...options,
    );
    const adapter = at(`${out}/adapter`);
    expect(await packingOf(adapter)).toBe(packing);
    const model = ['--model', at('model'), '--adapter', adapter];
    const again = await measured(...model);
    expect(again.loss).toBeCloseTo(after, 5); // the adapter is stored as float32
    expect(again.err).toMatch(`base     packed in ${packing}, as the adapter was trained`);

    const { out: said } = await called(mergeCommand, [...model, '--out', at(`${out}-merged`)]);
    expect(said).toMatch(`merged into the base as ${packing} leaves it`);
    expect((await measured('--model', at(`${out}-merged`))).loss).toBeCloseTo(after, 5); // weights rounded to float32

    if (method !== 'lora' && method !== 'qlora') return; // Hugging Face PEFT pools otherwise, and our own file of DoRA wants plain weights
    await called(convertCommand, [...model, '--out', at(`${out}-other`)]);
    expect((await measured('--model', at('model'), '--adapter', at(`${out}-other`))).loss).toBeCloseTo(after, 5);
  });
});

/** Methods whose own files say little of themselves: parts of compositions, ways to pack, what is prepared from weights. */
describe.each([
  ['adapterDrop', 'none'],
  ['ssf', 'none'],
  ['noah', 'none'],
  ['adamss', 'int4'],
  ['frod', 'none'],
  ['loftq', 'none'],
  ['lqLora', 'none', 'rank=4'],
  ['sparseMask', 'int4'],
  ['olora', 'int4'],
  ['dvora', 'int8'],
])('%s on %s', (method, packing, ...options) => {
  test('what train wrote as our own opens again and is what was trained', async () => {
    const more = options.flatMap((o) => ['--option', o!]);
    const after = await trained(method, '--method', method, '--quantize', packing, '--format', 'own', ...more);
    expect((await measured('--model', at('model'), '--adapter', at(`${method}/adapter`))).loss).toBeCloseTo(after, 5);
  });
});

test.each([
  ['fishMask', 'own', 'none'],
  ['corda', 'own', 'none'],
  ['corda', 'auto', 'int4'], // which Hugging Face PEFT has no file for
])('%s, %s, on %s: said before training that it will not open again', async (method, format, packing) => {
  const out = at(`${method}-${packing}`);
  const on = ['--model', at('model'), '--data', at('pairs.jsonl'), '--steps', '1', '--out', out];
  const { err } = await called(train, [...on, '--method', method, '--format', format, '--quantize', packing]);
  expect(err).toMatch(`${method} looks at data before it attaches`);
  await expect(measured('--model', at('model'), '--adapter', join(out, 'adapter'))).rejects.toThrow(`${method} cannot be attached`);
});

/** Their files count or place numbers by the shape of the weight, or hold the table of words itself: of the packed codes it is another. */
test.each([
  ['oft', 'int4'],
  ['supertuning', 'int4'],
  ['supra', 'nf4'],
  ['loraEmbedding', 'none'], // of the two-byte numbers that the checkpoint has
])("%s on %s: Hugging Face PEFT's files open again and are what was trained", async (method, packing) => {
  const after = await trained(`p-${method}`, '--method', method, '--quantize', packing, '--format', 'peft');
  const model = ['--model', at('model'), '--adapter', at(`p-${method}/adapter`)];
  expect((await measured(...model)).loss).toBeCloseTo(after, 5);
  await called(mergeCommand, [...model, '--out', at(`p-${method}-merged`)]);
  expect((await measured('--model', at(`p-${method}-merged`))).loss).toBeCloseTo(after, 5);
});
