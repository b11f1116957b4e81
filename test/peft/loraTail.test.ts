// Riemannian LoRA, VeLoRA, MonteCLoRA, AdaMSS and FRoD against their equations in plain arithmetic.
import { Matrix as Dense, inverse } from 'ml-matrix';
import { describe, expect, it } from 'vitest';
import { account } from '../../core/account.ts';
import { float64 } from '../../core/engines/float64.ts';
import { grad } from '../../core/grad.ts';
import type { Numbers } from '../../core/plan.ts';
import { type Data, leaf, type Param, paramOf, stateOf, type Tensor } from '../../core/tensor.ts';
import { context, type Draw } from '../../nn/context.ts';
import { layers, tensors, trainable } from '../../nn/tree.ts';
import { merge } from '../../peft/merge.ts';
import { type Adamss, adamss } from '../../peft/reparameterized/adamss.ts';
import { type AdamssBudget, sharedSubspaces } from '../../peft/reparameterized/adamssBudget.ts';
import { importance } from '../../peft/reparameterized/adamssImportance.ts';
import { frod } from '../../peft/reparameterized/frod.ts';
import { digamma, logGamma } from '../../peft/reparameterized/gamma.ts';
import { lora } from '../../peft/reparameterized/lora.ts';
import { monteclora } from '../../peft/reparameterized/monteclora.ts';
import { riemannianLora } from '../../peft/reparameterized/riemannianLora.ts';
import { velora } from '../../peft/reparameterized/velora.ts';
import { gradients } from '../laws/graph.ts';
import { gpt2Network, llamaNetwork, perturb, run } from '../laws/models.ts';
import { apart, flat, layerAt, own, random, rowsOf, softmax } from './naive.ts';
import { fromDense, product } from './structured.ts';

const engine = float64();
const net = gpt2Network(3);
const { base } = net;
const Q = 'trunk.blocks.1.attn.q';
const numbers = async (t: Tensor): Promise<number[]> => Array.from(await engine.read(t));
/** The parameter of a tensor with other numbers. */
const valued = (t: Tensor, f: (v: number) => number): Tensor => stateOf({ ...paramOf(t)!, value: Float64Array.from(paramOf(t)!.value, f) });
const transposed = (m: readonly (readonly number[])[]): number[][] => m[0]!.map((_, j) => m.map((row) => row[j]!));

describe('riemannianLora', () => {
  const hook = (A: Tensor, B: Tensor, gA: Tensor, gB: Tensor, damping: number): [Tensor, Tensor] => {
    const model = riemannianLora({ rank: 3, damping, where: 'q' })(base);
    const at = layerAt(model, 'linear', Q);
    const l = at.with({ ...at.fields, riemannianLora: { A, B } });
    const after = l.attached!.hooks.afterGrad!(
      new Map([
        [paramOf(A)!, gA],
        [paramOf(B)!, gB],
      ]),
    ); // prettier-ignore
    return [after.get(paramOf(A)!)!, after.get(paramOf(B)!)!];
  };
  const model = perturb(riemannianLora({ rank: 3, where: 'q' })(base), 4);
  const tensor = (name: string): Tensor => [...tensors(model)].find(({ path }) => path === `${Q}.riemannianLora.${name}`)!.tensor;
  const [gA, gB] = [random(1, [3, 8]), random(2, [8, 3])];

  it('multiplies gradients by the damped inverse of the other factor', async () => {
    const [A, B] = [tensor('A'), tensor('B')];
    const got = hook(A, B, gA, gB, 0.05);
    const [a, b] = [new Dense(rowsOf(await engine.read(A), 8)), new Dense(rowsOf(await engine.read(B), 3))];
    const damped = (m: Dense): Dense => inverse(m.add(Dense.eye(3, 3).mul(0.05)));
    const wantA = damped(b.transpose().mmul(b)).mmul(new Dense(rowsOf(await engine.read(gA), 8)));
    const wantB = new Dense(rowsOf(await engine.read(gB), 3)).mmul(damped(a.mmul(a.transpose())));
    expect(apart(await numbers(got[0]), wantA.to1DArray())).toBeLessThan(1e-11);
    expect(apart(await numbers(got[1]), wantB.to1DArray())).toBeLessThan(1e-11);
  });

  it('steps the product alike, however it is split between the factors', async () => {
    const [A, B] = [tensor('A'), tensor('B')];
    const [scaledA, scaledB] = [valued(A, (v) => v * 4), valued(B, (v) => v / 4)];
    const change = (a: Tensor, b: Tensor, da: Tensor, db: Tensor): Promise<number[]> => {
      const [ha, hb] = hook(a, b, da, db, 1e-13);
      return numbers(hb.matmul(a).add(b.matmul(ha))); // first order of (B + dB)(A + dA)
    };
    const one = await change(A, B, gA, gB);
    const other = await change(scaledA, scaledB, gA.mul(0.25), gB.mul(4)); // gradients of the same loss
    expect(apart(one, other)).toBeLessThan(1e-9);
  });
  it('refuses to go without damping', () => expect(() => riemannianLora({ damping: 0, where: 'q' })(base)).toThrow(/damping 0/));
});

