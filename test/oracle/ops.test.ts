// Ops and their gradients against PyTorch.
import { expect, test } from 'vitest';
import { float64 } from '../../core/engines/float64.ts';
import { grad } from '../../core/grad.ts';
import { attention, crossEntropy, keyBias, layerNorm, logSoftmax, rmsNorm, rope, ropeAngles, softmax } from '../../core/ops/fused.ts';
import { erf, gelu, geluTanh, silu, softplus } from '../../core/ops/map.ts';
import { logsumexp } from '../../core/ops/reduce.ts';
import { leaf, type Tensor } from '../../core/tensor.ts';
import { fixture, off, rows, type Table, tensor } from './fixtures.ts';

interface Case {
  readonly ins: Readonly<Record<string, Table>>;
  readonly fixed: { readonly mask?: number[][]; readonly targets?: number[][]; readonly positions?: number[] };
  readonly dy: Table;
  readonly y: Table;
  readonly grads: Readonly<Record<string, Table>>;
}
type Ins = Readonly<Record<string, Tensor>>;

const OURS: Readonly<Record<string, (i: Ins, fixed: Case['fixed']) => Tensor>> = {
  gelu: ({ x }) => gelu(x!),
  geluTanh: ({ x }) => geluTanh(x!),
  silu: ({ x }) => silu(x!),
  softplus: ({ x }) => softplus(x!),
  erf: ({ x }) => erf(x!),
  softmax: ({ x }) => softmax(x!),
  logSoftmax: ({ x }) => logSoftmax(x!),
  logsumexp: ({ x }) => logsumexp(x!, [0, 2]),
  layerNorm: ({ x, g, b }) => layerNorm(x!, g!, b!, 1e-5),
  rmsNorm: ({ x, g }) => rmsNorm(x!, g!, 1e-6),
  rope: ({ x }, { positions }) => rope(x!, ropeAngles(leaf(positions!, [positions!.length]), x!.shape.at(-1)!)),
  attention: ({ q, k, v }) => attention(q!, k!, v!),
  attentionCausal: ({ q, k, v }) => attention(q!, k!, v!, { causal: true }),
  attentionGrouped: ({ q, k, v }) => attention(q!, k!, v!, { causal: true }),
  attentionMasked: ({ q, k, v }, { mask }) => attention(q!, k!, v!, { bias: keyBias(rows(mask!)) }),
  crossEntropy: ({ x }, { targets }) => crossEntropy(x!, rows(targets!)),
};

/** erf is cut at |x| = 4, where it is 1.5e-8 from ±1 (core/ops/map.ts); gelu multiplies that by up to 9/2. */
const TOLERANCE = 1e-7;

const cases = Object.entries(fixture<Record<string, Case>>('ops')).filter(([name]) => name !== 'about');
test('every case of the fixture is compared', () => expect(cases.map(([name]) => name).sort()).toEqual(Object.keys(OURS).sort()));

test.each(cases)('%s', async (name, c) => {
  const engine = float64();
  const ins = Object.fromEntries(Object.entries(c.ins).map(([k, t]) => [k, tensor(t)]));
  const y = OURS[name]!(ins, c.fixed);
  expect(off(await engine.read(y), c.y)).toBeLessThan(TOLERANCE);
  const names = Object.keys(ins);
  const grads = grad(
    y.mul(tensor(c.dy)).sum(),
    names.map((k) => ins[k]!),
  );
  for (const [k, g] of grads.entries()) expect(off(await engine.read(g), c.grads[names[k]!]!), `∂/∂${names[k]}`).toBeLessThan(TOLERANCE);
});
