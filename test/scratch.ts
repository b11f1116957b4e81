// Where tests write what they throw away: flushing files to a disk would be most of their time, and memory has none to wait for.
import { existsSync } from 'node:fs';
import { tmpdir } from 'node:os';

export const SCRATCH = existsSync('/dev/shm') ? '/dev/shm' : tmpdir();
