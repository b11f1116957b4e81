// The tensors of an adapter file, each to be asked for once: what nobody asks for in the end is a mistake.
import { some, type TensorFile } from '../files.ts';
import type { Names } from '../names.ts';
import { isBefore } from './base.ts';
import type { Table } from './format.ts';

/** The file's tensors, each to be asked for; what nobody asks for is an error in the end. */
export class Tensors {
  readonly file: string;
  private readonly tables: ReadonlyMap<string, Table>;
  private readonly asked = new Set<string>();
  private readonly leftovers: RegExp | undefined;
  private constructor(file: string, tables: ReadonlyMap<string, Table>, leftovers: RegExp | undefined) {
    this.file = file;
    this.tables = tables;
    this.leftovers = leftovers;
  }
  private isUseless(key: string): boolean {
    return isBefore(key) || this.leftovers?.test(key) === true;
  }
  /** All of them, read now: adapters are small. Keys without the usual prefix, as other writers have them, get it. */
  static async of(file: TensorFile, names: Names, leftovers?: RegExp): Promise<Tensors> {
    const modules = names.places.map((p) => p.module);
    const tables = new Map<string, Table>();
    for (const e of file.entries.values()) {
      const bare = modules.some((m) => e.name.startsWith(`${m}.`));
      tables.set(bare ? `base_model.model.${e.name}` : e.name, { data: await file.read(e.name), shape: e.shape });
    }
    return new Tensors(file.path, tables, leftovers);
  }
  has(key: string): boolean {
    return this.tables.has(key);
  }
  get(key: string): Table {
    const t = this.tables.get(key);
    if (t === undefined) throw new Error(`${this.file}: has no tensor ${key}; it has ${some([...this.tables.keys()])}`);
    this.asked.add(key);
    return t;
  }
  /** How many numbers there are in all. */
  numbers(): number {
    return [...this.tables.values()].reduce((n, t) => n + t.data.length, 0);
  }
  /** Tensors that nothing is made of. */
  useless(): ReadonlyMap<string, Table> {
    return new Map([...this.tables].filter(([k]) => this.isUseless(k)));
  }
  finish(): void {
    const left = [...this.tables.keys()].filter((k) => !this.asked.has(k) && !this.isUseless(k));
    if (left.length > 0)
      throw new Error(
        `${this.file}: has ${some(left)}, which the configuration gives no place for. Is it the adapter of another network, or of one with another head?`,
      );
  }
}