describe('velora', () => {
  const options = { rank: 2, alpha: 3, where: 'q' };
  const x = random(1, [2, 3, 8]);
  const dy = random(2, [2, 3, 8]);
  const parts = (groups: number, direction: 'average' | 'random' = 'average') => {
    const model = perturb(velora({ ...options, groups, direction })(base), 4);
    const t = (name: string): Tensor => [...tensors(model)].find(({ path }) => path === `${Q}.velora.${name}`)!.tensor;
    const y = layerAt(model, 'linear', Q)(x, context(3));
    return { model, t, y, grads: grad(y.mul(dy).sum(), [t('A'), t('B'), x]) };
  };
  it('computes what LoRA computes, and its gradients for B and x; for A from the compressed input', async () => {
    for (const direction of ['average', 'random'] as const) {
      const { t, y, grads } = parts(3, direction);
      const plain = layerAt(base, 'linear', Q)(x, context(3)).add(x.matmul(t('A').T).matmul(t('B').T).mul(1.5));
      expect(await numbers(y)).toEqual(await numbers(plain));
      const exact = grad(plain.mul(dy).sum(), [t('A'), t('B'), x]);
      expect(apart(await numbers(grads[1]!), await numbers(exact[1]!))).toBeLessThan(1e-14);
      expect(apart(await numbers(grads[2]!), await numbers(exact[2]!))).toBeLessThan(1e-14);
      const pieces = rowsOf(await engine.read(x), 8).map((row) => rowsOf([...row, 0], 3)); // 3 groups of 3, one zero
      const mean = [0, 1, 2].map((d) => pieces.flat().reduce((s, p) => s + p[d]!, 0));
      const v = direction === 'average' ? mean.map((m) => m / Math.hypot(...mean)) : await numbers(t('v'));
      const hat = pieces.map((groups) => groups.flatMap((p) => v.map((w) => w * p.reduce((s, a, d) => s + a * v[d]!, 0))).slice(0, 8));
      const inner = product(rowsOf(await engine.read(dy), 8), rowsOf(await engine.read(t('B')), 2)).map((r) => r.map((n) => n * 1.5));
      expect(apart(await numbers(grads[0]!), flat(product(transposed(inner), hat)))).toBeLessThan(1e-13);
    }
  });
  it('with a group for each feature it is LoRA', async () => {
    const { t, y, grads } = parts(8);
    const plain = layerAt(base, 'linear', Q)(x, context(3)).add(x.matmul(t('A').T).matmul(t('B').T).mul(1.5));
    expect(apart(await numbers(grads[0]!), await numbers(grad(plain.mul(dy).sum(), [t('A')])[0]!))).toBeLessThan(1e-13);
    expect(y.shape).toEqual([2, 3, 8]);
  });
  it('keeps less for backward than LoRA', () => {
    const saved = (method: typeof lora | typeof velora, extra: object): number => {
      const model = perturb(method({ rank: 1, where: ['q', 'v'], ...extra } as never)(base), 4);
      const { loss } = run(net, model);
      return account([loss, ...gradients(loss, model)]).phases.forward.saved;
    };
    expect(saved(velora, { groups: 2 })).toBeLessThan(saved(lora, {}));
  });
  it('refuses more groups than features', () => expect(() => velora({ rank: 2, groups: 9, where: 'q' })(base)).toThrow(/9 groups/));
});

