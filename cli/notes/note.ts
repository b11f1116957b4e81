// What a note on a method holds, and the sentences that several notes share.

export interface Note {
  /** When to choose it over its neighbours, and what that costs: from what it does, what the paper is for, or a measurement. */
  readonly use: string;
  /** Figures and findings, each with where it was read in brackets; none where none could be read. */
  readonly reports?: readonly string[];
  /** Scalars trained, where the method's file does not say it in words. */
  readonly count?: string;
}
export type Notes = Readonly<Record<string, Note>>;

/** One line of Hugging Face PEFT's own benchmark. */
export const gsm = (percent: number, trained: string, how = ''): string =>
  `GSM8K after tuning Llama-3.2-3B on MetaMathQA: ${percent} % with ${trained} trained${how} (LoRA of rank 32: 47.8 %, full fine-tuning: 47.2 %; Hugging Face PEFT's benchmark, one seed, mostly default settings: a few points are noise)`;
export const E2E = 'GPT-2 medium, E2E and DART, BLEU (full fine-tuning 68.2 and 46.0; figures of the LoRA paper and repository)';
export const DEBERTA = 'DeBERTa-v3-base, mean over GLUE dev (full fine-tuning 88.25; as a later paper reprints it)';
export const LLM = 'LLaMA-7B, mean of four arithmetic sets and of eight commonsense sets (LLM-Adapters’ repository)';
export const PAIR = 'r(in + out) at each layer';
/** A figure that stands in a paper's abstract. */
export const abstract = (finding: string): string => `${finding} (the paper’s abstract)`;
/** A finding that an abstract states without a figure. */
export const claim = (finding: string): string => `${finding} (the paper’s abstract, which gives no figure)`;

/** Tests that judge a program: those of a file whose full names (group and title) begin with a word; all of the file without one. */
export interface Judge {
  readonly file: `test/${string}.test.ts`;
  readonly tests?: string;
}
export interface ProgramNote extends Note {
  /** Whether and where what comes out folds into plain weights. */
  readonly merging: string;
  /** Which laws of methods cannot be asked of it, why, and what keeps them instead. */
  readonly laws: string;
  readonly judges: readonly Judge[];
}
