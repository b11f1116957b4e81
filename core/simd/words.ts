// The words of an instruction, before their addresses are known.

/** A word: a whole number, a float by its bits, or the address of an operand (−1: of the result). */
export type Word = number | { readonly float: number } | { readonly operand: number };
/** One or more instructions. */
export type Instructions = readonly (readonly Word[])[];

export const OUT: Word = { operand: -1 };
export const operand = (k: number): Word => ({ operand: k });
/** [opcode, length in words, …] */
export const instruction = (op: number, ...words: readonly Word[]): readonly Word[] => [op, words.length + 2, ...words];