describe('monteclora', () => {
  it('log Γ and ψ', async () => {
    const x = leaf(Float64Array.of(1, 2.5, 30, 0.1, 1.1), [5]);
    const [g, d] = [await numbers(logGamma(x)), await numbers(digamma(x))];
    const euler = 0.5772156649015329;
    const below30 = Array.from({ length: 29 }, (_, k) => k + 1);
    for (const [k, want] of [0, Math.log(0.75 * Math.sqrt(Math.PI)), below30.reduce((s, n) => s + Math.log(n), 0)].entries())
      expect(g[k]).toBeCloseTo(want, 9);
    for (const [k, want] of [-euler, 8 / 3 - euler - 2 * Math.log(2), below30.reduce((s, n) => s + 1 / n, -euler)].entries())
      expect(d[k]).toBeCloseTo(want, 9);
    expect(g[4]! - g[3]!).toBeCloseTo(Math.log(0.1), 9); // Γ(x + 1) = x Γ(x)
    expect(d[4]! - d[3]!).toBeCloseTo(10, 9);
    expect(apart(await numbers(grad(logGamma(x).sum(), [x])[0]!), d)).toBeLessThan(1e-9);
  });

  const options = { rank: 2, alpha: 3, samples: 3, sampleScale: 0.2, klWeight: 0.1, entropy: true, where: 'q' };
  const model = perturb(monteclora(options)(base), 4);
  const drawn: Record<string, Tensor> = { z: random(1, [3, 2, 8]), chi: random(2, [2, 2]), tilt: random(3, [3]) };
  const draw: Draw = { bernoulli: () => null, uniform: () => null, normal: (name) => drawn[name.split('.')[1]!]! };

  it('disturbs A by a mixture of Gaussians, and asks for the divergences', async () => {
    const p = await own(engine, model, `${Q}.monteclora`);
    const [A, B, rho, omega] = [p.A!, p.B!, p.rho![0]!, p.omega![0]!];
    const [z, chi, tilt] = [rowsOf(await engine.read(drawn.z!), 16), rowsOf(await engine.read(drawn.chi!), 2), await numbers(drawn.tilt!)];
    const variance = rho.map((v, i) => Math.max(Math.exp(2 * v) * chi[i]!.reduce((s, c) => s + c * c, 0), 1e-3));
    const alpha = omega.map(Math.exp);
    const spread = alpha.map((a) => Math.max((1 / a) * (1 - 2 / 3) + alpha.reduce((s, b) => s + 1 / b, 0) / 9, 1e-6) + 1e-6);
    const meanLog = omega.reduce((s, v) => s + v, 0) / 3;
    const pi = softmax(omega.map((o, e) => o - meanLog + Math.sqrt(spread[e]!) * tilt[e]!));
    const disturbed = A.map((row, i) =>
      row.map((v, j) => v + 0.2 * Math.sqrt(variance[i]!) * pi.reduce((s, w, e) => s + w * z[e]![i * 8 + j]!, 0)),
    );
    const x = random(5, [1, 4, 8]);
    const aux: Tensor[] = [];
    const y = layerAt(model, 'linear', Q)(x, context(4, { draw, aux: (_, loss) => aux.push(loss) }));
    const plain = await numbers(layerAt(base, 'linear', Q)(x, context(4)));
    const change = product(product(rowsOf(await engine.read(x), 8), transposed(disturbed)), transposed(B));
    expect(
      apart(
        await numbers(y),
        flat(change).map((v, k) => plain[k]! + 1.5 * v),
      ),
    ).toBeLessThan(1e-13);
    const gaussians = 0.5 * 3 * (variance.reduce((s, v) => s + v - Math.log(v), 0) - 2);
    expect((await numbers(aux[0]!))[0]).toBeCloseTo((0.1 * gaussians + pi.reduce((s, w) => s + w * w, 0)) / 2, 12); // a mean over two layers
  });

  it('has the Dirichlet divergence right on request, and as PEFT has it by default', async () => {
    const gammas = async (v: readonly number[]): Promise<number[]> => numbers(logGamma(leaf(Float64Array.from(v), [v.length])));
    const penalty = async (divergence: 'peft' | 'exact'): Promise<number> => {
      const m = perturb(monteclora({ ...options, divergence })(base), 4);
      const hooks = [...layers(m)].find(({ path, layer }) => path === Q && layer.attached !== null)!.layer.attached!.hooks;
      return (await numbers(hooks.penalty!()))[0]!;
    };
    const p = await own(engine, model, `${Q}.monteclora`);
    const alpha = p.omega![0]!.map(Math.exp);
    const parts = (await gammas(alpha)).reduce((s, v) => s + v, 0) - 3 * (await gammas([0.1]))[0]!;
    expect((await penalty('peft')) - (await penalty('exact'))).toBeCloseTo((0.1 / 2) * 2 * parts, 10);
    // KL(Dir(1, 1) ‖ Dir(2, 2)) = log Γ(2) − log Γ(4) + 2 log Γ(2) − (ψ(1) − ψ(2))·2 = −log 6 + 2: the exact form, in two parts
    const flatOnes = monteclora({ ...options, samples: 2, prior: 2, klWeight: 1, divergence: 'exact' })(base);
    const at = layerAt(flatOnes, 'linear', Q);
    const l = at.with({
      ...at.fields,
      monteclora: Object.fromEntries([...tensors(at.fields.monteclora!)].map(({ path, tensor }) => [path, valued(tensor, () => 0)])),
    });
    expect((await numbers(l.attached!.hooks.penalty!()))[0]! * 2).toBeCloseTo(2 - Math.log(6), 9); // ρ = 0 has divergence 0
  });
});

