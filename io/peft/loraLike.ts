// Methods of ours that leave an ordinary LoRA behind when training is over: written as one, and read back as `lora`.
import type { Data } from '../../core/tensor.ts';
import { inverse, product } from '../../peft/linalg.ts';
import type { LoraConfig } from '../../peft/reparameterized/lora.ts';
import { type AnyFormat, asAny, type Table, type Tables } from './format.ts';
import { type LORA_FIELDS, plainLora } from './lora.ts';

/** Options of any of them: what is not LoRA's is for training, and has no place in the file. */
type Like = Partial<LoraConfig> & {
  readonly rank: number;
  readonly alpha: number;
  readonly inferenceRank?: number | null;
  readonly neumann?: number;
};
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
/** PSOFT's R − I goes into B, R = diag(β) C diag(α): its own file has R alone, in a basis whose signs depend on who computed it. */
const rotated: Make = ({ A, B, Q, before, after }, { rank: r, alpha, neumann: terms = 0 }) => {
  const eye = Float64Array.from({ length: r * r }, (_, k) => (k % (r + 1) === 0 ? 1 : 0));
  const q = new Float64Array(r * r); // the strict upper triangle, row by row
  let next = 0;
  for (let i = 0; i < r; i++)
    for (let j = i + 1; j < r; j++) {
      q[i * r + j] = Q!.data[next++]!;
      q[j * r + i] = -q[i * r + j]!;
    }
  const added = (a: Data, b: Data, by: number): Float64Array => Float64Array.from(a, (v, k) => v + by * b[k]!);
  let c = added(eye, q, 2);
  if (terms === 0) c = product(added(eye, q, 1), inverse(added(eye, q, -1), r), r, r, r);
  else {
    let power: Data = q;
    for (let k = 2; k < terms; k++) {
      power = product(power, q, r, r, r);
      c = added(c, power, k === terms - 1 ? 1 : 2);
    }
  }
  const change = c.map((v, k) => v * after!.data[Math.floor(k / r)]! * before!.data[k % r]! - eye[k]!);
  const out = B!.shape[0]!;
  return { own: { A: A!, B: { data: product(B!.data, change, out, r, r), shape: [out, r] } }, alpha };
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
  psoft: rotated,
};
/** Methods whose dropout is LoRA's: of the input. */
const DROPS_INPUT: ReadonlySet<string> = new Set(['loraPlus', 'loraFa', 'eva', 'loraDrop', 'moslora', 'loraXs', 'sora', 'dylora', 'psoft']);

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
