// Files of FRoD: what is trained, the basis of each kind of layer, and where its rotations stand.
//   frod_lambda_l [in], frod_lambda_s_values [n] at each layer;   base_model.frod_V.KIND [in, in], .frod_s_indices.KIND [2, n], .frod_s_size.KIND [2]
import { columnLengths, inverse, product, transposed } from '../../peft/linalg.ts';
import { type FrodConfig, frod } from '../../peft/reparameterized/frod.ts';
import { weightShape } from './adapter.ts';
import { share } from './config.ts';
import { BIAS, dropout, FAN, INIT, number, TARGETS, whole0, yes } from './fields.ts';
import { type AnyFormat, asAny, field, type Spot, same, type Table, Unsupported } from './format.ts';

const FIELDS = {
  ...TARGETS,
  ...FAN,
  ...BIAS,
  ...INIT,
  projection_prng_key: whole0(0),
  save_projection: yes(true),
  frod_dropout: dropout,
  sparse_rate: field(share.optional(), 0.01, true),
  regularization_alpha: number(1e-3),
  progressbar: yes(true),
  runtime_offload_base_weight: yes(false),
} as const;

/** What layers that share a basis are called: the last two parts of their names. */
function kind(module: string): string {
  const [before, parent, name] = [undefined, undefined, ...module.split('.')].slice(-3);
  if (parent === undefined || /^\d+$/.test(parent)) return name!;
  return before === 'attention' && parent === 'output' && name === 'dense' ? 'attention_output' : `${parent}_${name}`;
}
const keys = ({ place }: Pick<Spot<unknown>, 'place'>): { V: string; at: string; size: string } => {
  const name = kind(place!.module);
  return { V: `base_model.frod_V.${name}`, at: `base_model.frod_s_indices.${name}`, size: `base_model.frod_s_size.${name}` };
};
/** U and λ⁰ of a weight over a basis: W V⁻ᵀ, its columns' directions and lengths. */
function over(V: Table, spot: Spot<FrodConfig>): { readonly U: Table; readonly start: Table } {
  const [out, into] = weightShape(spot.place!);
  const b = product(spot.base('weight').data, transposed(inverse(V.data, into), into, into), out, into, into);
  const lengths = columnLengths(b, out, into);
  return {
    U: { data: b.map((v, k) => (lengths[k % into]! > 1e-12 ? v / lengths[k % into]! : 0)), shape: [out, into] },
    start: { data: lengths, shape: [into] },
  };
}

/** Read only: who loads the file there takes the weight apart in a basis of its own, which the one in the file must have been. */
export const FROD: AnyFormat = asAny<FrodConfig, typeof FIELDS>({
  peftType: 'FROD',
  method: 'frod',
  fields: FIELDS,
  on: 'linear',
  conv1d: true,
  options: (c) => {
    if (c.save_projection === false)
      throw new Unsupported(
        'save_projection is false: the basis is made with decompositions whose signs depend on the machine. Where the adapter was trained, set save_projection=True and save it again',
      );
    return () => ({ sparsity: c.sparse_rate ?? 0.01, damping: c.regularization_alpha ?? 1e-3, dropout: c.frod_dropout ?? 0 });
  },
  attach: (o) => frod(o),
  config: (at) => {
    same(at, 'sparsity', (o) => o.sparsity);
    throw new Unsupported(
      'savePeft: Hugging Face PEFT takes the weights apart again when it loads FRoD, in a basis whose signs and order are its own, so that a basis made here would be the wrong one. merge(model) makes plain weights; saveAdapter(model, folder) writes the adapter',
    );
  },
  decode: (get, spot) => {
    const of = keys(spot);
    const [V, at] = [get(of.V), get(of.at)];
    get(of.size);
    const values = get('frod_lambda_s_values');
    const n = values.data.length;
    const row = (k: 0 | 1): Table => ({ data: Int32Array.from(at.data.slice(k * n, (k + 1) * n)), shape: [n] });
    return { lambda: get('frod_lambda_l'), V, ...over(V, spot), ...(n === 0 ? {} : { values, row: row(0), col: row(1) }) };
  },
  encode: ({ lambda, values, V, row, col }, spot) => {
    const of = keys(spot);
    const into = V!.shape[0]!;
    const n = values?.data.length ?? 0;
    return {
      frod_lambda_l: lambda!,
      frod_lambda_s_values: values ?? { data: new Float32Array(0), shape: [0] },
      [of.V]: V!,
      [of.at]: { data: Float64Array.from([...(row?.data ?? []), ...(col?.data ?? [])]), shape: [2, n], dtype: 'I64' },
      [of.size]: { data: Float64Array.of(into, into), shape: [2], dtype: 'I64' },
    };
  },
});
