// Files of methods that rotate a layer's input: OFT, BOFT, HRA; why PSOFT's cannot be read.
import { z } from 'zod';
import { type BoftConfig, boft } from '../../peft/reparameterized/boft.ts';
import { hra } from '../../peft/reparameterized/hra.ts';
import { type OftConfig, oft } from '../../peft/reparameterized/oft.ts';
import { type PsoftConfig, psoft } from '../../peft/reparameterized/psoft.ts';
import type { Place } from '../names.ts';
import { weightShape } from './adapter.ts';
import { BIAS, count1, dropout, EXCLUDE, FAN, INIT, number, TARGETS, whole0, yes } from './fields.ts';
import { type AnyFormat, asAny, field, renamed, same, Unsupported } from './format.ts';

const inputs = (place: Place | null): number => weightShape(place!)[1];

const OFT_FIELDS = {
  ...TARGETS,
  ...EXCLUDE,
  ...FAN,
  ...BIAS,
  ...INIT,
  r: whole0(0),
  oft_block_size: whole0(32),
  module_dropout: dropout,
  coft: yes(false),
  eps: number(6e-5),
  block_share: yes(false),
  use_cayley_neumann: yes(true),
  num_cayley_neumann_terms: whole0(5),
} as const;
/** The divisor of `size` that is nearest to `wanted`, the lower of two; the whole where `wanted` reaches it. */
export function nearestDivisor(size: number, wanted: number): number {
  if (wanted >= size) return size;
  const [up, down] = [1, -1].map((step) => {
    let n = wanted;
    while (n > 1 && n < size && size % n !== 0) n += step;
    return n;
  }) as [number, number];
  return wanted - down <= up - wanted ? down : up;
}
/** oft_R.weight [blocks, b(b − 1)/2], or [1, …] shared. Block sizes that do not divide a layer's input are moved to the nearest that does. */
const OFT = asAny<OftConfig, typeof OFT_FIELDS>({
  peftType: 'OFT',
  method: 'oft',
  fields: OFT_FIELDS,
  on: 'linear',
  conv1d: false,
  options: (c) => {
    const [blocks, size] = [c.r ?? 0, c.oft_block_size ?? 32];
    if ((blocks === 0) === (size === 0))
      throw new Unsupported(`exactly one of r (${blocks}) and oft_block_size (${size}) must be other than 0`);
    return (place) => ({
      blockSize: blocks === 0 ? nearestDivisor(inputs(place), size) : inputs(place) / nearestDivisor(inputs(place), blocks),
      share: c.block_share ?? false,
      neumann: (c.use_cayley_neumann ?? true) ? (c.num_cayley_neumann_terms ?? 5) : 0,
      epsilon: c.coft === true ? (c.eps ?? 6e-5) : null,
      dropout: c.module_dropout ?? 0,
    });
  },
  attach: (o) => oft(o),
  config: (at) => {
    const [neumann, epsilon] = [same(at, 'neumann', (o) => o.neumann), same(at, 'epsilon', (o) => o.epsilon)];
    return {
      r: 0,
      oft_block_size: same(at, 'blockSize', (o) => o.blockSize),
      block_share: same(at, 'share', (o) => o.share),
      use_cayley_neumann: neumann !== 0,
      ...(neumann === 0 ? {} : { num_cayley_neumann_terms: neumann }),
      ...(epsilon === null ? {} : { coft: true, eps: epsilon }),
      module_dropout: same(at, 'dropout', (o) => o.dropout),
    };
  },
  ...renamed({ Q: 'oft_R.weight' }),
});

