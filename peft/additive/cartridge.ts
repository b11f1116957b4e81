// Cartridge: a small cache of keys and values, trained to stand for a long text; its first rows stay as they are, as a sink of attention.
//   attend(q, [P_k; k], [P_v; v]),   P = [frozen f rows; trained p − f rows],   usually the first p keys and values of the text itself at the start
// Eyuboglu et al. 2025, arXiv 2506.06266, §3. How it is trained: selfStudy (selfStudy.ts). Cartridges side by side: cartridgesJoined.ts.
import { concat } from '../../core/ops/move.ts';
import type { Numbers } from '../../core/plan.ts';
import { leaf, param, type Tensor } from '../../core/tensor.ts';
import { defineMethod } from '../attach.ts';
import { idsFit, lengthFits } from '../check.ts';
import { PLACES, type Where } from '../site.ts';
import { prefixed, tableWidths } from './prefixAttention.ts';
import { fromText } from './prefixFromText.ts';

export interface CartridgeConfig {
  readonly length: number; // p
  readonly frozen: number; // f
  readonly init: 'normal' | { readonly ids: readonly number[] }; // N(0, 1), or the keys and values of a text's first p tokens (p or more ids)
  readonly attend: Where; // which attention layers
}
/** A table of keys and one of values for each attention layer, in turn: [f, Hk·D] and [p − f, Hk·D]. */
export type Cartridge = { readonly frozen: readonly Tensor[]; readonly table: readonly Tensor[] };

/** The whole tables, [p, Hk·D] each. */
const whole = ({ frozen, table }: Cartridge): Tensor[] => table.map((t, i) => (frozen[i] === undefined ? t : concat([frozen[i], t], 0)));

/** One frozen row as the paper advises. A text needs `prepare`. Count: 2L(p − f)HkD trained; 2LpHkD stored. */
export const cartridge = defineMethod<'trunk', CartridgeConfig, Cartridge, null, readonly (readonly Numbers[])[]>({
  name: 'cartridge',
  family: 'additive',
  paper: 'arXiv:2506.06266',
  at: 'trunk',
  defaults: { length: 20, frozen: 1, init: 'normal', attend: 'attend', where: 'trunk' },
  takes: { init: ['normal', Object], attend: PLACES },
  check: (site, { length, frozen, init, attend }) => {
    lengthFits('cartridge', site, length);
    if (!Number.isInteger(frozen) || frozen < 0 || frozen >= length)
      throw new RangeError(`cartridge: frozen ${frozen} must be a whole number below the length ${length}, so that some rows are trained`);
    tableWidths(site, attend);
    if (typeof init !== 'object') return;
    idsFit('cartridge', site, init.ids);
    if (init.ids.length < length)
      throw new RangeError(
        `cartridge: a text of ${init.ids.length} tokens has no first ${length}; give a longer text, or a shorter length`,
      );
  },
  prepareIf: ({ init }) => typeof init === 'object',
  prepare: async (sites, c, { engine }) => fromText(sites, (c.init as { readonly ids: readonly number[] }).ids, c.attend, engine),
  init: (site, { length: p, frozen: f, attend }, r, { prepared }) => {
    const tables = tableWidths(site, attend).map((w, i) => ({
      w,
      rows: prepared?.[site.index]?.[i] ?? r.split(`table ${i}`).normal(p * w),
    }));
    return {
      train: { table: tables.map(({ w, rows }) => param(rows.slice(f * w, p * w), [p - f, w])) },
      fixed: { frozen: f === 0 ? [] : tables.map(({ w, rows }) => leaf(rows.slice(0, f * w), [f, w])) },
    };
  },
  around: (call, t, c, site) => prefixed(call, site, c, () => whole(t)),
  count: (sites, { length, frozen, attend }) => {
    const row = sites.reduce((n, s) => n + tableWidths(s, attend).reduce((a, b) => a + b, 0), 0);
    return { train: (length - frozen) * row, stored: length * row };
  },
  startsAsBase: () => 'no',
});
