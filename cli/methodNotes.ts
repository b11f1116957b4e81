// What is known of the methods beyond their declarations: what they were made for, and what was measured where, with sources.

export interface Note {
  /** When to use it: what the paper, or a measurement, establishes. */
  readonly use?: string;
  /** Figures, each with where it stands. */
  readonly reports?: readonly string[];
  /** Scalars trained, where the method's file does not say it in words. */
  readonly count?: string;
}

/** One line of Hugging Face PEFT's own benchmark. */
const gsm = (percent: number, trained: string, how = ''): string =>
  `GSM8K after tuning Llama-3.2-3B on MetaMathQA: ${percent} % with ${trained} trained${how} (LoRA of rank 32: 47.8 %, full fine-tuning: 47.2 %; Hugging Face PEFT's benchmark, one seed, mostly default settings: a few points are noise)`;
const E2E = 'GPT-2 medium, E2E and DART, BLEU (full fine-tuning 68.2 and 46.0; figures of the LoRA paper and repository)';
const DEBERTA = 'DeBERTa-v3-base, mean over GLUE dev (full fine-tuning 88.25; as a later paper reprints it)';
const LLM = 'LLaMA-7B, mean of four arithmetic sets and of eight commonsense sets (LLM-Adapters’ repository)';
const PAIR = 'r(in + out) at each layer';

