// `tinypeft generate`: what a language model says to a prompt, token by token as it comes.
import { isDecoder } from '../../io/checkpoints/config.ts';
import { generate } from '../../nn/generate.ts';
import { UsageError } from '../usage.ts';
import { ENGINE_FLAGS, ENGINE_HELP, HELP_FLAG, needed, numberFrom, oneOf, PACKINGS, parsed, wholeFrom } from './flags.ts';
import { engineFor, openAdapted, reader } from './open.ts';

const HELP = `tinypeft generate --model DIR|REPO|FILE.gguf "a prompt" [options]

  --adapter DIR     an adapter of tinypeft or of Hugging Face PEFT
  --quantize NAME   packs the base: ${PACKINGS.join(', ')} (as the adapter was trained)
  --chat            the prompt is what a user says; the model's own template is put around it
  --system TEXT     with --chat: what comes before it
  --tokens N        new tokens at most (64)
  --temperature X   0 takes the likeliest token (0)
  --top-k N         draws from the N likeliest
  --top-p X         draws from the likeliest that together have this share
  --seed N          of the draws (0)
  --json            one JSON object: prompt, text, tokens, seconds
${ENGINE_HELP}`;

export async function generateCommand(args: readonly string[]): Promise<void> {
  const { values: v, positionals } = parsed('generate', {
    args: [...args],
    allowPositionals: true,
    options: {
      model: { type: 'string' },
      adapter: { type: 'string' },
      quantize: { type: 'string' },
      chat: { type: 'boolean', default: false },
      system: { type: 'string' },
      tokens: { type: 'string', default: '64' },
      temperature: { type: 'string', default: '0' },
      'top-k': { type: 'string' },
      'top-p': { type: 'string' },
      seed: { type: 'string', default: '0' },
      json: { type: 'boolean', default: false },
      ...ENGINE_FLAGS,
      ...HELP_FLAG,
    },
  });
  if (v.help) return console.log(HELP);
  const source = needed(v.model, 'model', 'a folder, a repository or a .gguf file');
  const [prompt] = positionals;
  if (prompt === undefined || positionals.length > 1) throw new UsageError('generate: give one prompt, in quotes');
  const tokens = wholeFrom(v.tokens, 'tokens', 1);
  const sampling = {
    temperature: numberFrom(v.temperature, 'temperature', 0),
    ...(v['top-k'] === undefined ? {} : { topK: wholeFrom(v['top-k'], 'top-k', 1) }),
    ...(v['top-p'] === undefined ? {} : { topP: numberFrom(v['top-p'], 'top-p', 0) }),
  };
  const seed = wholeFrom(v.seed, 'seed', 0);
  const packing = oneOf(v.quantize, 'quantize', PACKINGS);
  if (v.system !== undefined && !v.chat) throw new UsageError('--system goes with --chat');
  await using engine = await engineFor(v);
  const { model, tokenizer, chat, config, labels } = reader(await openAdapted(source, v.adapter, engine, packing), source);
  if (labels !== null) throw new UsageError(`${v.adapter ?? source}: is a classifier (${labels.join(', ')}), which writes no text`);
  if (!isDecoder(config) || config.head !== 'language')
    throw new UsageError(`${source}: a ${config.architecture} with a ${config.head} head writes no text`);
  if (v.chat && chat === null) throw new UsageError(`${source}: has no chat template; leave --chat out`);
  const messages = [...(v.system === undefined ? [] : [{ role: 'system', content: v.system }]), { role: 'user', content: prompt }];
  const ids = v.chat ? tokenizer.plain(chat!(messages, true)) : tokenizer.encode(prompt);
  if (ids.length === 0) throw new UsageError('generate: the prompt has no tokens');
  const { positions } = config.sizes;
  const room = positions - ids.length + 1; // what is read: the prompt, and every new token but the last
  if (room < 1) throw new UsageError(`generate: the prompt has ${ids.length} tokens, and the model has ${positions} positions`);
  if (tokens > room) console.error(`at most ${room} new tokens: the prompt has ${ids.length}, and the model has ${positions} positions`);
  const began = performance.now();
  const made: number[] = [];
  let shown = '';
  const show = (): void => {
    const text = tokenizer.decode(made);
    if (text.endsWith('\ufffd')) return; // half a character: the rest is in the next token
    process.stdout.write(text.slice(shown.length));
    shown = text;
  };
  const answer = await generate(model, [...ids], {
    ...{ engine, tokens: Math.min(tokens, room), ...sampling, seed },
    stop: tokenizer.end === null ? [] : [tokenizer.end],
    onToken: (token) => {
      made.push(token);
      if (!v.json) show();
    },
  });
  const text = tokenizer.decode(answer);
  const seconds = (performance.now() - began) / 1000;
  if (v.json) return console.log(JSON.stringify({ prompt, text, tokens: answer.length, seconds }));
  process.stdout.write(`${text.slice(shown.length)}\n`);
  console.error(`${answer.length} tokens, ${(answer.length / seconds).toFixed(1)} a second`);
}
