// A file that is not what it says: which file, at which byte, and why.

export class OffsetError extends Error {
  readonly file: string;
  readonly offset: number;
  constructor(file: string, offset: number, reason: string) {
    super(`${file}, byte ${offset}: ${reason}`);
    this.file = file;
    this.offset = offset;
  }
}
