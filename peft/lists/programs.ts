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
    name: 'mera',
    family: 'additive',
    paper: 'arXiv:2308.15982',
    file: 'peft/additive/mera.ts',
    says: 'trained adapters as one: units brought into one order by optimal transport, then averaged',
  },
  {
    name: 'ipa',
    family: 'additive',
    paper: 'arXiv:2305.15065',
    file: 'peft/additive/ipa.ts',
    says: 'the logits of a small language model added to those of a large one that is not touched',
  },
  {
    name: 'infoPrompt',
    family: 'additive',
    paper: 'arXiv:2306.04933',
    file: 'peft/additive/infoPrompt.ts',
    says: 'a classifier of texts with a prompt for each, and losses that keep information between prompt, head and what is read',
  },
  {
    name: 'hyperTuning',
    family: 'additive',
    paper: 'arXiv:2211.12485',
    file: 'peft/additive/hyperTuning.ts',
    says: 'a model that reads examples of a task and writes the parameters of a method on another, frozen model',
  },
  {
    name: 'loraHub',
    family: 'reparameterized',
    paper: 'arXiv:2307.13269',
    file: 'peft/reparameterized/loraHub.ts',
    says: 'trained LoRAs mixed by coefficients that a search without gradients finds on a few examples',
  },
  {
    name: 'laplaceLora',
    family: 'reparameterized',
    paper: 'arXiv:2308.13111',
    file: 'peft/reparameterized/laplaceLora.ts',
    says: 'a Kronecker-factored Laplace posterior over a trained LoRA: evidence, prior, predictions with their uncertainty',
  },
  {
    name: 'qlora',
    family: 'reparameterized',
    paper: 'arXiv:2305.14314',
    file: 'peft/reparameterized/qlora.ts',
    says: 'the base packed in four bits, LoRA on all its linear layers',
  },
];