const BOFT_FIELDS = {
  ...TARGETS,
  ...EXCLUDE,
  ...FAN,
  ...BIAS,
  ...INIT,
  boft_block_size: whole0(4),
  boft_block_num: whole0(0),
  boft_n_butterfly_factor: count1(1),
  boft_dropout: dropout,
} as const;
/** boft_R [factors, blocks, b, b], boft_s [out, 1]. */
const BOFT = asAny<BoftConfig, typeof BOFT_FIELDS>({
  peftType: 'BOFT',
  method: 'boft',
  fields: BOFT_FIELDS,
  on: 'linear',
  conv1d: false,
  options: (c) => {
    const [blocks, size] = [c.boft_block_num ?? 0, c.boft_block_size ?? 4];
    if ((blocks === 0) === (size === 0))
      throw new Unsupported(`exactly one of boft_block_num (${blocks}) and boft_block_size (${size}) must be other than 0`);
    return (place) => ({
      blockSize: blocks === 0 ? size : inputs(place) / blocks,
      factors: c.boft_n_butterfly_factor ?? 1,
      dropout: c.boft_dropout ?? 0,
    });
  },
  attach: (o) => boft(o),
  config: (at) => ({
    boft_block_size: same(at, 'blockSize', (o) => o.blockSize),
    boft_block_num: 0,
    boft_n_butterfly_factor: same(at, 'factors', (o) => o.factors),
    boft_dropout: same(at, 'dropout', (o) => o.dropout),
  }),
  decode: (get) => {
    const s = get('boft_s');
    return { X: get('boft_R'), s: { data: s.data, shape: [s.data.length] } };
  },
  encode: ({ X, s }) => ({ boft_R: X!, boft_s: { data: s!.data, shape: [s!.data.length, 1] } }),
});

const HRA_FIELDS = { ...TARGETS, ...EXCLUDE, ...BIAS, ...INIT, r: count1(8), apply_GS: yes(false) } as const;
const HRA = asAny<{ readonly rank: number }, typeof HRA_FIELDS>({
  peftType: 'HRA',
  method: 'hra',
  fields: HRA_FIELDS,
  on: 'linear',
  conv1d: false,
  options: (c) => {
    if (c.apply_GS === true) throw new Unsupported('apply_GS is true: the variant whose mirrors are made orthogonal is not there');
    return () => ({ rank: c.r ?? 8 });
  },
  attach: (o) => hra(o),
  config: (at) => ({ r: same(at, 'rank', (o) => o.rank) }),
  ...renamed({ U: 'hra_u' }),
});

const PSOFT_FIELDS = {
  ...TARGETS,
  ...EXCLUDE,
  ...FAN,
  ...INIT,
  r: count1(32),
  psoft_alpha: number(32, false),
  psoft_dropout: dropout,
  ab_svd_init: field(z.string().optional(), 'psoft_init'),
  psoft_svd: field(z.string().optional(), 'full'),
  psoft_svd_lowrank_niter: whole0(10),
  random_seed: whole0(0),
  psoft_orth: yes(true),
  psoft_mag_b: yes(true),
  psoft_mag_a: yes(true),
  use_cayley_neumann: yes(false),
  num_cayley_neumann_terms: whole0(5),
  cayley_neumann_eps: field(z.number().nullable().optional(), null),
} as const;
/**
 * psoft_R.weight [r(r − 1)/2], psoft_R.vector_a, vector_b [r]: a rotation in the basis of the weight's singular vectors, each of which may be turned
 * round together with its twin. Which way they point follows from the program that computed them, and no file says it. Ours is written as a LoRA.
 */
const PSOFT = asAny<PsoftConfig, typeof PSOFT_FIELDS>({
  peftType: 'PSOFT',
  method: 'psoft',
  fields: PSOFT_FIELDS,
  on: 'linear',
  conv1d: true,
  options: (c) => {
    throw new Unsupported(
      `an adapter of PSOFT turns singular vectors of the weight, whose signs are those of the routine that computed them where it was trained, and are not in the file. There, write it as a LoRA, which is exact: from peft import save_as_lora; save_as_lora(folder, model, rank=${c.r ?? 32})`,
    );
  },
  attach: (o) => psoft(o),
  config: () => ({}),
  ...renamed({ Q: 'psoft_R.weight', before: 'psoft_R.vector_a', after: 'psoft_R.vector_b' }),
});

export const ROTATIONS: readonly AnyFormat[] = [OFT, BOFT, HRA, PSOFT];
