// Notes on soft prompts and prefixes.
import { abstract, claim, E2E, gsm, LLM, type Notes } from './note.ts';

export const prompts: Notes = {
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
  cartridge: {
    use: 'One long text is asked about again and again: a short trained cache of keys and values stands for it and is loaded in its place. Every text costs a training of its own (`selfStudy`).',
    reports: [abstract('As good as the long text itself in the context, with 38.6 times less memory and 26.4 times the throughput')],
  },
  cpt: {
    use: 'A few labelled examples and a language model: the examples stand in the prompt and may move only a little in training, so that so few are not simply learned by heart. Every text gets longer by them.',
    reports: [claim('Classification with few examples, several language models: better than what it was compared with')],
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
  spot: {
    use: 'Another task’s prompt is a better start than random numbers; near tasks are found by the cosine of their prompts.',
    reports: [
      abstract('SuperGLUE, T5 of all sizes: as good as full fine-tuning or better with up to 27,000 times fewer numbers for each task'),
    ],
  },
  xprompt: {
    use: 'Prunes a trained prompt, first whole tokens and then pieces of them, and trains what is left again from its first values.',
    reports: [claim('SuperGLUE: closes the gap between prompt tuning and full fine-tuning at smaller sizes')],
  },
  mpt: {
    use: 'Many tasks: one shared prompt, and a low-rank mask for each.',
    reports: [
      abstract('23 data sets: better than other methods, in some cases than full fine-tuning, with 0.035 % of its numbers for each task'),
    ],
  },
  idpg: {
    use: 'One prompt for all texts is too little: it is made from each text, for networks that read the text as a whole.',
    reports: [claim('Ten tasks of language understanding: better than prompt tuning, and on a par with Compacter with fewer numbers')],
  },
  dept: {
    use: 'A prompt makes every text longer: a short one, and an update of the embeddings by position for the same number of scalars.',
    reports: [
      '23 tasks of language and vision: better than other methods, in some cases than full fine-tuning, in less time and memory than prompt tuning (the paper’s abstract as the authors’ repository has it, without a figure)',
    ],
  },
  lpt: {
    use: 'Prompt tuning at less cost: blocks below the prompt have neither its length nor a backward pass. Where it enters is one more thing to choose.',
    reports: [claim('Competitive with full fine-tuning, with much data and with little, in less time and memory')],
  },
  apt: {
    use: 'Prefix tuning where layers need prefixes of different weight: gates weigh rows by layer and by text. For networks that understand text, not for those that write it.',
    reports: [claim('SuperGLUE and named entities: the gates help')],
  },
  aprompt: {
    use: 'Deep prompts that may also change which places of a text look at which: query-key prompts add a learned bias for each pair of places, so texts should share a layout.',
  },
  attempt: {
    use: 'Prompts of several source tasks exist, and a task with few examples should draw on them, text by text. All source prompts are stored with it.',
    reports: [
      abstract(
        '21 data sets: better than prompt tuning, and as good as methods with more than ten times its numbers or better, with 2300 times fewer than full fine-tuning',
      ),
    ],
  },
  ipt: {
    use: 'Many tasks share one decoder of prompts, and each new one trains a few hundred numbers. Finding the decoder takes prompts of many tasks; as attached it is random, which is the control.',
    reports: [abstract('Few examples: 250 numbers reach 97 % of prompt tuning’s result on 100 tasks seen before and 83 % on 20 others')],
  },
  tpt: {
    use: 'A prompt trained for one network is to serve another. The projector has far more numbers than a prompt, but it is trained once, serves other tasks too, and is not stored.',
    reports: [claim('A prompt projected to another network works there without training, and as a start makes training faster and better')],
  },
  ptp: {
    use: 'Prompt tuning that ends up elsewhere with every seed: a loss at disturbed texts as well makes it change less steeply. Each step costs a second pass, and K more where the disturbance is searched.',
    reports: [abstract('SuperGLUE and FewGLUE: 1.94 and 2.34 % above the best prompt tuning, and steadier over seeds')],
  },
  sptPrompt: {
    use: 'It is not known which layers should be prompted: gates learn it, and `sptKept` keeps the layers with the largest. While it searches every layer has a prompt.',
  },
  smop: {
    use: 'Several short prompts and a router, in place of one long prompt.',
    reports: [claim('Better than prompt tuning with long prompts, at less cost in training and inference')],
  },
  meft: {
    use: 'Memory: blocks whose inputs can be computed back from their outputs (here they are checkpointed instead).',
    reports: [
      abstract(
        'BERT, RoBERTa, BART and OPT: up to 84 % less memory for activations; on GLUE as good as full fine-tuning, on question answering about so',
      ),
    ],
  },
  pha: {
    use: 'As HyperFormer with few examples for each task: texts are drawn to the prototype of their task, and a new task starts from the nearest.',
    reports: [claim('Many tasks and few examples: comparable to other methods, and far better as examples get fewer')],
  },
};
