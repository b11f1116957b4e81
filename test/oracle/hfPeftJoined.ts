// What the fixture of hf_peft_joined.py holds, as methods of this library: LoRA on embeddings, DEFT with a QR, two methods in one adapter.

import { stack } from '../../peft/combinators.ts';
import { supra } from '../../peft/hybrid/supra.ts';
import type { Transform } from '../../peft/method.ts';
import { deft } from '../../peft/reparameterized/deft.ts';
import { lora } from '../../peft/reparameterized/lora.ts';
import { loraEmbedding } from '../../peft/reparameterized/loraEmbedding.ts';
import { trainableTokens } from '../../peft/selective/trainableTokens.ts';
import { fixture } from './fixtures.ts';
import { type Compared, parts, type Recorded } from './hfPeftCases.ts';
import { networks } from './networks.ts';

const { cases: recorded } = fixture<{ readonly cases: Readonly<Record<string, Recorded>> }>('peft-joined');
const AT = ['v', 'down'];
const FUSED = ['qkv', 'down'];
const W = (where: readonly string[]): string[] => where.map((w) => `${w}.weight`);
const r2 = { rank: 2, alpha: 3 };
const LORA = { A: 'lora_A.default.weight', B: 'lora_B.default.weight' };
const EMBEDDING = { A: 'lora_embedding_A.default', B: 'lora_embedding_B.default' };
const DEFT = { P: 'deft_P.default', R: 'deft_R.default' };
const TOKENS = { ...LORA, rows: 'token_adapter.trainable_tokens_delta.default' };
const SUPRA = { values: 'supertuning_values.default', A: 'supertuning_lora_A.default.weight', B: 'supertuning_lora_B.default.weight' };

/** Places in ascending order, as sparse tensors keep them; theirs stand by the size of the weight. */
const ascending = (places: readonly number[]): number[] => places.map((_, k) => k).sort((a, b) => places[a]! - places[b]!);

const one = (
  title: string,
  network: 'llama' | 'gpt2' | 'bert',
  names: Readonly<Record<string, string>>,
  method: Transform,
): [string, Compared] => [
  `${title} ${network}`,
  {
    network,
    group: 'joined',
    feed: {},
    make: ({ base }) => method(base),
    from: (path, table) => {
      const { site, name } = parts(path);
      const module = `base_model.model.${networks[network].moduleOf(site)}`;
      const key = `${module}.${names[name]}`;
      const found = table(key);
      if (found === undefined) throw new Error(`the fixture has no ${key}`);
      if (name !== 'values') return found.data;
      return ascending(recorded[`${title} ${network}`]!.fixed[`${module}.supertuning_indices.default`]!.data).map((k) => found.data[k]!);
    },
  },
];

export const joined: Readonly<Record<string, Compared>> = Object.fromEntries([
  one('loraEmbedding', 'llama', EMBEDDING, loraEmbedding(r2)),
  one('loraEmbedding', 'gpt2', EMBEDDING, loraEmbedding({ ...r2, rankStabilized: true, where: ['embed', 'positions'] })),
  one('loraEmbedding', 'bert', EMBEDDING, loraEmbedding({ ...r2, where: ['embed', 'positions', 'types'] })),
  one('tokens and lora', 'llama', TOKENS, stack(trainableTokens({ tokens: [3, 5, 1] }), lora({ ...r2, where: AT }))),
  one('tokens and lora', 'gpt2', TOKENS, stack(trainableTokens({ tokens: [2, 7] }), lora({ ...r2, where: FUSED }))),
  one('supra', 'llama', SUPRA, supra({ ...r2, sparsity: 0.9, where: AT })),
  one('deft qr', 'llama', DEFT, deft({ rank: 3, alpha: 2, decomposition: 'qr', where: W(AT) })),
  one('deft qr', 'gpt2', DEFT, deft({ rank: 2, removal: true, decomposition: 'qr', where: W(FUSED) })),
]);
