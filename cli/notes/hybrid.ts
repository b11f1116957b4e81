// Notes on compositions.
import { LLM, type Notes } from './note.ts';

export const hybrid: Notes = {
  unipelt: {
    use: 'LoRA, prefix and adapter at once, each with a gate that weighs it by the input.',
  },
  mam: {
    use: 'A short prefix for attention, a large scaled parallel adapter for the feed-forward layers.',
  },
  longlora: {
    use: 'Extending the context of a network with rotary positions, together with position interpolation and shifted attention. Plain LoRA falls short there; embeddings and norms close the gap.',
  },
  s4: {
    use: 'A budget spread evenly over layers, with a mixture of methods that depends on the depth.',
    count: 'a budget for each layer',
  },
  autopeft: {
    use: 'A design found by search on a cheap task and carried over to others.',
    count: 'the sizes that the search chose',
  },
  noah: {
    use: 'Prompt, LoRA and adapter in one network, with sizes for every layer found by evolution in a trained supernet.',
  },
  llmAdapters: {
    use: 'The placements that one study of large language models found best: series after the feed-forward layer, parallel to it, LoRA on attention and feed-forward.',
    reports: [`${LLM}: prefix 35.0 and 64.6, series 44.6 and 70.8, parallel 46.4 and 72.3, LoRA 46.9 and 74.7`],
    count: 'as its part',
  },
  longQlora: {
    use: 'LongLoRA’s longer texts on less memory: the network is in four bits, and embedding and norms stay frozen unless asked for.',
  },
  supra: {
    use: 'A sparse and a low-rank change side by side, where one of them alone gains no more. It stores both.',
  },
};
