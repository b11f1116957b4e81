// Notes on what is no single attachment: besides use and reports, what becomes of merging, which laws of methods fail to apply, what judges instead.
import { abstract, claim, type ProgramNote } from './note.ts';

export const programNotes: Readonly<Record<string, ProgramNote>> = {
  adapterSoup: {
    use: 'Adapters of several domains are there, and texts of a new one come without a training of their own: the mean costs what one adapter does. `similarDomains` and `clusteredDomains` choose which ones; all need the same base, method and sizes. In one run on a small encoder here the soup ended between the base and the best single adapter (losses 2.116, 2.130 and 2.100; decision 270).',
    reports: [
      claim(
        'New domains: better throughout without further training, most where clusters of texts choose the adapters; a mean of adapters of one domain is good there and keeps what the model knows of others',
      ),
    ],
    merging:
      'As the method that is averaged: bottleneck adapters stay attached, and so does their mean; a mean of LoRAs is a LoRA and folds into the weights.',
    laws: 'It is given trained models and attaches nothing, so that a fresh start (I1) cannot be asked about. What it answers is the first model with other numbers in its method’s tensors, and is put through the other laws of that method.',
    judges: [
      { file: 'test/laws/programs.test.ts', tests: 'adapterSoup' },
      { file: 'test/peft/adapterSoup.test.ts' },
      { file: 'test/peft/searches.long.test.ts', tests: 'AdapterSoup' },
    ],
  },
  mera: {
    use: 'Adapters of related tasks are there, and a task with few examples shall start from all of them, without AdapterFusion’s attention over them: merged, they cost what one does. Units are matched first, which a plain mean (`adapterSoup`) does not do. Only for adapters with a bottleneck.',
    reports: [
      abstract(
        'Few examples, two models: better than single adapters and than AdapterFusion; adapters of one track of tasks, merged, beat full fine-tuning and adapter tuning, by 3.5 % on MRPC and 5.0 % on MNLI for example',
      ),
    ],
    merging: 'It merges adapters with each other, not into the weights: what comes out is an adapter of the same kind, and stays attached.',
    laws: 'As AdapterSoup, which it ends with: it is given trained models and attaches nothing, so that a fresh start (I1) cannot be asked about. The adapter that comes out is put through the other laws of its method.',
    judges: [
      { file: 'test/laws/programs.test.ts', tests: 'mera' },
      { file: 'test/peft/sideNetworks.test.ts', tests: 'mera' },
    ],
  },
  ipa: {
    use: 'A large model is only to be read, not changed: a small one of the same vocabulary learns what to add to its logits. Both run for every token. The authors train with rewards (Quark), which are not here; any loss trains the policy.',
    reports: [
      claim(
        'Five tasks of generation, less toxicity and given words among them, trained with reinforcement learning: GPT-2 with it can be better than GPT-3, and GPT-3 with it better than GPT-3 and sometimes than GPT-4',
      ),
    ],
    merging: 'The two models stay two. A method on the policy folds into the policy’s weights.',
    laws: 'It puts two whole models under a new one and attaches nothing in either, so that starting as the base, merging into it, coming off and a file of its own (I1, I4 to I8, I11) mean nothing. A method on the policy keeps all laws there. That backward never enters the base, which is what I2 asks, is tested; a training (I12) is not.',
    judges: [{ file: 'test/peft/sideNetworks.test.ts', tests: 'ipa' }],
  },
  infoPrompt: {
    use: 'Classes from few examples, where a plain prompt learns too little or depends on how it starts. Every text takes two passes (the prompt is made from the first one), and training has three losses besides the task’s.',
    reports: [claim('Converges much faster than prompt tuning, with better results than earlier forms of it')],
    merging: 'Prompt and classes are computed from each text, so nothing of it is a weight of the network, and it stays.',
    laws: 'It makes a classifier out of a network’s backbone, with a head and three losses of its own, and needs an engine to begin. Its answers have another shape than the base’s, so that starting as the base (I1), detaching to it (I8) and merging (I4, I5) cannot be asked; saving and mixed batches (I7, I11) work on attachments, which it has none of. That all that is trained is its own and gets a gradient (I2, I3) is tested with its losses; a training (I12) is not.',
    judges: [{ file: 'test/peft/infoPrompt.test.ts' }],
  },
  hyperTuning: {
    use: 'Many tasks with few examples each: one pass of the reader writes a task’s parameters, which may also be the start of a training. The reader has to be trained on many tasks before, and that is the large cost.',
    reports: [
      claim(
        'T5 on P3, MetaICL and Super-NaturalInstructions: what it writes for tasks that it has not seen works, and is a better start for prefixes and LoRA than the usual one',
      ),
    ],
    merging: 'What is written are parameters of the method, which merges as it does by itself: LoRA into the weights, a prefix not.',
    laws: 'Its tensors belong to the reader and are a tree for a trainer, attached nowhere; the downstream model has another method on it, which is in the list and keeps the laws itself. Start (I1) and gradients of all that is trained (I3) are tested here, a training is not; to merge, save, detach and mix (I4 to I8, I11) are asked of the written method.',
    judges: [{ file: 'test/peft/sideNetworks.test.ts', tests: 'hyperTuning' }],
  },
  loraHub: {
    use: 'Many LoRAs of other tasks and a handful of examples of a new one: a coefficient for each LoRA, found by trying, without gradients. The LoRAs must have the same places, ranks and scale, and each of the 40 steps is an evaluation of the examples.',
    reports: [
      claim(
        'Big-Bench Hard: not better than examples in the context, but with far fewer tokens for each question; with the best choice of examples, a higher upper bound',
      ),
    ],
    merging: 'The mixture is one LoRA, and folds into the weights.',
    laws: 'It searches among trained LoRAs, without gradients, and ends wherever the examples lead, so that a fresh start (I1) cannot be asked about. The LoRA that comes out is put through the other laws.',
    judges: [
      { file: 'test/laws/programs.test.ts', tests: 'loraHub' },
      { file: 'test/peft/arithmetic.test.ts', tests: 'loraHub' },
    ],
  },
  laplaceLora: {
    use: 'A LoRA has been trained on little data, and its probabilities are to be trusted: a posterior over its factors, without training again. It costs a backward pass for each class and batch, and a prediction one for each row and class. For classes of whole texts.',
    reports: [claim('Fine-tuned large language models: calibrated considerably better than LoRA')],
    merging:
      'A posterior is many networks and folds into none. The LoRA that it is about merges as before, and then has no uncertainty any more.',
    laws: 'It is a posterior, not a model: it has evidence and predictions where a method has a forward pass, and it leaves the trained LoRA as it is. No law of methods asks about that; the LoRA under it keeps them all. It is held against whole precision matrices instead.',
    judges: [{ file: 'test/peft/surveySearch.test.ts', tests: 'laplaceLora' }],
  },
  qlora: {
    use: 'The base is too large for memory as it is: its matrices take about four bits a number, and LoRA stands beside every linear layer. Packing loses a little, and unpacking in every step takes time. `qloraRecipe` adds the paper’s optimizer in pages; what was measured here stands in docs/qlora.md.',
    reports: [
      abstract(
        '65 billion weights fine-tuned on one GPU of 48 GB with the accuracy of 16-bit fine-tuning; Guanaco, trained so, reaches 99.3 % of ChatGPT on the Vicuna benchmark',
      ),
      'GSM8K, rank 64: LLaMA-3-8B 67.4, LoRA in sixteen bits 69.3, full fine-tuning 70.4; Phi-2 60.2, LoRA 64.8, full 66.8 (the repository of LoftQ’s authors)',
    ],
    merging: 'Into an unpacked copy of the network. Packing that again would lose part of what was learned.',
    laws: 'It packs the base before it attaches anything, and what packing took away does not come back: it starts elsewhere than the base, though LoRA does not (I1), and is not the base after detaching (I8, and the end of I12). It keeps the other laws, and on a base that is packed already LoRA keeps them all, as every method of the list does (test/laws/packed.long.test.ts).',
    judges: [
      { file: 'test/laws/programs.test.ts', tests: 'qlora' },
      { file: 'test/quant/nf4.test.ts', tests: 'models' },
      { file: 'test/peft/quantized.test.ts', tests: 'the recipe of QLoRA' },
    ],
  },
  promptEnsemble: {
    use: 'One task and several prompts for it, of other seeds say: an ensemble that stores prompts alone. The network runs once, over a batch that is N times as large.',
    reports: [claim('Soft prompts on a frozen model make ensembles efficient')],
    merging: 'Prompts are no weights of the network, and all of them stay.',
    laws: 'It counts votes of models that are trained already. A vote has no gradient, so that I2, I3, I10 and I12 have nothing to ask about, and nothing fresh is attached, merged, saved or taken off (I1, I4 to I8): its members are prompts of methods in the list, which keep those. I11, that each row is what its own adapter computes, is what it rests on, and is tested for it with padding and segments.',
    judges: [{ file: 'test/peft/promptEnsemble.test.ts' }],
  },
  mezo: {
    use: 'Training may take no more memory than the forward pass: two passes a step, nothing kept for backward. The gradient is seen along one random direction a step, so that steps learn less than those of a gradient. Seeds and slopes are all of a training, and it can be taken again from them.',
    reports: [
      abstract('One A100 of 80 GB trains 30 billion weights; with backward passes it trains 2.7 billion'),
      'OPT-13B: within 1 % of fine-tuning with Adam on 7 of 11 tasks, with a twelfth of the memory (the authors’ repository)',
    ],
    merging: 'As the method that is trained: it changes how the numbers are found, not where they stand.',
    laws: 'It is a way to train, and brings no tensor: start, count, merging, files and detaching (I1, I4 to I8, I11) belong to the method that it trains, which keeps them whoever trains it. The law of a training (I12) is run with `trainer`, whose gradients MeZO replaces; its own tests hold the estimate against those gradients, the moved values against the equation, and see LoRA learn.',
    judges: [{ file: 'test/optim/mezo.test.ts', tests: 'mezo' }],
  },
  checkpoint: {
    use: 'What is kept from forward to backward does not fit into memory: each region keeps what enters it and nothing else, and is computed twice. The numbers stay the same.',
    reports: [
      abstract(
        'A residual network of 1,000 layers on ImageNet: 7 GB in the place of 48 for 30 % more time; n layers take memory of order √n at one forward pass more',
      ),
    ],
    merging: 'As the method inside: it is a mark in the graph of a step, and a model holds nothing of it.',
    laws: 'It is a function of graphs, without tensors: there is nothing to start, count, merge, save or take off. Its law is that values and gradients are those without it and that less is kept, whatever is inside: parameters, random masks, other checkpoints, second derivatives.',
    judges: [{ file: 'test/laws/checkpoint.test.ts', tests: 'checkpoint' }],
  },
};
