// Notes on methods that train some of the weights.
import { abstract, claim, DEBERTA, gsm, type Notes } from './note.ts';

export const selective: Notes = {
  bitfit: {
    use: 'Networks with biases: a tenth of a percent of all numbers, and nothing added.',
    reports: [
      'RoBERTa-base, mean over GLUE dev: 85.2 with 0.1 M, LoRA 87.2 with 0.3 M, full fine-tuning 86.4 (LoRA paper)',
      `${DEBERTA}: 86.20 with 0.10 M`,
    ],
  },
  beft: {
    use: 'The smallest change that also fits networks without biases: one vector for the values of each layer. It merges.',
    reports: [gsm(32.1, '0.03 M', ', on the values')],
  },
  supertuning: {
    use: 'A sparse change whose mask needs no data and is the same for all tasks; switching tasks overwrites a percent of each weight. Each number is stored with its place.',
  },
  sparseMask: {
    use: 'Masks that need no data: the smallest weights (PaFi), the largest, or random ones. The smallest give one mask for all tasks.',
    reports: [claim('GLUE: a mask by magnitude alone, the same for all tasks, is well ahead of other sparse methods')],
    count: 'max(1, ρN to the nearest whole number) for each weight of N entries',
  },
  diffPruning: {
    use: 'A very sparse change that is found together with its values. Training takes two to three times the memory of full fine-tuning.',
    reports: [
      'BERT-large, GLUE test, structured, half a percent (full fine-tuning in brackets): QNLI 93.3 (93.4), SST-2 94.1 (94.1), MNLI 86.4 (86.7), CoLA 61.1 (59.6), MRPC 89.7 (88.9), STS-B 86.0 (86.6) (the paper)',
    ],
    count: 'two numbers for each entry, and one for each group; stored: the change',
  },
  shira: {
    use: 'As many trained numbers as LoRA, but scattered: adapters are switched by overwriting so many weights.',
    reports: [gsm(51.0, '9.2 M')],
  },
  fishMask: {
    use: 'The mask is chosen once by Fisher information, from gradients of single examples.',
    reports: [claim('As good as other sparse updates or better, with less memory and communication')],
  },
  sam: {
    use: 'The mask is chosen once, by the square of the gradient summed over data.',
  },
  snip: {
    use: 'The mask is chosen once, by |θ·gradient|: a baseline.',
  },
  ltSft: {
    use: 'Sparse changes of a language and of a task are added to each other. It costs one full fine-tuning to find the mask.',
    reports: [
      claim('Transfer between languages (Universal Dependencies, MasakhaNER, AmericasNLI): better than adapters by a large margin'),
    ],
  },
  childTuning: {
    use: 'A regulariser: all weights change in the end, so it stores no less than full fine-tuning.',
    reports: [
      'GLUE, four networks: 1.5 to 8.6 points on average above full fine-tuning, 0.6 to 1.3 above earlier techniques (the paper’s abstract, which does not tell the two forms apart)',
    ],
  },
  childTuningD: {
    use: 'Only the weights with the largest Fisher information move; the mask is chosen before training.',
    reports: [
      'GLUE, four networks: 1.5 to 8.6 points on average above full fine-tuning, 0.6 to 1.3 above earlier techniques (the paper’s abstract, which does not tell the two forms apart)',
    ],
  },
  lastLayers: {
    use: 'Backward ends at the first block that is trained.',
    reports: ['GPT-2 medium, E2E BLEU, the top two layers: 68.1; full fine-tuning 68.2 (LoRA paper)'],
  },
  attentionOnly: {
    use: 'Attention alone is trained; the paper does so with cross-attention, and with embeddings where a language is new.',
    reports: [claim('Translation from or to another language: cross-attention alone is nearly as good as all parameters')],
  },
  headOnly: {
    use: 'The baseline that shows how far the frozen features go. Ahead of it is what tuning is for.',
    reports: [
      'BERT-large, GLUE test, last layer only: QNLI 79.8, SST-2 91.6, MNLI 71.4, CoLA 40.2, MRPC 80.1, STS-B 67.3 (diff pruning’s paper)',
    ],
  },
  far: {
    use: 'Training on a device: only the feed-forward units that the task moves most learn.',
    reports: [abstract('DistilBERT on CoLA: 30 % less time, and 47 % less for memory operations; GLUE and SQuAD lose about 1 %')],
  },
  trainableTokens: {
    use: 'New tokens, or a few that mean something else in a task: their rows alone are trained and stored. Nothing else learns, so it is mostly put beside another method.',
    reports: [gsm(24.6, '6 thousand')],
  },
  spt: {
    use: 'A budget shared out by sensitivity: where many entries of a matrix matter it gets a LoRA, elsewhere single entries.',
    reports: [abstract('ViT-B/16: 4.2 points above adapters on FGVC and 1.4 on VTAB-1k')],
  },
  fishDip: {
    use: 'As `fishMask`, where what matters changes while training goes on. Choosing again costs gradients of single examples every τ steps, and in the end more entries may have moved than the mask holds.',
    reports: [abstract('Five tasks of sequence labelling with few examples: up to 40 % better than full fine-tuning')],
  },
  uBitfit: {
    use: 'BitFit with still fewer numbers. It costs one training of all biases to find the entries that matter, and stores their places.',
    reports: [claim('GLUE: the search for what to tune is effective')],
  },
  sBitfit: {
    use: 'As `uBitfit`, but whole biases stay or go, so that no places are stored. It costs one training of all biases first.',
    reports: [claim('GLUE: the search for what to tune is effective')],
  },
};
