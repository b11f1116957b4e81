// Notes on adapters and other added layers.
import { abstract, claim, DEBERTA, E2E, gsm, LLM, type Notes } from './note.ts';

export const additive: Notes = {
  houlsby: {
    use: 'The classic: two small bottlenecks in every block of any network. They stay attached, so each costs a little at inference; one per block (`pfeiffer`) has half the numbers.',
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
    reports: [claim('16 tasks of language understanding: better than full fine-tuning and than training all tasks at once')],
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
    reports: [
      abstract(
        'With 0.047 % trained on a par with full fine-tuning on GLUE, and better on SuperGLUE and with few examples; its first version has 0.07 %',
      ),
    ],
  },
  'compacter++': {
    use: 'Half of Compacter’s places, the feed-forward ones.',
    reports: [
      'With 0.047 % trained on a par with full fine-tuning on GLUE, and better on SuperGLUE and with few examples (the paper’s abstract, which does not tell the two forms apart)',
    ],
  },
  llamaAdapter: {
    use: 'The gate starts at zero, so that training starts from the base however the prompt is drawn; the authors tune the upper blocks only.',
    reports: [gsm(38.4, '8.6 M', ' at learning rate 5e-3')],
  },
  invertible: {
    use: 'Adapts token embeddings to another language while the tied output embedding stays in step; part of MAD-X.',
    reports: [claim('As part of MAD-X; nothing is said of it alone')],
  },
  madx: {
    use: 'A language adapter and a task adapter on top of it: swap the language at test time and keep the task.',
    reports: [claim('Named entities and causal reasoning across languages: ahead of what was best; competitive on question answering')],
    count: 'the invertible adapter, and two Pfeiffer adapters for each block',
  },
  parallelAdapter: {
    use: 'Reads the sublayer’s input instead of its output. The paper finds the feed-forward layer the best place, with a large bottleneck.',
    reports: [`${LLM}: 46.4 and 72.3; LoRA 46.9 and 74.7`],
  },
  ia3: {
    use: 'A few thousand numbers that merge exactly. The learning rate matters.',
    reports: [gsm(31.1, '0.29 M', ' with default settings'), gsm(45.5, '0.63 M', ' on all of attention at learning rate 5e-3')],
  },
  ssf: {
    use: 'Scales and shifts after every operation; merged, the network has not one operation more.',
    reports: [abstract('FGVC 90.72 % and VTAB-1k 73.10 % with about 0.3 M trained, full fine-tuning 88.54 % and 65.57 %')],
  },
  lnTuning: {
    use: 'Only norms: nothing is added, and the trained numbers are simply stored beside the network.',
    reports: [
      'Language models of 13B that learn to see: over 20 % above LoRA on average over five tasks, with 41.9 % fewer numbers and 17.6 % less GPU memory (the abstract of arXiv 2312.11420, which tunes the norms of attention blocks)',
    ],
  },
  mov: {
    use: 'A mixture of (IA)³ vectors; experts mixed softly do better than the best one alone.',
    reports: [
      abstract(
        'Instruction tuning: on a par with full fine-tuning with less than 1 % of an 11B network trained, also on unseen tasks; not told apart from MoLoRA',
      ),
    ],
  },
  molora: {
    use: 'A mixture of LoRAs, mixed softly for every token.',
    reports: [
      abstract(
        'Instruction tuning: on a par with full fine-tuning with less than 1 % of an 11B network trained, also on unseen tasks; not told apart from MoV',
      ),
    ],
  },
  mixloraExperts: {
    use: 'MixLoRA’s feed-forward part, without the plain LoRA on attention.',
    reports: ['Nothing of it alone; as part of MixLoRA see there (the authors’ repository)'],
  },
  mixlora: {
    use: 'A mixture of experts from one frozen network: each expert is a LoRA on the feed-forward layers, and a router picks two of them for every token.',
    reports: ['LLaMA-2-7B, mean of eight commonsense sets, 2.9 % trained: 77.6, LoRA 71.8, DoRA 75.3 (the authors’ repository)'],
  },
  loreft: {
    use: 'Changes the residual stream at a few positions in a subspace of few dimensions; no weight changes.',
    reports: [
      `${LLM}: 42.6 and 80.2 with 0.03 % trained, LoRA 46.9 and 74.7 with 0.83 % (the authors’ repository)`,
      abstract(
        '15 to 65 times fewer numbers than LoRA; on commonsense, arithmetic, instructions and GLUE almost always better than other methods',
      ),
    ],
  },
  noreft: {
    use: 'LoReFT without the condition that the subspace’s basis is orthonormal.',
    count: 'r(2d + 1) per unit',
  },
  direft: {
    use: 'NoReFT without the difference term.',
    reports: [`${LLM}: 40.6 and 79.0 with 0.03 % trained, LoRA 46.9 and 74.7 with 0.83 % (the authors’ repository)`],
    count: 'r(2d + 1) per unit',
  },
  lst: {
    use: 'Memory: nothing of the network is kept for backward, because gradients stay in a small network beside it.',
    reports: [
      abstract(
        'T5 and CLIP-T5: saves 2.7 times as much training memory as other methods; with little memory more accurate than adapters and LoRA',
      ),
    ],
  },
  adapterBias: {
    use: '46 thousand numbers for BERT-base: one vector per layer, which each token takes as much of as it needs. It merges.',
    reports: [claim('Little is lost against full fine-tuning, with far fewer numbers than adapters')],
  },
  adapterPlus: {
    use: 'One adapter behind each block, as a study of positions, starts and scalings for vision transformers chose it.',
    reports: [claim('VTAB: the best mean accuracy, even without settings of its own for each task')],
  },
  resTuning: {
    use: 'Many tasks on one forward pass: what is trained stands beside the network and reads its hidden states; backward stays outside the blocks.',
    reports: [claim('Recognition and generation of images: better than the alternatives, and cheaper')],
  },
  sideTuning: {
    use: 'Nothing of the network may change or be differentiated: a small network beside it learns the difference, for one task after another.',
  },
  tinyAttn: {
    use: 'What a task needs is context rather than numbers: an attention of width 1 in each block.',
    reports: [abstract('GLUE: better than other methods and than full fine-tuning with 0.05 % trained')],
  },
  coda: {
    use: 'Long texts in an encoder: most tokens take the small adapter’s way around the frozen layers (computed here all the same).',
    reports: [
      abstract('Language, images and speech: inference two to eight times faster than with adapters, with little loss of accuracy or none'),
    ],
  },
  hyperformer: {
    use: 'Many tasks at once that may help each other: one network writes all their adapters from an embedding of each task.',
    reports: [abstract('GLUE, all tasks at once: better than adapters of their own, with 0.29 % more parameters for each task')],
  },
  biAdapter: {
    use: 'Storage and sending: a bit for each of the adapter’s weights. Training still has them in float32, so it saves nothing there.',
    reports: [
      'ViT-B/16, mean over VTAB-1k: 77.0 with 213 kB for each task (m = 32), full fine-tuning 68.9 with 340 MB, VPT 72.0 with 2.2 MB (the authors’ repository)',
    ],
  },
};
