// Tables as text: a header, then a record a line, read by csv-parse. It stops at the first record that is none; here each is named by the line it begins
// in, and reading goes on with the next line, for a fault may be a quote too many, which swallows what follows.
import { CsvError, parse } from 'csv-parse/sync';

export interface TableRow {
  /** Of the record's first character, from 1. */
  readonly line: number;
  /** By the header's names; null where the record is none. */
  readonly record: Readonly<Record<string, string>> | null;
  /** Why it is none. */
  readonly wrong: string;
}
const ENDS = ['\r\n', '\n', '\r'];
const [RETURN, FEED] = [13, 10];

/** The rows of a table, empty lines left out. A faulty header is a row, and then the only one. */
export function tableRows(content: string, delimiter: ',' | '\t'): readonly TableRow[] {
  const bytes = Buffer.from(content.startsWith('\ufeff') ? content.slice(1) : content);
  const rows: TableRow[] = [];
  let [at, line] = [0, 1]; // where reading is
  let header: readonly string[] | null = null;
  const pass = (to: number): void => {
    while (at < to) {
      if (bytes[at] === FEED || (bytes[at] === RETURN && bytes[at + 1] !== FEED)) line++;
      at++;
    }
  };
  const passEmptyLines = (): void => {
    while (bytes[at] === FEED || bytes[at] === RETURN) pass(at + 1);
  };
  const add = (record: readonly string[] | null, fault: string): void => {
    const wrong = record === null ? fault : faultOf(record, header);
    if (header === null && wrong === '') header = record;
    else rows.push({ line, record: wrong === '' ? named(header!, record!) : null, wrong });
  };
  for (passEmptyLines(); at < bytes.length && (header !== null || rows.length === 0); passEmptyLines()) {
    const from = at;
    const taken = (record: string[], { bytes: read }: { readonly bytes: number }): null => {
      passEmptyLines();
      if (header !== null || rows.length === 0) add(record, '');
      pass(Math.min(bytes.length, from + read));
      return null;
    };
    try {
      const how = { delimiter, record_delimiter: ENDS, relax_column_count: true, skip_empty_lines: true, on_record: taken };
      parse(bytes.subarray(from), how);
      break;
    } catch (e) {
      if (!(e instanceof CsvError)) throw e;
      passEmptyLines();
      const ended = bytes.subarray(at).findIndex((b) => b === FEED || b === RETURN);
      const text = bytes.toString('utf8', at, ended < 0 ? bytes.length : at + ended);
      add(null, `${FAULTS[e.code] ?? e.message} in ${JSON.stringify(text.length > 60 ? `${text.slice(0, 60)}…` : text)}`);
      pass(ended < 0 ? bytes.length : at + ended);
    }
  }
  return rows;
}
const FAULTS: Readonly<Record<string, string>> = {
  CSV_QUOTE_NOT_CLOSED: 'a quote is never closed',
  CSV_INVALID_CLOSING_QUOTE: 'a quoted field goes on behind the quote that closes it (a quote inside is written twice)',
  INVALID_OPENING_QUOTE: 'a quote stands inside a field that begins without one (put the whole field in quotes)',
};

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
