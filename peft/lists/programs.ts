// What is no single attachment: recipes of several stages, compositions with packing, and functions of models that are trained already.

export interface Program {
  readonly name: string;
  readonly family: 'additive' | 'selective' | 'reparameterized' | 'hybrid';
  readonly paper: `arXiv:${string}` | `https://${string}`;
  /** Where it is written; the export has the program's name. */
  readonly file: string;
  readonly says: string;
}

export const programs: readonly Program[] = [
  {
    name: 'adapterSoup',
    family: 'additive',
    paper: 'arXiv:2302.07027',
    file: 'peft/additive/adapterSoup.ts',
    says: 'the weights of adapters trained on other domains averaged, for a text of a new one',
  },
  {
    name: 'loraHub',
    family: 'reparameterized',
    paper: 'arXiv:2307.13269',
    file: 'peft/loraHub.ts',
    says: 'trained LoRAs mixed by coefficients that a search without gradients finds on a few examples',
  },
  {
    name: 'qlora',
    family: 'reparameterized',
    paper: 'arXiv:2305.14314',
    file: 'peft/reparameterized/qlora.ts',
    says: 'the base packed in four bits, LoRA on all its linear layers',
  },
];
