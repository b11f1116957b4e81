// Training texts from a file: JSON lines, CSV, TSV or plain text, every record of one kind, errors by line.
import { readFile } from 'node:fs/promises';
import { extname } from 'node:path';
import { tableRows } from './csv.ts';

export interface Message {
  readonly role: string;
  readonly content: string;
}
/** What a record is: prose; a prompt with the answer that is learnt; a conversation; a text with a class. */
export type TextRecord =
  | { readonly kind: 'text'; readonly text: string }
  | { readonly kind: 'pair'; readonly prompt: string; readonly completion: string }
  | { readonly kind: 'chat'; readonly messages: readonly Message[] }
  | { readonly kind: 'label'; readonly text: string; readonly label: string };
export type RecordKind = TextRecord['kind'];

const FORMS: Readonly<Record<RecordKind, string>> = {
  text: '{"text": …}',
  pair: '{"prompt": …, "completion": …}',
  chat: '{"messages": [{"role": "user", "content": …}, …]}',
  label: '{"text": …, "label": …}',
};
const ROLES = ['system', 'user', 'assistant', 'tool'];

/**
 * The records of a file, by its ending: `.jsonl`, `.ndjson` (an object a line), `.csv`, `.tsv` (a header names the columns; as JSON lines have
 * them) or `.txt`, `.md` (one record of prose). Throws with every bad line (of many, the first ten), and where kinds are mixed.
 */
export async function readRecords(path: string): Promise<readonly TextRecord[]> {
  const bytes = await readFile(path).catch((e: NodeJS.ErrnoException) => {
    if (e.code === 'EISDIR') throw new Error(`${path}: is a folder; name a file of texts`);
    throw e.code === 'ENOENT' ? new Error(`${path}: no such file`) : e;
  });
  return parseRecords(textOf(bytes, path), path);
}

/** Bytes as UTF-8, without the mark that some editors put in front. Throws with the first byte that begins no character. */
function textOf(bytes: Uint8Array, path: string): string {
  const text = new TextDecoder().decode(bytes);
  const again = new TextEncoder().encode(bytes[0] === 0xef && bytes[1] === 0xbb && bytes[2] === 0xbf ? `\ufeff${text}` : text);
  let at = bytes.findIndex((b, k) => b !== again[k]);
  if (at < 0) return text;
  while ((again[at]! & 0xc0) === 0x80) at--; // in what stands for a byte that is none: its first
  const utf16 = (bytes[0] === 0xff && bytes[1] === 0xfe) || (bytes[0] === 0xfe && bytes[1] === 0xff);
  throw new Error(
    `${path}: is not UTF-8: byte ${at} (0x${bytes[at]!.toString(16).padStart(2, '0')}) begins no character${utf16 ? '; it looks like UTF-16' : ''}. Save the file as UTF-8, or convert it: iconv -f ${utf16 ? 'UTF-16' : 'WINDOWS-1252'} -t UTF-8`,
  );
}

export function parseRecords(content: string, path: string): readonly TextRecord[] {
  const ending = extname(path).toLowerCase();
  switch (ending) {
    case '.jsonl':
    case '.ndjson':
      return checked(path, jsonLines(content));
    case '.csv':
    case '.tsv':
      return checked(path, tableOf(content, ending === '.csv' ? ',' : '\t'));
    case '.txt':
    case '.md': {
      if (content.trim() === '') throw new Error(`${path}: is empty`);
      return [{ kind: 'text', text: content }];
    }
    default:
      throw new Error(`${path}: is ${ending === '' ? 'without an ending' : ending}; data are read from .jsonl, .csv, .tsv, .txt or .md`);
  }
}

type Row = { readonly line: number; readonly value: unknown; readonly wrong?: string };
function jsonLines(content: string): Row[] {
  return content.split('\n').flatMap((text, k) => {
    if (text.trim() === '') return [];
    try {
      return [{ line: k + 1, value: JSON.parse(text) as unknown }];
    } catch {
      return [{ line: k + 1, value: undefined, wrong: 'is not JSON' }];
    }
  });
}
const tableOf = (content: string, delimiter: ',' | '\t'): Row[] =>
  tableRows(content, delimiter).map(({ line, record, wrong }) => ({ line, value: record, ...(record === null ? { wrong } : {}) }));

function checked(path: string, rows: readonly Row[]): readonly TextRecord[] {
  const wrong: string[] = [];
  const found: TextRecord[] = [];
  for (const { line, value, wrong: fault } of rows) {
    const record = fault ?? recordOf(value);
    if (typeof record === 'string') wrong.push(`line ${line}: ${record}`);
    else if (found.length > 0 && found[0]!.kind !== record.kind)
      wrong.push(`line ${line}: is ${FORMS[record.kind]}, earlier lines are ${FORMS[found[0]!.kind]}; a file holds one kind`);
    else found.push(record);
  }
  if (rows.length === 0) wrong.push('there is no record in it');
  if (wrong.length > 0)
    throw new Error(
      `${path}: ${wrong.length === 1 ? 'one line is' : `${wrong.length} lines are`} no record\n  ${wrong.slice(0, 10).join('\n  ')}${wrong.length > 10 ? `\n  … and ${wrong.length - 10} more` : ''}\nA record is one of ${Object.values(FORMS).join('   ')}`,
    );
  return found;
}

/** The record in a value, or what is wrong with it. Fields that no kind has are ignored. */
function recordOf(value: unknown): TextRecord | string {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return 'is not an object';
  const { text, label, prompt, completion, messages } = value as { readonly [key: string]: unknown };
  if (messages !== undefined) return chatOf(messages);
  if (prompt !== undefined || completion !== undefined) {
    if (!isText(prompt)) return 'has a completion but no prompt, or an empty one';
    if (!isText(completion)) return 'has a prompt but no completion, or an empty one';
    return { kind: 'pair', prompt, completion };
  }
  if (!isText(text)) return text === undefined ? 'has neither text nor prompt nor messages' : 'its text is empty or no text';
  if (label === undefined || label === null || label === '') return { kind: 'text', text };
  if (typeof label !== 'string' && !Number.isInteger(label))
    return `label is ${JSON.stringify(label)}; it must be a text or a whole number`;
  return { kind: 'label', text, label: String(label) };
}
const isText = (v: unknown): v is string => typeof v === 'string' && v.trim() !== '';

function chatOf(messages: unknown): TextRecord | string {
  if (!Array.isArray(messages) || messages.length === 0) return 'messages is no list, or empty';
  const all: Message[] = [];
  for (const [k, m] of messages.entries()) {
    const { role, content } = (typeof m === 'object' && m !== null ? m : {}) as { readonly role?: unknown; readonly content?: unknown };
    if (typeof role !== 'string' || !ROLES.includes(role)) return `message ${k}: role must be one of ${ROLES.join(', ')}`;
    if (typeof content !== 'string') return `message ${k}: content must be a text`;
    all.push({ role, content });
  }
  return all.some((m) => m.role === 'assistant')
    ? { kind: 'chat', messages: all }
    : 'no message is the assistant’s: there is nothing to learn';
}
