// Methods of ours that leave an ordinary LoRA behind when training is over: written as one, and read back as `lora`.
import { product } from '../../peft/linalg.ts';
import type { LoraConfig } from '../../peft/reparameterized/lora.ts';
import { type AnyFormat, asAny, type Table, type Tables } from './format.ts';
import { type LORA_FIELDS, plainLora } from './lora.ts';

/** Options of any of them: what is not LoRA's is for training, and has no place in the file. */
type Like = Partial<LoraConfig> & { readonly rank: number; readonly alpha: number; readonly inferenceRank?: number | null };
interface Made {
  readonly own: Tables;
  readonly alpha: number; // for the rank that A has
}
type Make = (own: Tables, o: Like) => Made;

/** Where ranks differ from layer to layer and the scaling does not (EVA), alpha follows the rank. */
const sameScale = (A: Table, { rank, alpha, rankStabilized }: Like): number => {
  const share = A.shape[0]! / rank;
  return rankStabilized ? alpha * Math.sqrt(share) : alpha * share;
};
const asTheyAre: Make = ({ A, B }, o) => ({ own: { A: A!, B: B! }, alpha: sameScale(A!, o) });
/** A small matrix [r, r] between the factors goes into A. */
const mixed =
  (name: string): Make =>
  ({ A, B, [name]: m }, o) => {
    const [r, into] = A!.shape as readonly [number, number];
    return { own: { A: { data: product(m!.data, A!.data, r, r, into), shape: [r, into] }, B: B! }, alpha: sameScale(A!, o) };
  };
/** A gate on each rank goes into A's rows. */
const gated: Make = ({ A, B, g }, o) => {
  const into = A!.shape[1]!;
  return {
    own: { A: { data: Float64Array.from(A!.data, (v, k) => v * g!.data[Math.floor(k / into)]!), shape: A!.shape }, B: B! },
    alpha: sameScale(A!, o),
  };
};
/** The first b ranks, scaled by α/b. */
const cut: Make = ({ A, B }, o) => {
  const [[r, into], [out]] = [A!.shape, B!.shape] as unknown as readonly [readonly [number, number], readonly [number]];
  const b = o.inferenceRank ?? r;
  return {
    own: {
      A: { data: A!.data.slice(0, b * into), shape: [b, into] },
      B: { data: Float64Array.from({ length: out * b }, (_, k) => B!.data[Math.floor(k / b) * r + (k % b)]!), shape: [out, b] },
    },
    alpha: o.alpha,
  };
};

const HOW: Readonly<Record<string, Make>> = {
  loraPlus: asTheyAre,
  loraFa: asTheyAre,
  eva: asTheyAre,
  loraDrop: asTheyAre,
  loraDropout: asTheyAre,
  moslora: mixed('M'),
  loraXs: mixed('R'),
  sora: gated,
  dylora: cut,
};
/** Methods whose dropout is LoRA's: of the input. */
const DROPS_INPUT: ReadonlySet<string> = new Set(['loraPlus', 'loraFa', 'eva', 'loraDrop', 'moslora', 'loraXs', 'sora', 'dylora']);

const like = (method: string, make: Make): AnyFormat =>
  asAny<LoraConfig, typeof LORA_FIELDS>({
    ...plainLora,
    method,
    is: () => false,
    normal: (o, own) => {
      const made = make(own, o);
      return {
        rank: made.own.A!.shape[0]!,
        alpha: made.alpha,
        rankStabilized: o.rankStabilized ?? false,
        dropout: DROPS_INPUT.has(method) ? o.dropout : 0,
        init: 'kaiming',
      };
    },
    made: (own, o) => make(own, o).own,
  });

export const LORA_LIKE: readonly AnyFormat[] = Object.entries(HOW).map(([method, make]) => like(method, make));
