// jax-js on its WebAssembly backend: one measurement. Run by bench/compare.ts.
//   node --harmony-iterator-helpers jax.mjs W2 [--eager] [--onehot]; with threads: node --import ./threads.mjs … and THREADS=2
// The whole step in one jit, or eager, whichever is faster. --onehot reads the embedding as a product, because the jit of
// take's gradient (a scatter) fails in this version; only a trained embedding needs it.
import { blockUntilReady, defaultDevice, jit, nn, numpy as np, tree, valueAndGrad } from '@jax-js/jax';
import { adam, alpha, emit, eps, flags, rank, rate, timeProducts, timeSteps, tokens, weights, workloads } from './common.mjs';

const { work, effort, eager, onehot } = flags({ eager: { type: 'boolean', default: false }, onehot: { type: 'boolean', default: false } });
const note = `${defaultDevice()}, ${eager ? 'eager' : 'jit'}${process.env.JAX_THREADS ? `, ${process.env.JAX_THREADS} threads` : ''}`;

async function products() {
  await timeProducts(
    (n, a, b) => {
      const [x, y] = [np.array(a).reshape([n, n]), np.array(b).reshape([n, n])];
      let c = null;
      return {
        run: async () => {
          c?.dispose();
          c = np.matmul(x.ref, y.ref);
          await blockUntilReady(c);
        },
        read: () => c.ref.data(),
      };
    },
    effort,
    note,
  );
}

async function training() {
  const { sizes, mode } = workloads[work];
  const { V, d, L, H, T, B } = sizes;
  const D = d / H;
  const rows = B * T;
  const trained = {};
  const frozen = {};
  for (const w of weights(sizes, mode)) (w.trained ? trained : frozen)[w.name] = np.array(w.data).reshape(w.shape);
  const text = tokens(sizes);

  // jax-js counts uses: every operation consumes its arguments, and .ref keeps one for another use.
  const norm = (x, g, b) => nn.standardize(x, -1, { epsilon: eps }).mul(g).add(b);
  function loss(trained, frozen, ids, targets) {
    const p = { ...frozen, ...trained };
    const words = onehot ? np.matmul(nn.oneHot(ids, V), p.words.ref) : np.take(p.words.ref, ids, 0);
    let x = words.reshape([B, T, d]).add(p.positions).reshape([rows, d]);
    for (let l = 0; l < L; l++) {
      const w = (name) => p[`${l}.${name}`];
      const h = norm(x.ref, w('norm1.g'), w('norm1.b'));
      let qkv = np.matmul(mode === 'lora' ? h.ref : h, w('qkv.w')).add(w('qkv.b'));
      if (mode === 'lora')
        qkv = qkv.add(np.matmul(np.matmul(h, w('lora.A').transpose()), w('lora.B').transpose()).mul(alpha / rank));
      const [q, k, v] = np.split(qkv, 3, 1).map((t) => t.reshape([B, T, H, D]));
      const o = nn.dotProductAttention(q, k, v, { isCausal: true }).reshape([rows, d]);
      x = x.add(np.matmul(o, w('o.w')).add(w('o.b')));
      const u = nn.gelu(np.matmul(norm(x.ref, w('norm2.g'), w('norm2.b')), w('up.w')).add(w('up.b')), { approximate: true });
      x = x.add(np.matmul(u, w('down.w')).add(w('down.b')));
    }
    const logits = np.matmul(norm(x, p['norm.g'], p['norm.b']), p.words.transpose());
    return nn.logSoftmax(logits, -1).mul(nn.oneHot(targets, V)).sum().mul(-1 / rows);
  }
  const lossAndGradients = valueAndGrad(loss);
  const lr = rate[mode];
  function update(values, ms, vs, frozen, c1, c2, ids, targets) {
    const [value, g] = lossAndGradients(tree.ref(values), frozen, ids, targets);
    const [nextValues, nextMs, nextVs] = [{}, {}, {}];
    for (const name of Object.keys(values)) {
      const m = ms[name].mul(adam.b1).add(g[name].ref.mul(1 - adam.b1));
      const v = vs[name].mul(adam.b2).add(np.square(g[name]).mul(1 - adam.b2));
      nextMs[name] = m.ref;
      nextVs[name] = v.ref;
      const off = m.div(c1.ref).div(np.sqrt(v.div(c2.ref)).add(adam.eps));
      nextValues[name] = values[name].mul(1 - lr * adam.decay).sub(off.mul(lr));
    }
    c1.dispose();
    c2.dispose();
    return [value, nextValues, nextMs, nextVs];
  }
  const run = eager ? update : jit(update);
  const zeros = () => tree.map((x) => np.zerosLike(x.ref), tree.ref(trained));
  let state = [trained, zeros(), zeros()];
  const step = async (i) => {
    const corrections = [adam.b1, adam.b2].map((b) => np.array(1 - b ** (i + 1)));
    const [value, ...next] = run(
      ...state,
      tree.ref(frozen),
      ...corrections,
      np.array(text.ids, { dtype: np.int32 }),
      np.array(text.targets, { dtype: np.int32 }),
    );
    state = next;
    await blockUntilReady(state);
    return (await value.data())[0];
  };
  emit({ ...(await timeSteps(step, effort)), note: `${note}${onehot ? ', one-hot embedding' : ''}` });
}

await (work === 'W1' ? products() : training());
process.exit(0); // its threads would keep Node alive
