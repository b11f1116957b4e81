// Notes on compositions.
import { abstract, claim, LLM, type Notes } from './note.ts';

export const hybrid: Notes = {
  unipelt: {
    use: 'LoRA, prefix and adapter at once, each with a gate that weighs it by the input.',
    reports: [abstract('GLUE: 1 to 4 points above the best of its parts, and above full fine-tuning in several settings')],
  },
  mam: {
    use: 'A short prefix for attention, a large scaled parallel adapter for the feed-forward layers.',
    reports: [claim('Translation, summarisation, understanding and classification: comparable to full fine-tuning on all four')],
  },
  longlora: {
    use: 'Extending the context of a network with rotary positions, together with position interpolation and shifted attention. Plain LoRA falls short there; embeddings and norms close the gap.',
    reports: [
      abstract(
        'Context of LLaMA-2-7B from 4 thousand to 100 thousand tokens, of 70B to 32 thousand, on one machine with eight A100; shifted attention in training does about as well as full attention',
      ),
    ],
  },
  s4: {
    use: 'A budget spread evenly over layers, with a mixture of methods that depends on the depth.',
    reports: [claim('Several networks and language tasks: better than the methods that it is made of')],
    count: 'a budget for each layer',
  },
  autopeft: {
    use: 'A design found by search on a cheap task and carried over to others.',
    reports: [claim('GLUE and SuperGLUE: better than other methods, and on a par with full fine-tuning or better')],
    count: 'the sizes that the search chose',
  },
  noah: {
    use: 'Prompt, LoRA and adapter in one network, with sizes for every layer found by evolution in a trained supernet.',
    reports: [claim('Over 20 vision data sets: better than each of its modules alone')],
  },
  llmAdapters: {
    use: 'The placements that one study of large language models found best: series after the feed-forward layer, parallel to it, LoRA on attention and feed-forward.',
    reports: [`${LLM}: prefix 35.0 and 64.6, series 44.6 and 70.8, parallel 46.4 and 72.3, LoRA 46.9 and 74.7`],
    count: 'as its part',
  },
  longQlora: {
    use: 'LongLoRA’s longer texts on less memory: the network is in four bits, and embedding and norms stay frozen unless asked for.',
    reports: [
      'LLaMA-2-7B at 8192 tokens, perplexity on PG19 and Proof-pile: 7.96 and 2.73, LongLoRA 8.20 and 2.78, untuned above 1000 (the author’s repository of weights)',
    ],
  },
  supra: {
    use: 'A sparse and a low-rank change side by side, where one of them alone gains no more. It stores both.',
  },
};