describe('adamss', async () => {
  const options = { directions: 4, subspaces: 3, rank: 2, where: ['q', 'down'] };
  const method = await adamss(options).prepare(base, { engine });
  const model = perturb(method(base), 2, 0.5);
  for (const site of [Q, 'trunk.blocks.0.mlp.down'])
    it(`W' = W + B A V with each cluster's rows in their places at ${site}; the bias too`, async () => {
      const p = await own(engine, model, `${site}.adamss`);
      const place = p.place![0]!;
      expect([...place].sort((a, b) => a - b)).toEqual(place.map((_, k) => k));
      const clusters = Object.keys(p).filter((k) => k.startsWith('A.')).length;
      const d = Array.from({ length: clusters }, (_, k) => product(p[`B.${k}`]!, p[`A.${k}`]!)).flat();
      const rows = place.map((at) => d[at]!);
      const merged = await own(engine, merge(model), site);
      const before = await own(engine, base, site);
      const change = product(rows, p.V!);
      expect(apart(flat(merged.weight!), flat(before.weight!.map((row, o) => row.map((v, i) => v + change[o]![i]!))))).toBeLessThan(1e-13);
      const shift = rows.map((row) => row.reduce((s, v, k) => s + v * p.shift![0]![k]!, 0));
      expect(
        apart(
          merged.bias![0]!,
          before.bias![0]!.map((v, o) => v + shift[o]!),
        ),
      ).toBeLessThan(1e-13);
    });

  it('starts from directions that are orthonormal, in V and in every A; has no bias column without a bias', async () => {
    const fresh = method(base);
    const p = await own(engine, fresh, `${Q}.adamss`);
    const gram = (m: number[][]): number[] => flat(product(m, transposed(m)));
    const one = (n: number): number[] => Array.from({ length: n * n }, (_, k) => (k % (n + 1) === 0 ? 1 : 0));
    expect(apart(gram(p.V!.map((row, k) => [...row, p.shift![0]![k]!])), one(4))).toBeLessThan(1e-12);
    expect(apart(gram(p['A.0']!), one(p['A.0']!.length))).toBeLessThan(1e-12);
    const { base: llama } = llamaNetwork(3);
    const bare = (await adamss(options).prepare(llama, { engine }))(llama);
    expect(Object.keys(await own(engine, bare, `${Q}.adamss`))).not.toContain('shift');
    const few = (await adamss({ ...options, threshold: 0.99 }).prepare(base, { engine }))(base);
    expect((await own(engine, few, `${Q}.adamss`))['A.0']!.length).toBe(1);
  });

  it('stops clusters of least importance where they are, and never lets them go on', async () => {
    const budget: AdamssBudget = { target: 2, from: 2, to: 6, interval: 2, beta1: 0.5, beta2: 0.5, exponent: 1 };
    const p: Adamss = ownAdamss((await adamss({ ...options, budget }).prepare(base, { engine }))(base));
    const values = new Map<Param, Numbers>(
      [...p.average, ...p.spread, p.on].map((t) => [paramOf(t)!, paramOf(t)!.value.slice() as Numbers]),
    );
    const controller = sharedSubspaces([{ own: p }], budget);
    const write = async (step: number): Promise<void> => {
      const now = await controller.after({ step, total: 9 }, async (ps) => new Map(ps.map((q) => [q, values.get(q)!])));
      for (const [q, v] of now ?? new Map<Param, Data>()) values.set(q, v as Numbers);
    };
    for (const [k, t] of [...p.average, ...p.spread].entries()) values.get(paramOf(t)!)!.fill(1 + (k % p.A.length)); // later clusters matter more
    await write(4); // wanted: 2 + (3 − 2)/2 = 2 of 3, of which the one not above the 2nd best stops too
    expect([...values.get(paramOf(p.on)!)!]).toEqual([0, 0, 1]);
    expect([...values.get(paramOf(p.average[2]!)!)!].every((v) => v === 0)).toBe(true);
    for (const [k, t] of [...p.average, ...p.spread].entries()) values.get(paramOf(t)!)!.fill(5 - (k % p.A.length));
    await write(6);
    expect([...values.get(paramOf(p.on)!)!]).toEqual([0, 0, 1]);
    const off = { ...p, on: leaf([0, 1, 1], [3]) };
    const w = paramOf(p.A[0]!)!;
    const moved = importance(off, budget, {
      grad: new Map(),
      prev: (q) => leaf(q.value, q.shape),
      next: (q) =>
        leaf(
          Float64Array.from(q.value, (v) => v + 1),
          q.shape,
        ),
    });
    expect(await numbers(moved.get(w)!)).toEqual(Array.from(w.value));
  });
  it('refuses an impossible budget', () =>
    expect(() =>
      adamss({ budget: { target: 2, from: 6, to: 6, interval: 1, beta1: 0.5, beta2: 0.5, exponent: 1 }, where: 'q' })(base),
    ).toThrow(/from step 6 to 6/));
});
const ownAdamss = (model: typeof base): Adamss => layerAt(model, 'linear', Q).fields.adamss as unknown as Adamss;

