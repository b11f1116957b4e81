// `tinypeft eval`: the loss and perplexity of a language model on texts, or the accuracy of a classifier, with or without an adapter.
import { readRecords } from '../../io/records.ts';
import type { Model } from '../../nn/layer.ts';
import { evaluate } from '../../optim/evaluate.ts';
import { UsageError } from '../usage.ts';
import { ENGINE_FLAGS, ENGINE_HELP, HELP_FLAG, needed, oneOf, PACKINGS, parsed, wholeFrom } from './flags.ts';
import { engineFor, LABELS_FILE, openAdapted, reader } from './open.ts';
import { classification, type Job, language, type Parts } from './task.ts';

const HELP = `tinypeft eval --model DIR|REPO|FILE.gguf --data FILE [--adapter DIR] [options]

Of a language model: the loss for each token that counts (completions, what the assistant says, all of prose) and the perplexity. Of a classifier that
tinypeft train made: the share of texts it gets right.

  --adapter DIR   an adapter of tinypeft or of Hugging Face PEFT
  --quantize NAME packs the base: ${PACKINGS.join(', ')} (as the adapter was trained)
  --rows N        texts in a batch (8)
  --longest N     tokens of a text at most (256)
  --json          the result as one JSON object
${ENGINE_HELP}`;

export async function evaluateCommand(args: readonly string[]): Promise<void> {
  const { values: v } = parsed('eval', {
    args: [...args],
    options: {
      model: { type: 'string' },
      data: { type: 'string' },
      adapter: { type: 'string' },
      quantize: { type: 'string' },
      rows: { type: 'string', default: '8' },
      longest: { type: 'string', default: '256' },
      json: { type: 'boolean', default: false },
      ...ENGINE_FLAGS,
      ...HELP_FLAG,
    },
  });
  if (v.help) return console.log(HELP);
  const source = needed(v.model, 'model', 'a folder, a repository or a .gguf file');
  const records = await readRecords(needed(v.data, 'data', 'a file of texts'));
  const how = { rows: wholeFrom(v.rows, 'rows', 1), longest: wholeFrom(v.longest, 'longest', 2), seed: 0, epochs: 1, steps: 1, chunk: 256 };
  const packing = oneOf(v.quantize, 'quantize', PACKINGS);
  await using engine = await engineFor(v);
  const labelled = records[0]!.kind === 'label';
  const opened = reader(await openAdapted(source, v.adapter, engine, packing), source);
  const { model, labels } = opened;
  if (labelled && labels === null)
    throw new UsageError(
      v.adapter === undefined
        ? `${source}: is no classifier, and the data have labels; name the --adapter that tinypeft train made`
        : `${v.adapter}: is no classifier's adapter (it has no ${LABELS_FILE}), and the data have labels`,
    );
  if (!labelled && labels !== null)
    throw new UsageError(`${v.adapter ?? source}: is a classifier (${labels.join(', ')}), and the data have no labels`);
  const texts = { train: records, held: records };
  const job: Job = labelled ? classification(texts, opened, { ...how, labels }) : language(texts, opened, how);
  const began = performance.now();
  const value = await evaluate<Model, Parts>(model, { engine, measure: job.measured, batches: job.held, weigh: job.weigh });
  const seconds = (performance.now() - began) / 1000;
  const result = labelled ? { accuracy: value, texts: records.length, seconds } : { loss: value, perplexity: Math.exp(value), seconds };
  if (v.json) return console.log(JSON.stringify(result));
  console.log(
    labelled
      ? `accuracy ${(100 * value).toFixed(1)} % of ${records.length} texts (${seconds.toFixed(1)} s)`
      : `loss ${value.toFixed(4)} nats a token, perplexity ${Math.exp(value).toFixed(3)} (${seconds.toFixed(1)} s)`,
  );
}
