// An adapter trained on a packed base: whoever opens it packs the base the same way, and merged it computes what was trained.
import { readdir, readFile, writeFile } from 'node:fs/promises';
import { expect, test } from 'vitest';
import { generateCommand } from '../../cli/commands/generate.ts';
import { mergeCommand } from '../../cli/commands/merge.ts';
import { packingOf } from '../../cli/commands/packing.ts';
import { at, inWorkplace, measured, trained } from './packedBases.ts';
import { called } from './tinypeft.ts';

inWorkplace();

test('QA-LoRA on int4: eval and merge go on from what was trained', async () => {
  const after = await trained('a', '--method', 'qaLora', '--option', 'group=16', '--quantize', 'int4');
  expect(await packingOf(at('a/adapter'))).toBe('int4');
  const model = ['--model', at('model'), '--adapter', at('a/adapter')];
  const again = await measured(...model);
  expect(again.loss).toBeCloseTo(after, 5); // the adapter is stored as float32
  expect(again.err).toMatch('base     packed in int4, as the adapter was trained');
  const { out } = await called(mergeCommand, [...model, '--out', at('merged')]);
  expect(out).toMatch('merged into the base as int4 leaves it');
  expect((await measured('--model', at('merged'))).loss).toBeCloseTo(after, 5); // weights rounded to float32
});

test('--quantize goes before what the adapter says, and says so; another base gives another model', async () => {
  const model = ['--model', at('model'), '--adapter', at('a/adapter')];
  const own = await measured(...model);
  const plain = await measured(...model, '--quantize', 'none');
  expect(plain.loss).not.toBeCloseTo(own.loss, 3);
  expect(plain.err).toMatch('base     not packed, as --quantize says; the adapter was trained on int4');
  expect((await measured(...model, '--quantize', 'int2')).err).toMatch(
    'packed in int2, as --quantize says; the adapter was trained on int4',
  );
  expect((await measured(...model, '--quantize', 'int4')).err).not.toMatch('base ');
  const { out, err } = await called(mergeCommand, [...model, '--quantize', 'none', '--out', at('plain')]);
  expect(out).not.toMatch('merged into');
  expect(err).toMatch('not packed, as --quantize says');
  expect((await measured('--model', at('plain'))).loss).toBeCloseTo(plain.loss, 5);
  expect((await called(generateCommand, [...model, '--tokens', '2', 'a'])).err).toMatch('packed in int4, as the adapter was trained');
});

test('an unpacked base leaves no trace, and a packing on top of it is remarked upon', async () => {
  await trained('plainly');
  expect((await readdir(at('plainly/adapter'))).sort()).toEqual(['adapter_config.json', 'adapter_model.safetensors']);
  const { err } = await measured('--model', at('model'), '--adapter', at('plainly/adapter'), '--quantize', 'int8');
  expect(err).toMatch("packed in int8, as --quantize says; the adapter's folder names no packing");
});

test('a file that says something else is refused', async () => {
  const path = at('a/adapter/tinypeft.json');
  const before = await readFile(path);
  for (const text of ['{', '[]', '{"quantize":"int3"}', '{"quantize":4}']) {
    await writeFile(path, text);
    await expect(measured('--model', at('model'), '--adapter', at('a/adapter'))).rejects.toThrow(/tinypeft.json: must be .*int4/);
  }
  await writeFile(path, before);
});
