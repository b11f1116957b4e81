// Conversations as text, by the template that came with a model (Jinja, as Hugging Face's tokenizers have it).
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { isJsonObject } from './adapterJson.ts';
import { jinja } from './boundedJinja.ts';
import type { Message } from './records.ts';

/** The text of messages; with `answer`, up to where the assistant begins to speak. */
export type Chat = (messages: readonly Message[], answer?: boolean) => string;

/**
 * The template in a model's folder: `chat_template.jinja`, or `chat_template` in tokenizer_config.json. Null where there is none. Throws where
 * it cannot be parsed; the function throws where it refuses a conversation (two user messages in a row, say), with its own words, or has no end.
 */
export async function readChat(folder: string): Promise<Chat | null> {
  const settings = await json(join(folder, 'tokenizer_config.json'));
  const path = join(folder, 'chat_template.jinja');
  const source = (await readFile(path, 'utf8').catch(() => null)) ?? templateOf(settings.chat_template);
  if (source === null) return null;
  const special = Object.fromEntries(
    ['bos_token', 'eos_token', 'pad_token', 'unk_token'].flatMap((name) => {
      const token = settings[name];
      const content = isJsonObject(token) ? token.content : token;
      return typeof content === 'string' ? [[name, content]] : [];
    }),
  );
  return chatOf(source, special, path);
}

/** A template as a function; `special` are the tokens it may name. */
export function chatOf(source: string, special: Readonly<Record<string, string>>, from: string): Chat {
  const template = parsed(source, from);
  return (messages, answer = false) => {
    try {
      return template({ ...special, messages: messages.map((m) => ({ ...m })), add_generation_prompt: answer });
    } catch (e) {
      throw new Error(`${from}: the template refuses this conversation (${(e as Error).message})`, { cause: e });
    }
  };
}
function parsed(source: string, from: string): ReturnType<typeof jinja> {
  try {
    return jinja(source);
  } catch (e) {
    throw new Error(`${from}: the chat template cannot be parsed (${(e as Error).message})`, { cause: e });
  }
}

/** One template, or of several the one named default. */
function templateOf(t: unknown): string | null {
  if (typeof t === 'string') return t;
  if (!Array.isArray(t)) return null;
  const named = t.find((one: unknown) => isJsonObject(one) && one.name === 'default');
  return isJsonObject(named) && typeof named.template === 'string' ? named.template : null;
}
async function json(path: string): Promise<{ readonly [key: string]: unknown }> {
  const text = await readFile(path, 'utf8').catch(() => '{}');
  try {
    const value: unknown = JSON.parse(text);
    return isJsonObject(value) ? value : {};
  } catch (cause) {
    throw new Error(`${path}: is not JSON`, { cause });
  }
}
