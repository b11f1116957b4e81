// What is known of the methods beyond their declarations: when one would choose them, and what was measured where, with sources.
import { additive } from './notes/additive.ts';
import { hybrid } from './notes/hybrid.ts';
import { loras } from './notes/loras.ts';
import type { Notes } from './notes/note.ts';
import { programNotes } from './notes/programs.ts';
import { prompts } from './notes/prompts.ts';
import { reparameterized } from './notes/reparameterized.ts';
import { selective } from './notes/selective.ts';

export const notes: Notes = { ...prompts, ...additive, ...selective, ...loras, ...reparameterized, ...hybrid };

/** What a page says where no result could be read. */
const UNREAD = 'No figure for it could be read in a paper or a repository when this page was written, so none is given.';

/** What papers or repositories report of a method or program, as lines of Markdown. */
export function reported(name: string): string[] {
  const found = (notes[name] ?? programNotes[name])?.reports ?? [];
  return found.length === 0 ? [UNREAD] : found.map((r) => `* ${r}`);
}
