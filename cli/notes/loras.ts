// Notes on LoRA and its kin.
import { abstract, claim, DEBERTA, E2E, gsm, LLM, type Notes, PAIR } from './note.ts';

export const loras: Notes = {
  lora: {
    use: 'The first thing to try: it merges, so that inference costs nothing, and tasks are switched by exchanging BA.',
    reports: [
      'RoBERTa-base, mean over GLUE dev: 87.2 with 0.3 M, full fine-tuning 86.4; RoBERTa-large 89.0 with 0.8 M, full 88.9 (the paper)',
      `${E2E}: 70.4 and 47.1 with 0.35 M`,
      `${DEBERTA}: 88.50 with 1.33 M`,
      `${LLM}: 46.9 and 74.7`,
      gsm(51.3, '18.4 M', ', rank 64, rank-stabilised'),
      gsm(49.4, '9.5 M', ', rank 10, on the feed-forward layers'),
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
    reports: ['GSM8K, Mistral-7B: 72.86 %, LoRA 67.7 %; LLaMA-3-70B in four bits: 86.05 %, QLoRA 81.73 % (the paper’s abstract)'],
    count: PAIR,
  },
  loraPlus: {
    use: 'LoRA, with a larger learning rate for B than for A.',
    reports: [abstract('1 to 2 points better than LoRA, and up to about twice as fast')],
    count: PAIR,
  },
  loraFa: {
    use: 'Memory: of a layer’s input only r numbers per token are kept for backward.',
    reports: [gsm(40.4, '3.7 M')],
    count: 'r·out at each layer',
  },
  deltaLora: {
    use: 'The weight moves along with the product of the factors, without gradients or optimizer state of its size.',
    reports: [claim('Better than other low-rank methods')],
    count: PAIR,
  },
  dylora: {
    use: 'One training for all ranks: cut to any of them afterwards.',
    reports: [
      abstract('GLUE, E2E, DART and WebNLG: at least four to seven times faster than training LoRA for every rank, without losing much'),
    ],
    count: PAIR,
  },
  sora: {
    use: 'Finds the rank: gates become exactly zero, and their ranks are removed.',
    reports: [abstract('Better than the methods compared with 70 % of the numbers and 70 % of the time')],
    count: 'r(in + out) + r at each layer',
  },
  loraDropout: {
    use: 'Against overfitting: whole inputs and outputs of the update are dropped.',
    reports: [claim('Language tasks: better accuracy and calibration')],
    count: PAIR,
  },
  loraXs: {
    use: 'Trains r² numbers per layer between frozen singular directions.',
    reports: [
      'GLUE, GSM8K and MATH: over a hundred times fewer numbers than LoRA at seven thousand million parameters, with competitive results (the authors’ repository)',
    ],
    count: 'r² at each layer',
  },
  olora: {
    use: 'Starts from an orthonormal basis (QR) instead of random numbers and zero.',
    reports: [claim('Language modelling: faster than LoRA, and better')],
    count: PAIR,
  },
  moslora: {
    use: 'LoRA with a trained mixer between the factors.',
    reports: [claim('Commonsense reasoning, visual instructions and images of a subject: better than LoRA')],
    count: 'r(in + out) + r² at each layer',
  },
  vblora: {
    use: 'All layers share one bank of vectors; a layer stores which of them it mixes, and how.',
    reports: [gsm(33.4, '1.2 M')],
    count: 'h·b for the bank, r(in + out)/b·h logits at each layer',
  },
  loraDrop: {
    use: 'Layers whose update hardly changes their output share one LoRA.',
    reports: [abstract('On a par with LoRA and with full fine-tuning while half of LoRA’s numbers are kept on average')],
    count: 'r(in + out) for each layer that keeps its own, and for each kind of projection that shares',
  },
  eva: {
    use: 'Starts A from the directions in which a layer’s input varies, and gives ranks to layers by the variance they explain.',
    reports: [claim('Language, vision and control: faster than other starts, with the highest mean in each')],
    count: PAIR,
  },
  corda: {
    use: 'Starts from what data needs most, to learn a task, or least, to keep what is known.',
    reports: [
      'GSM8K and MATH: 54.6 and 8.5 from directions that the task needs most, 45.6 and 6.9 from those that known facts need least, LoRA 42.7 and 5.9; TriviaQA afterwards 45.2 with the latter, LoRA 44.2 (the authors’ repository)',
    ],
    count: PAIR,
  },
  loraGa: {
    use: 'Starts from singular directions of the whole weight’s gradient on a few batches.',
    reports: [
      abstract(
        'T5-base on a part of GLUE: 5.69 points above LoRA on average; LLaMA-2-7B: 0.34 on MT-bench, 11.52 on GSM8K and 5.05 on HumanEval; two to four times as fast',
      ),
    ],
    count: PAIR,
  },
  poly: {
    use: 'Many tasks that share skills: each task mixes a few LoRAs with weights of its own.',
  },
  loftq: {
    use: 'LoRA on a network in few bits, where packing loses much (two or three bits, say): the factors start by making up for it. The start costs T decompositions of every weight.',
    reports: [
      'GSM8K: LLaMA-3-8B in four bits 68.0, QLoRA 67.4, LoRA in sixteen bits 69.3, full fine-tuning 70.4; Phi-2 64.1, QLoRA 60.2, LoRA 64.8, full 66.8, all of rank 64 (the authors’ repository)',
      'LLaMA-2-7B, GSM8K and perplexity on WikiText-2: 35.0 and 5.24 at four bits, 20.9 and 7.85 at two, 36.9 and 5.08 at sixteen (the authors’ repository)',
    ],
  },
  qaLora: {
    use: 'LoRA on a network in few bits that shall stay so when merged: the update goes into the zero points exactly. A reads means of groups, so it has fewer numbers and less freedom than LoRA’s.',
    reports: [claim('LLaMA and LLaMA-2: the merged network is quantised without loss of accuracy')],
  },
  vera: {
    use: 'About a hundredth of LoRA’s numbers: all layers share two frozen random matrices. It wants about ten times LoRA’s learning rate.',
    reports: ['RoBERTa-base, six GLUE tasks: 85.2 with 0.043 M, full fine-tuning 85.2 (as a later paper reprints it)', gsm(35.4, '0.13 M')],
    count: 'r + out at each layer',
  },
  dvora: {
    use: 'DoRA with VeRA’s few numbers. As with DoRA the whole weight is made in every forward pass.',
  },
  pvera: {
    use: 'VeRA with noise of learned size while training, as a regulariser; afterwards, and merged, it is the mean. Its frozen A is twice VeRA’s.',
    reports: [gsm(35.6, '0.12 M', ', rank 64')],
  },
  randlora: {
    use: 'A change of full rank, where LoRA’s rank seems to be what holds a task back. About LoRA’s count, but a step computes n products instead of one.',
    reports: [gsm(47.8, '9.3 M')],
  },
  uniLora: {
    use: 'To find out how few trained numbers a task needs: one vector serves all layers. What is stored besides, a place for every element of all A and B, is as long as LoRA.',
    reports: [gsm(0.2, '256')],
  },
  tinyLora: {
    use: 'To find out how few trained numbers a task needs: a handful for a layer, or for all of them. The frozen factors beside them are as large as LoRA’s.',
    reports: [gsm(1.2, '3.6 thousand')],
  },
  gralora: {
    use: 'LoRA of a large rank where a few inputs are far larger than the rest: blocks learn apart, so that those do not steer all of the update. The count is LoRA’s.',
    reports: [gsm(49.5, '9.2 M')],
  },
  delora: {
    use: 'A large learning rate or a long training should not carry the weight away: a trained number bounds the size of the change. Lengths are taken anew in every forward pass.',
    reports: [gsm(46.8, '9.2 M')],
  },
  mica: {
    use: 'To learn something new with least harm to what is known: only directions that the weight hardly uses are written to. The start costs a decomposition of every weight.',
    reports: [gsm(43.1, '5.5 M')],
  },
  kasa: {
    use: 'Where the weight’s smallest directions are taken for noise: they are dropped for good, which changes the base, and two penalties join the loss.',
    reports: [
      claim('Understanding, generation, instructions and commonsense, 16 benchmarks: better than full fine-tuning and 14 other methods'),
    ],
  },
  glora: {
    use: 'To study which scalings and shifts of weight, bias and features a task wants, each as rich as one likes. More parts than LoRA, all of which merge.',
    reports: [
      gsm(37.2, '0.23 M', ', vectors'),
      'LLaMA-7B, mean of ARC, HellaSwag, MMLU and TruthfulQA: 50.8 after Alpaca and 52.7 after ShareGPT, LoRA 49.8 and 51.2, untuned 49.7 (the authors’ repository)',
    ],
  },
  lily: {
    use: 'LoRA with more variety from as many numbers: neighbouring layers share A, and a router mixes a few B that all share. It does not merge, and a row’s answer depends on the rest of its batch.',
    reports: [gsm(52.6, '9.5 M', ', rank 140, on the feed-forward layers')],
  },
  loraOrthogonal: {
    use: 'LoRA whose two factors both learn from the first step, though their product starts at zero (up to rounding). The rank must be even.',
  },
  bdLora: {
    use: 'LoRA for layers that are cut over several devices: the adapter needs no exchange of its own. Fewer numbers than LoRA of the same rank, and less freedom.',
  },
  riemannianLora: {
    use: 'LoRA that depends less on the learning rate and on how the product is split. Two inverses of size r × r for each layer and step.',
  },
  alora: {
    use: 'A skill that is called up in the middle of a text (a check, a summary): keys and values of what stands before are the base’s and are not computed again. It cannot merge.',
    reports: [claim('As accurate as LoRA, and far cheaper at inference, where it is called up in the course of a text')],
  },
  xlora: {
    use: 'Several LoRAs are trained already, and each token should have the mixture that suits it. Every pass becomes two, and it cannot merge.',
    reports: [claim('Case studies of protein mechanics and molecular design with experts of several sciences; no comparison')],
  },
  arrow: {
    use: 'A library of LoRAs for tasks that are not known beforehand: tokens are sent by the LoRAs’ own directions, and nothing needs data or training. It cannot merge.',
    reports: [claim('Phi-2 and Mistral: with LoRAs of clustered tasks it generalises better to tasks held out')],
  },
  velora: {
    use: 'Memory: of LoRA’s input one number per group of features is kept for backward. The gradient of A is then an approximation.',
    reports: [claim('Goes together with other methods on VTAB-1k; better than QLoRA on LLaMA')],
  },
  monteclora: {
    use: 'LoRA whose result depends too much on seed and settings: noise of a learned size while training. Sampling and its penalty make a step dearer; merged it is a LoRA.',
  },
  mtlLora: {
    use: 'Several tasks at once: what they share is one LoRA, what differs is a stretch of its rank and a mix of its ups per task.',
    reports: [
      claim('Language, commonsense, images with text, and advertising: better than LoRA and its variants with as many numbers or fewer'),
    ],
  },
  capaBoost: {
    use: 'A higher rank than LoRA from as many numbers. While training d products are computed instead of one; merged it costs nothing.',
  },
  autoLora: {
    use: 'Each layer should get the rank that it needs: shares learned on validation data say which pieces to keep. It costs a search before the training.',
    reports: [claim('Understanding, generation and labelling: effective')],
  },
  moelora: {
    use: 'Several tasks in one network, each known by its number: they share experts and have a mixture each. With one task it merges; with several it does not.',
    reports: [claim('Several medical tasks at once: better than other methods')],
  },
  periodicLora: {
    use: 'A change of higher rank with the memory of a small LoRA: its stages add up. K of them are stored, and each starts its optimizer anew.',
    reports: [abstract('At best about 1.8 times LoRA’s ability to learn, with no more memory')],
  },
  mole: {
    use: 'Several trained LoRAs shall act together and stay as they are: only gates are trained. A gate has an entry for every position and feature, so it is large, and the longest text is fixed.',
  },
  qdylora: {
    use: 'DyLoRA on a network in four bits: one training on little memory, and an adapter of any of the ranks afterwards. Packing loses a little, as QLoRA does.',
    reports: [
      abstract('Falcon-40B: ranks 1 to 64 in one training on one V100 of 32 GB; competitive with QLoRA, and better at its best rank'),
    ],
  },
  lqLora: {
    use: 'LoRA on a network in about three bits: the low-rank part takes what packing would lose most, and each weight gets bits of its own. It costs a search and decompositions of every weight first.',
    reports: [
      abstract(
        'RoBERTa and LLaMA-2: better than QLoRA, with a small loss below three bits; LLaMA-2-70B at 2.75 bits (2.85 with the low-rank parts) takes 27 GB',
      ),
    ],
  },
};
