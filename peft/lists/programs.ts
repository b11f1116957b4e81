// What is no single attachment: recipes of several stages, compositions with packing, and functions of models that are trained already.

export interface Program {
  readonly name: string;
  /** `memory`: ways to train any method in less of it. */
  readonly family: 'additive' | 'selective' | 'reparameterized' | 'hybrid' | 'memory';
  readonly paper: `arXiv:${string}` | `https://${string}`;
  /** Where it is written; the export has the program's name. */
  readonly file: string;
  readonly says: string;
  /** What it works on. */
  readonly place: string;
  /** What is trained, as a formula or in words. */
  readonly count: string;
  readonly mergeable: boolean;
  /** Whether the network computes the same before training, where there is a training. */
  readonly startsAsBase: 'bitwise' | 'close' | 'no';
}

export const programs: readonly Program[] = [
  {
    name: 'adapterSoup',
    family: 'additive',
    paper: 'arXiv:2302.07027',
    file: 'peft/additive/adapterSoup.ts',
    says: 'the weights of adapters trained on other domains averaged, for a text of a new one',
    place: 'the adapters of several models',
    count: 'none: a mean of what is trained already',
    mergeable: false,
    startsAsBase: 'no',
  },
  {
    name: 'mera',
    family: 'additive',
    paper: 'arXiv:2308.15982',
    file: 'peft/additive/mera.ts',
    says: 'trained adapters as one: units brought into one order by optimal transport, then averaged',
    place: 'the bottleneck adapters of several models',
    count: 'none: a mean of what is trained already',
    mergeable: false,
    startsAsBase: 'no',
  },
  {
    name: 'ipa',
    family: 'additive',
    paper: 'arXiv:2305.15065',
    file: 'peft/additive/ipa.ts',
    says: 'the logits of a small language model added to those of a large one that is not touched',
    place: 'the logits of two language models',
    count: 'all of the small model, or what is trained on it',
    mergeable: false,
    startsAsBase: 'no',
  },
  {
    name: 'infoPrompt',
    family: 'additive',
    paper: 'arXiv:2306.04933',
    file: 'peft/additive/infoPrompt.ts',
    says: 'a classifier of texts with a prompt for each, and losses that keep information between prompt, head and what is read',
    place: 'a classifier of texts',
    count: '3(dn + n) + (n + 1)pd + d² + d + nd + d + Cd',
    mergeable: false,
    startsAsBase: 'no',
  },
  {
    name: 'hyperTuning',
    family: 'additive',
    paper: 'arXiv:2211.12485',
    file: 'peft/additive/hyperTuning.ts',
    says: 'a model that reads examples of a task and writes the parameters of a method on another, frozen model',
    place: 'whatever is trained in another model',
    count: 'the reader, a query for each block, and hd + h + hn + n for each kind of tensor of n numbers',
    mergeable: true,
    startsAsBase: 'bitwise',
  },
  {
    name: 'loraHub',
    family: 'reparameterized',
    paper: 'arXiv:2307.13269',
    file: 'peft/reparameterized/loraHub.ts',
    says: 'trained LoRAs mixed by coefficients that a search without gradients finds on a few examples',
    place: 'the LoRAs of several models',
    count: 'a coefficient for each, found without gradients',
    mergeable: true,
    startsAsBase: 'bitwise',
  },
  {
    name: 'laplaceLora',
    family: 'reparameterized',
    paper: 'arXiv:2308.13111',
    file: 'peft/reparameterized/laplaceLora.ts',
    says: 'a Kronecker-factored Laplace posterior over a trained LoRA: evidence, prior, predictions with their uncertainty',
    place: 'a trained LoRA',
    count: 'none: a posterior over what is trained already',
    mergeable: false,
    startsAsBase: 'no',
  },
  {
    name: 'qlora',
    family: 'reparameterized',
    paper: 'arXiv:2305.14314',
    file: 'peft/reparameterized/qlora.ts',
    says: 'the base packed in four bits, LoRA on all its linear layers',
    place: 'linear layers',
    count: 'r(in + out) at each layer',
    mergeable: true,
    startsAsBase: 'no',
  },
  {
    name: 'promptEnsemble',
    family: 'additive',
    paper: 'arXiv:2104.08691',
    file: 'peft/additive/promptEnsemble.ts',
    says: 'several prompts of one task vote on each example, all in one batch',
    place: 'the prompts of several models',
    count: 'none: votes of what is trained already',
    mergeable: false,
    startsAsBase: 'no',
  },
  {
    name: 'mezo',
    family: 'memory',
    paper: 'arXiv:2305.17333',
    file: 'optim/mezo.ts',
    says: 'any method trained with forward passes only: the gradient is estimated along one random direction',
    place: 'a training',
    count: 'what the method trains',
    mergeable: true,
    startsAsBase: 'bitwise',
  },
  {
    name: 'checkpoint',
    family: 'memory',
    paper: 'arXiv:1604.06174',
    file: 'core/grad.ts',
    says: 'what is computed inside a block is not kept for backward, and computed again there',
    place: 'blocks',
    count: 'what the method trains',
    mergeable: true,
    startsAsBase: 'bitwise',
  },
];
