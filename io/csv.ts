// Tables as text, RFC 4180: a header, then a record a line; a field in quotes may hold delimiters, line breaks and doubled quotes.
// Every record that is none is named by the line it begins in, and reading goes on with the next line.

export interface TableRow {
  /** Of the record's first character, from 1. */
  readonly line: number;
  /** By the header's names; null where the record is none. */
  readonly record: Readonly<Record<string, string>> | null;
  /** Why it is none. */
  readonly wrong: string;
}

/** The rows of a table, empty lines left out. The header's own faults are a row of line 1 or where it stands, and then the only one. */
export function tableRows(content: string, delimiter: ',' | '\t'): readonly TableRow[] {
  const text = content.startsWith('\ufeff') ? content.slice(1) : content;
  const rows: TableRow[] = [];
  let [at, line] = [0, 1];
  let header: readonly string[] | null = null;
  while (at < text.length) {
    const found = recordAt(text, at, delimiter);
    // a fault may be a quote too many, which swallows what follows: only its first line is given up
    const next = found.wrong === null ? found.end : lineEnd(text, at);
    const empty =
      found.wrong === null && next === lineEnd(text, at) && found.fields.length === 1 && text[at] !== '"' && found.fields[0] === '';
    if (!empty) {
      const wrong: string = found.wrong ?? faultOf(found.fields, header);
      if (header !== null) rows.push({ line, record: wrong === '' ? named(header, found.fields) : null, wrong });
      else if (wrong !== '') return [{ line, record: null, wrong }];
      else header = found.fields;
    }
    line += breaks(text, at, next);
    at = next;
  }
  return rows;
}

type Found = { readonly fields: readonly string[]; readonly end: number; readonly wrong: string | null };

/** The record that begins at a character, and where the next one would. */
function recordAt(text: string, from: number, delimiter: string): Found {
  const fields: string[] = [];
  const wrong = (what: string): Found => ({ fields, end: from, wrong: what });
  for (let at = from; ; at++) {
    let end = at;
    if (text[at] === '"') {
      for (end = at + 1; text[end] !== '"' || text[end + 1] === '"'; end += text[end] === '"' ? 2 : 1)
        if (end >= text.length) return wrong(`the quote before ${shown(text, at + 1)} is never closed`);
      fields.push(text.slice(at + 1, end).replaceAll('""', '"'));
      end++;
      if (end < text.length && text[end] !== delimiter && text[end] !== '\n' && text[end] !== '\r')
        return wrong(
          `after the quote that closes the field ${shown(text, at + 1)} comes ${shown(text, end)}, not the end of the field; a quote inside a quoted field is written twice`,
        );
    } else {
      while (end < text.length && text[end] !== delimiter && text[end] !== '\n' && text[end] !== '\r') {
        if (text[end] === '"')
          return wrong(`a quote stands inside the field ${shown(text, at)}, which begins without one; put the whole field in quotes`);
        end++;
      }
      fields.push(text.slice(at, end));
    }
    if (text[end] !== delimiter || end >= text.length) return { fields, end: lineEnd(text, end), wrong: null };
    at = end;
  }
}
/** Behind the next line break. */
function lineEnd(text: string, at: number): number {
  let end = at;
  while (end < text.length && text[end] !== '\n' && text[end] !== '\r') end++;
  return Math.min(text.length, end + (text.startsWith('\r\n', end) ? 2 : 1));
}
const breaks = (text: string, from: number, to: number): number => text.slice(from, to).match(/\r\n|\n|\r/g)?.length ?? 0;
/** The first characters of a field, as JSON has them. */
const shown = (text: string, at: number): string => JSON.stringify(text.slice(at, at + 12).split(/[\r\n]/)[0]);

function faultOf(fields: readonly string[], header: readonly string[] | null): string {
  if (header !== null)
    return fields.length === header.length
      ? ''
      : `has ${fields.length} ${fields.length === 1 ? 'field' : 'fields'}, the header has ${header.length} (${header.join(', ')})`;
  const twice = fields.find((name, k) => fields.indexOf(name) < k);
  return twice === undefined ? '' : `the header names ${JSON.stringify(twice)} twice`;
}
const named = (header: readonly string[], fields: readonly string[]): Readonly<Record<string, string>> =>
  Object.fromEntries(header.map((name, k) => [name, fields[k]!]));