describe('frod', async () => {
  const method = await frod({ sparsity: 0.1, where: ['q', 'down'] }).prepare(base, { engine });
  const fresh = method(base);
  const model = perturb(fresh, 2, 0.5);
  for (const site of [Q, 'trunk.blocks.0.mlp.down'])
    it(`W' = U (S + diag λ) Vᵀ at ${site}, attached and folded`, async () => {
      const { attached, folded } = await fromDense(engine, model, site, 'frod', (_, p) => {
        const n = p.V!.length;
        const middle = Array.from({ length: n }, (_r, i) => Array.from({ length: n }, (_c, j) => (i === j ? p.lambda![0]![i]! : 0)));
        for (const [k, v] of p.values![0]!.entries()) middle[p.row![0]![k]!]![p.col![0]![k]!]! += v;
        return product(product(p.U!, middle), transposed(p.V!));
      });
      expect([attached < 1e-10, folded < 1e-10]).toEqual([true, true]);
    });
  it('shares V and the places of S among blocks, never on the diagonal; U has columns of length 1', async () => {
    const [one, other] = [await own(engine, fresh, `${Q}.frod`), await own(engine, fresh, 'trunk.blocks.0.attn.q.frod')];
    expect(one.V).toEqual(other.V);
    expect(one.row).toEqual(other.row);
    expect(one.row![0]!.some((r, k) => r === one.col![0]![k])).toBe(false);
    for (const column of transposed(one.U!)) expect(Math.hypot(...column)).toBeCloseTo(1, 10);
    expect(trainable(fresh).size).toBe(8);
  });
  it('has a basis where the weights together are wider than tall', async () => {
    const alone = await frod({ sparsity: 0.1, where: 'blocks.1.mlp.down' }).prepare(base, { engine }); // 8 rows of 12
    const { attached } = await fromDense(engine, alone(base), 'trunk.blocks.1.mlp.down', 'frod', (w) => w);
    expect(attached).toBeLessThan(1e-10);
    const p = await own(engine, alone(base), 'trunk.blocks.1.mlp.down.frod');
    expect(
      apart(
        flat(product(p.V!, transposed(p.V!))),
        p.V!.flatMap((_, i) => p.V!.map((_c, j) => (i === j ? 1 : 0))),
      ),
    ).toBeLessThan(1e-10);
  });
  it('trains λ alone at sparsity 0', async () => {
    const only = (await frod({ sparsity: 0, where: 'q' }).prepare(base, { engine }))(base);
    expect([...trainable(only).values()].every((p) => p.endsWith('lambda'))).toBe(true);
  });
});