export const notes: Readonly<Record<string, Note>> = {
  // additive
  houlsby: {
    reports: [
      `RoBERTa-large, mean over GLUE dev: 87.8 with 6.0 M and 86.4 with 0.8 M, LoRA 88.6 with 0.8 M (LoRA paper)`,
      `${E2E}: 66.3 and 42.4 with 0.37 M; E2E 68.9 with 11.09 M`,
      `${DEBERTA}: 88.28 with 1.22 M`,
    ],
  },
  pfeiffer: {
    use: 'One adapter per block instead of two: half of Houlsby’s numbers. The stage that AdapterFusion, AdapterDrop and MAD-X start from.',
    reports: [
      'RoBERTa-large, mean over GLUE dev: 88.4 with 3.0 M and 87.9 with 0.8 M, LoRA 88.6 with 0.8 M (LoRA paper)',
      `${DEBERTA}: 88.41 with 1.18 M`,
    ],
  },
  adapterFusion: {
    use: 'Several tasks have trained adapters of their own, and another task should draw on all of them without changing any.',
  },
  adapterDrop: {
    use: 'Many tasks share one network: blocks without adapters are computed once for all, and backward ends at the first block that has one.',
    reports: [
      'RoBERTa-base, mean over GLUE dev: 84.4 with 0.3 M and 85.4 with 0.9 M, LoRA 87.2 with 0.3 M, full fine-tuning 86.4 (LoRA paper)',
    ],
    count: '2md + m + d at each place that keeps its adapter',
  },
  adamix: {
    use: 'More capacity in training at the cost of one adapter afterwards: the experts are averaged.',
    reports: [
      'BERT-base, mean over GLUE: 84.5 with 0.9 M stored; Houlsby 83.0, UniPELT-AP 83.1, LoRA (0.3 M) 82.2 (as a later paper reprints it)',
    ],
  },
  compacter: {
    use: 'Adapters with far fewer numbers: projections are Kronecker products, and all layers share the left factors. Its small start asks for a large learning rate (the authors take 3e-3).',
  },
  'compacter++': { use: 'Half of Compacter’s places, the feed-forward ones.' },
  llamaAdapter: {
    use: 'The gate starts at zero, so that training starts from the base however the prompt is drawn; the authors tune the upper blocks only.',
    reports: [gsm(38.4, '8.6 M', ' at learning rate 5e-3')],
  },
  invertible: { use: 'Adapts token embeddings to another language while the tied output embedding stays in step; part of MAD-X.' },
  madx: {
    use: 'A language adapter and a task adapter on top of it: swap the language at test time and keep the task.',
    count: 'the invertible adapter, and two Pfeiffer adapters for each block',
  },
  parallelAdapter: {
    use: 'Reads the sublayer’s input instead of its output. The paper finds the feed-forward layer the best place, with a large bottleneck.',
    reports: [`${LLM}: 46.4 and 72.3; LoRA 46.9 and 74.7`],
  },
  promptTuning: {
    use: 'p·d numbers per task, and tasks mix in one batch. It wants a large model, many steps, a large learning rate and a start from real tokens.',
    reports: [gsm(34.3, '0.61 M', ' from tokens of the vocabulary'), gsm(5.7, '0.61 M', ' from random numbers with default settings')],
  },
  prefixTuning: {
    use: 'Every layer gets keys and values of its own, while the text stays as it is. Starting from the keys and values of real text is what helps most.',
    reports: [
      `${E2E}: 69.7 and 45.7 with 0.35 M`,
      `${LLM}: 35.0 and 64.6; LoRA 46.9 and 74.7`,
      gsm(41.6, '2.9 M', ', 50 tokens, started from text'),
      gsm(18.6, '11.5 M', ' at learning rate 1e-3 from random numbers'),
    ],
  },
  pTuning: {
    use: 'A prompt made by a small network, which is thrown away after training: only its output is stored.',
    reports: [gsm(35.0, '28.4 M')],
  },
  pTuningTemplate: {
    use: 'The original form: trained tokens stand between the words of a template.',
    count: 'as pTuning, p the number of pseudo-tokens',
  },
  pTuningV2: {
    use: 'Prompts at every layer and a trained head, for encoders: classification, tagging, questions.',
    reports: [
      'RoBERTa-large: BoolQ 84.0, COPA 92.0, RTE 86.6, WiC 73.7; BERT-large: BoolQ 74.3, RTE 80.1, WiC 75.1 (the authors’ repository)',
    ],
  },
  spot: { use: 'Another task’s prompt is a better start than random numbers; near tasks are found by the cosine of their prompts.' },
  xprompt: {
    use: 'Prunes a trained prompt, first whole tokens and then pieces of them, and trains what is left again from its first values.',
  },
  mpt: { use: 'Many tasks: one shared prompt, and a low-rank mask for each.' },
  idpg: { use: 'One prompt for all texts is too little: it is made from each text, for networks that read the text as a whole.' },
  aprompt: {
    use: 'Deep prompts that may also change which places of a text look at which: query-key prompts add a learned bias for each pair of places, so texts should share a layout.',
  },
  dept: {
    use: 'A prompt makes every text longer: a short one, and an update of the embeddings by position for the same number of scalars.',
  },
  smop: { use: 'Several short prompts and a router, in place of one long prompt.' },
  ia3: {
    use: 'A few thousand numbers that merge exactly. The learning rate matters.',
    reports: [gsm(31.1, '0.29 M', ' with default settings'), gsm(45.5, '0.63 M', ' on all of attention at learning rate 5e-3')],
  },
  ssf: { use: 'Scales and shifts after every operation; merged, the network has not one operation more.' },
  lnTuning: { use: 'Only norms: nothing is added, and the trained numbers are simply stored beside the network.' },
  mov: { use: 'A mixture of (IA)³ vectors; experts mixed softly do better than the best one alone.' },
  molora: { use: 'A mixture of LoRAs, mixed softly for every token.' },
  mixlora: {
    use: 'A mixture of experts from one frozen network: each expert is a LoRA on the feed-forward layers, and a router picks two of them for every token.',
  },
  mixloraExperts: { use: 'MixLoRA’s feed-forward part, without the plain LoRA on attention.' },
  loreft: { use: 'Changes the residual stream at a few positions in a subspace of few dimensions; no weight changes.' },
  noreft: { use: 'LoReFT without the condition that the subspace’s basis is orthonormal.', count: 'r(2d + 1) per unit' },
  direft: { use: 'NoReFT without the difference term.', count: 'r(2d + 1) per unit' },
  sideTuning: {
    use: 'Nothing of the network may change or be differentiated: a small network beside it learns the difference, for one task after another.',
  },
  resTuning: {
    use: 'Many tasks on one forward pass: what is trained stands beside the network and reads its hidden states; backward stays outside the blocks.',
  },
  adapterBias: {
    use: '46 thousand numbers for BERT-base: one vector per layer, which each token takes as much of as it needs. It merges.',
  },
  adapterPlus: { use: 'One adapter behind each block, as a study of positions, starts and scalings for vision transformers chose it.' },
  tinyAttn: { use: 'What a task needs is context rather than numbers: an attention of width 1 in each block.' },
  coda: {
    use: 'Long texts in an encoder: most tokens take the small adapter’s way around the frozen layers (computed here all the same).',
  },
  hyperformer: {
    use: 'Many tasks at once that may help each other: one network writes all their adapters from an embedding of each task.',
  },
  pha: {
    use: 'As HyperFormer with few examples for each task: texts are drawn to the prototype of their task, and a new task starts from the nearest.',
  },
  meft: { use: 'Memory: blocks whose inputs can be computed back from their outputs (here they are checkpointed instead).' },
  lst: { use: 'Memory: nothing of the network is kept for backward, because gradients stay in a small network beside it.' },
  // selective
  bitfit: {
    use: 'Networks with biases: a tenth of a percent of all numbers, and nothing added.',
    reports: [
      'RoBERTa-base, mean over GLUE dev: 85.2 with 0.1 M, LoRA 87.2 with 0.3 M, full fine-tuning 86.4 (LoRA paper)',
      `${DEBERTA}: 86.20 with 0.10 M`,
    ],
  },
  sparseMask: {
    use: 'Masks that need no data: the smallest weights (PaFi), the largest, or random ones. The smallest give one mask for all tasks.',
    count: '⌊ρN⌋',
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
  fishMask: { use: 'The mask is chosen once by Fisher information, from gradients of single examples.' },
  sam: { use: 'The mask is chosen once, by the square of the gradient summed over data.' },
  snip: { use: 'The mask is chosen once, by |θ·gradient|: a baseline.' },
  ltSft: { use: 'Sparse changes of a language and of a task are added to each other. It costs one full fine-tuning to find the mask.' },
  childTuning: { use: 'A regulariser: all weights change in the end, so it stores no less than full fine-tuning.' },
  childTuningD: { use: 'Only the weights with the largest Fisher information move; the mask is chosen before training.' },
  lastLayers: {
    use: 'Backward ends at the first block that is trained.',
    reports: ['GPT-2 medium, E2E BLEU, the top two layers: 68.1; full fine-tuning 68.2 (LoRA paper)'],
  },
  attentionOnly: {
    use: 'Attention alone is trained; the paper does so with cross-attention, and with embeddings where a language is new.',
  },
  headOnly: {
    use: 'The baseline that shows how far the frozen features go. Ahead of it is what tuning is for.',
    reports: [
      'BERT-large, GLUE test, last layer only: QNLI 79.8, SST-2 91.6, MNLI 71.4, CoLA 40.2, MRPC 80.1, STS-B 67.3 (diff pruning’s paper)',
    ],
  },
  far: { use: 'Training on a device: only the feed-forward units that the task moves most learn.' },
  spt: { use: 'A budget shared out by sensitivity: where many entries of a matrix matter it gets a LoRA, elsewhere single entries.' },
  // reparameterized
  lora: {
    use: 'The first thing to try: it merges, so that inference costs nothing, and tasks are switched by exchanging BA.',
    reports: [
      'RoBERTa-base, mean over GLUE dev: 87.2 with 0.3 M, full fine-tuning 86.4; RoBERTa-large 89.0 with 0.8 M, full 88.9 (the paper)',
      `${E2E}: 70.4 and 47.1 with 0.35 M`,
      `${DEBERTA}: 88.50 with 1.33 M`,
      `${LLM}: 46.9 and 74.7`,
      gsm(51.3, '18.4 M', ', rank 64, rank-stabilised'),
    ],
    count: PAIR,
  },
  loraEmbedding: {
    use: 'Words that mean something else in a task, or new ones, beside `lora` on the layers: a step touches the words of its text alone, and no gradient of the table’s size exists.',
    count: 'r(V + d) for a table of V rows',
  },
  dora: {
    use: 'LoRA moves length and direction of a weight’s rows together; here they are trained apart. It merges like LoRA, and costs the whole weight in every forward pass.',
    reports: [gsm(46.9, '9.3 M', ', rank 32')],
    count: 'r(in + out) + out at each layer',
  },
  adalora: {
    use: 'One budget of ranks for the whole network: layers that matter keep more of it. The number of steps must be known.',
    reports: [`${DEBERTA}: 89.46 with 1.27 M, LoRA 88.50`, gsm(37.3, '18.4 M', ' with default settings')],
    count: 'k(in + out + 1) at each layer, k the first rank',
  },
  pissa: {
    use: 'Starts from the largest singular directions instead of zero; the rest of the weight is frozen, and can be quantised.',
    count: PAIR,
  },
  loraPlus: { use: 'LoRA, with a larger learning rate for B than for A.', count: PAIR },
  loraFa: {
    use: 'Memory: of a layer’s input only r numbers per token are kept for backward.',
    reports: [gsm(40.4, '3.7 M')],
    count: 'r·out at each layer',
  },
  deltaLora: {
    use: 'The weight moves along with the product of the factors, without gradients or optimizer state of its size.',
    count: PAIR,
  },
  dylora: { use: 'One training for all ranks: cut to any of them afterwards.', count: PAIR },
  sora: { use: 'Finds the rank: gates become exactly zero, and their ranks are removed.', count: 'r(in + out) + r at each layer' },
  loraDropout: { use: 'Against overfitting: whole inputs and outputs of the update are dropped.', count: PAIR },
  loraXs: { use: 'Trains r² numbers per layer between frozen singular directions.', count: 'r² at each layer' },
  olora: { use: 'Starts from an orthonormal basis (QR) instead of random numbers and zero.', count: PAIR },
  mtlLora: {
    use: 'Several tasks at once: what they share is one LoRA, what differs is a stretch of its rank and a mix of its ups per task.',
  },
  moslora: { use: 'LoRA with a trained mixer between the factors.', count: 'r(in + out) + r² at each layer' },
  vblora: {
    use: 'All layers share one bank of vectors; a layer stores which of them it mixes, and how.',
    reports: [gsm(33.4, '1.2 M')],
    count: 'h·b for the bank, r(in + out)/b·h logits at each layer',
  },
  loraDrop: {
    use: 'Layers whose update hardly changes their output share one LoRA.',
    count: 'r(in + out) for each layer that keeps its own, and for each kind of projection that shares',
  },
  eva: {
    use: 'Starts A from the directions in which a layer’s input varies, and gives ranks to layers by the variance they explain.',
    count: PAIR,
  },
  corda: { use: 'Starts from what data needs most, to learn a task, or least, to keep what is known.', count: PAIR },
  loraGa: { use: 'Starts from singular directions of the whole weight’s gradient on a few batches.', count: PAIR },
  miss: { use: 'One small matrix repeated over the input’s blocks.', reports: [gsm(48.7, '7.3 M')], count: 'r·out at each layer' },
  bone: { use: 'MiSS’s block form that uses the weight itself.', reports: [gsm(50.4, '7.3 M', ' (“bat”)')], count: 'r·out at each layer' },
  hira: { use: 'A change of high rank from few numbers.', reports: [gsm(51.3, '9.2 M', ', rank 32')], count: PAIR },
  loha: { use: 'Rank up to r² from twice LoRA’s numbers.', reports: [gsm(39.3, '18.4 M', ', rank 32')] },
  lokr: { use: 'Few numbers: the factors of a Kronecker product.', reports: [gsm(46.6, '2.3 M')] },
  krona: { use: 'A Kronecker product may have full rank with few numbers.' },
  oft: {
    use: 'Rotates inputs, which keeps lengths of and angles between a weight’s rows.',
    reports: [`${DEBERTA}: 89.77 with 0.79 M (16 blocks)`, gsm(49.1, '8.2 M')],
  },
  boft: {
    use: 'Rotations through several sparse factors: more inputs mix than in one block-diagonal rotation of as many numbers.',
    reports: [`${DEBERTA}: 89.89 with 0.75 M`, gsm(34.3, '0.80 M')],
  },
  hra: { use: 'Rotations by a few mirrors: in·r numbers, and no matrix to invert.' },
  fourierft: {
    use: 'A thousand coefficients per layer, whatever its size.',
    reports: [
      'RoBERTa-base, six GLUE tasks: 85.0 with 0.024 M, VeRA 85.2 with 0.043 M, full fine-tuning 85.2 (as a later paper reprints it)',
      gsm(9.6, '0.28 M', ', 5000 coefficients'),
    ],
  },
  did: { use: 'Measures a task: the smallest dimension in which tuning reaches 90 % of full fine-tuning. Dense, for small networks.' },
  said: { use: 'As DID, with a fast projection, for networks of any size.' },
  vera: {
    use: 'About a hundredth of LoRA’s numbers: all layers share two frozen random matrices. It wants about ten times LoRA’s learning rate.',
    reports: ['RoBERTa-base, six GLUE tasks: 85.2 with 0.043 M, full fine-tuning 85.2 (as a later paper reprints it)', gsm(35.4, '0.13 M')],
    count: 'r + out at each layer',
  },
  poly: { use: 'Many tasks that share skills: each task mixes a few LoRAs with weights of its own.' },
  // hybrid
  noah: { use: 'Prompt, LoRA and adapter in one network, with sizes for every layer found by evolution in a trained supernet.' },
  unipelt: { use: 'LoRA, prefix and adapter at once, each with a gate that weighs it by the input.' },
  mam: { use: 'A short prefix for attention, a large scaled parallel adapter for the feed-forward layers.' },
  longlora: {
    use: 'Extending the context of a network with rotary positions, together with position interpolation and shifted attention. Plain LoRA falls short there; embeddings and norms close the gap.',
  },
  s4: { use: 'A budget spread evenly over layers, with a mixture of methods that depends on the depth.', count: 'a budget for each layer' },
  autopeft: { use: 'A design found by search on a cheap task and carried over to others.', count: 'the sizes that the search chose' },
  llmAdapters: {
    use: 'The placements that one study of large language models found best: series after the feed-forward layer, parallel to it, LoRA on attention and feed-forward.',
    reports: [`${LLM}: prefix 35.0 and 64.6, series 44.6 and 70.8, parallel 46.4 and 72.3, LoRA 46.9 and 74.7`],
    count: 'as its part',
  },
};
