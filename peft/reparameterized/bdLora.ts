// BD-LoRA: LoRA with one factor block-diagonal, so that a layer cut over several devices needs no exchange for it.
//   y = W x + b + s·B A drop(x);   layers cut by their input (o, down): A = blockdiag(A₁ … A_n), A_i ∈ ℝ^{r/n × in/n}
//   layers cut by their output (q, k, v, gate, up): B = blockdiag(B₁ … B_n), B_i ∈ ℝ^{out/n × r/n}
// As built in PEFT (`use_bdlora`). A as LoRA's, by the block's own input size; B = 0.
import { param, type Tensor } from '../../core/tensor.ts';
import { defineMethod } from '../attach.ts';
import { matches, type Site } from '../site.ts';
import { identity } from '../transforms.ts';
import { checkUpdate, dropped, factors, scaling, type UpdateConfig } from './lora.ts';

export interface BdLoraConfig extends UpdateConfig {
  readonly blocks: number; // n, divides the rank and the side that is cut
  readonly byInput: readonly string[]; // names of layers whose A is block-diagonal; B is, in all others
}
type BdLora = { A: Tensor; B: Tensor }; // one of them [n, rows/n, columns/n]
const cutInput = ({ path }: Site<'linear'>, { byInput }: BdLoraConfig): boolean => byInput.length > 0 && matches(byInput, path);

/** x times a factor's transpose: block by block where it has blocks. [.., columns] → [.., rows] */
function times(x: Tensor, f: Tensor): Tensor {
  if (f.shape.length === 2) return x.matmul(f.T);
  const blocks = x.reshape(-1, f.shape[0]!, f.shape[2]!).permute(1, 0, 2).matmul(f.T); // [n, N, rows/n]
  return blocks.permute(1, 0, 2).reshape(...x.shape.slice(0, -1), -1);
}

/** Count: r(in + out/n) or r(in/n + out) for each layer. */
export const bdLora = defineMethod<'linear', BdLoraConfig, BdLora>({
  name: 'bdLora',
  family: 'reparameterized',
  paper: 'https://huggingface.co/docs/peft/developer_guides/lora',
  at: 'linear',
  defaults: { rank: 8, alpha: 8, rankStabilized: false, dropout: 0, blocks: 2, byInput: ['o', 'down'], where: ['q', 'v'] },
  check: (site, c) => {
    checkUpdate('bdLora')(site, c);
    const side = cutInput(site, c) ? site.shape[1]! : site.shape[0]!;
    if (!Number.isInteger(c.blocks) || c.blocks < 1 || c.rank % c.blocks !== 0 || side % c.blocks !== 0)
      throw new RangeError(
        `bdLora: blocks ${c.blocks} must divide the rank ${c.rank} and the cut side ${side} of [${site.shape.join(', ')}] at ${site.path}`,
      );
  },
  init: (site, { blocks: n, ...c }, r) => {
    const [out, into] = site.shape as [number, number];
    const { rank } = c;
    if (!cutInput(site, { blocks: n, ...c }))
      return {
        train: { ...factors(site, { rank, init: 'kaiming' }, r), B: param(new Float32Array((out * rank) / n), [n, out / n, rank / n]) },
      };
    const a = Math.sqrt(n / into); // Kaiming over a block's inputs
    return {
      train: {
        A: param(r.uniform((rank * into) / n, -a, a), [n, rank / n, into / n]),
        B: param(new Float32Array(out * rank), [out, rank]),
      },
    };
  },
  around:
    (call, { A, B }, c, site) =>
    (x, ctx) =>
      call(x, ctx).add(times(times(dropped(x, c, site, ctx), A), B).mul(scaling(c))),
  fold: ({ weight, bias }, { A, B }, c) => ({ weight: weight.add(times(times(identity(weight.shape[1]!), A), B).T.mul(scaling(c))), bias }),
  count: (sites, c) => {
    const train = sites.reduce((sum, s) => {
      const [out, into] = s.shape as [number, number];
      return sum + c.rank * (cutInput(s, c) ? into / c.blocks + out : into + out / c.blocks);
    }, 0);
    return { train, stored: train };
  },
  startsAsBase: () => 'close', // adds an exact zero
});
