// TensorFlow.js on its WebAssembly backend: one measurement. Run by bench/compare.ts.
//   node tfjs.mjs W2 [--tuned | --hand] [--onehot]
// Without --tuned as its documentation would write it. --tuned for one who has read the backend's source: only single,
// untransposed products reach its fast kernel, and matMul's own gradient always asks for a transpose; so gradients are
// written by hand over explicit transposes, those of frozen weights made once. --hand goes further: gradients of norms, GELU,
// attention and loss by hand too (the tape makes many passes of each), and biases inside the product. --onehot reads the embedding as a product:
// the backend has no gradient of gather; only a trained embedding needs it.
import * as tf from '@tensorflow/tfjs';
import '@tensorflow/tfjs-backend-wasm';
import { adam, alpha, emit, eps, flags, rank, rate, timeProducts, timeSteps, tokens, weights, workloads } from './common.mjs';

const no = { type: 'boolean', default: false };
const { work, effort, hand, onehot, ...asked } = flags({ tuned: no, hand: no, onehot: no });
const tuned = asked.tuned || hand;
await tf.setBackend('wasm');
await tf.ready();
const note = `wasm${hand ? ', every gradient by hand' : tuned ? ', gradients of products by hand' : ''}${onehot ? ', one-hot embedding' : ''}`;

async function products() {
  await timeProducts(
    (n, a, b) => {
      const [x, y] = [tf.tensor2d(a, [n, n]), tf.tensor2d(b, [n, n])];
      let c = null;
      return {
        run: () => {
          c?.dispose();
          c = tf.matMul(x, y); // done when it returns: the backend is synchronous
        },
        read: () => c.dataSync(),
      };
    },
    effort,
    note,
  );
}

const swap = (x) => tf.transpose(x);
const trainedProduct = tf.customGrad((x, w, save) => {
  save([x, w]);
  return { value: tf.matMul(x, w), gradFunc: (dy, [x, w]) => [tf.matMul(dy, swap(w)), tf.matMul(swap(x), dy)] };
});
const swapped = new Map();
const once = (w) => {
  const known = swapped.get(w) ?? tf.keep(swap(w));
  swapped.set(w, known);
  return known;
};
const isFrozen = (w) => w instanceof tf.Variable && !w.trainable;
/** x [N, k] · w [k, n] */
function product(x, w) {
  if (!tuned) return tf.matMul(x, w);
  if (!isFrozen(w)) return trainedProduct(x, w);
  return tf.customGrad((x) => ({ value: tf.matMul(x, w), gradFunc: (dy) => tf.matMul(dy, once(w)) }))(x);
}
/** x [N, k] · w [n, k]ᵀ */
function productT(x, w) {
  if (!tuned) return tf.matMul(x, w, false, true);
  if (!isFrozen(w)) return trainedProduct(x, swap(w));
  return tf.customGrad((x) => ({ value: tf.matMul(x, once(w)), gradFunc: (dy) => tf.matMul(dy, w) }))(x);
}
const trainedLinear = tf.customGrad((x, w, b, save) => {
  save([x, w]);
  return {
    value: tf.fused.matMul({ a: x, b: w, bias: b }),
    gradFunc: (dy, [x, w]) => [tf.matMul(dy, swap(w)), tf.matMul(swap(x), dy), dy.sum(0)],
  };
});
/** x [N, k] · w [k, n] + b [n] */
function linear(x, w, b) {
  if (!hand) return product(x, w).add(b);
  if (!isFrozen(w)) return trainedLinear(x, w, b);
  return tf.customGrad((x) => ({ value: tf.fused.matMul({ a: x, b: w, bias: b }), gradFunc: (dy) => tf.matMul(dy, once(w)) }))(x);
}

const standard = (x) => {
  const { mean, variance } = tf.moments(x, -1, true);
  const r = variance.add(eps).rsqrt();
  return { unit: x.sub(mean).mul(r), r };
};
// dx = r(d − mean d − x̂·mean(d·x̂)), d = dy·g
const backThroughNorm = (dy, g, unit, r) => {
  const d = dy.mul(g);
  return d.sub(d.mean(-1, true)).sub(unit.mul(d.mul(unit).mean(-1, true))).mul(r);
};
const trainedNorm = tf.customGrad((x, g, b, save) => {
  const { unit, r } = standard(x);
  save([g, unit, r]);
  return {
    value: unit.mul(g).add(b),
    gradFunc: (dy, [g, unit, r]) => [backThroughNorm(dy, g, unit, r), dy.mul(unit).sum(0), dy.sum(0)],
  };
});
function norm(x, g, b) {
  if (!hand) return standard(x).unit.mul(g).add(b);
  if (!isFrozen(g)) return trainedNorm(x, g, b);
  return tf.customGrad((x, save) => {
    const { unit, r } = standard(x);
    save([unit, r]);
    return { value: unit.mul(g).add(b), gradFunc: (dy, [unit, r]) => backThroughNorm(dy, g, unit, r) };
  })(x);
}

const C = Math.sqrt(2 / Math.PI);
const geluByHand = tf.customGrad((x, save) => {
  const t = x.square().mul(0.044715 * C).add(C).mul(x).tanh();
  save([x, t]);
  // y = x(1 + t)/2;  dy/dx = (1 + t)(1 + x(1 − t)(C + 3·0.044715·C·x²))/2
  return {
    value: t.add(1).mul(x).mul(0.5),
    gradFunc: (dy, [x, t]) => x.square().mul(3 * 0.044715 * C).add(C).mul(x).mul(tf.sub(1, t)).add(1).mul(t.add(1)).mul(0.5).mul(dy),
  };
});
const gelu = (x) => (hand ? geluByHand(x) : x.mul(0.5).mul(x.add(x.square().mul(x).mul(0.044715)).mul(C).tanh().add(1)));

/** q, k, v [B, H, T, D]; `hidden` [T, T] is added to the scores. Head by head, for the fast kernel, was slower. */
function attend(q, k, v, hidden) {
  const scale = 1 / Math.sqrt(q.shape[3]);
  const seen = (q, k) => tf.softmax(tf.matMul(q, k, false, true).mul(scale).add(hidden));
  if (!hand) return tf.matMul(seen(q, k), v);
  return tf.customGrad((q, k, v, save) => {
    const p = seen(q, k);
    save([q, k, v, p]);
    return {
      value: tf.matMul(p, v),
      gradFunc: (dy, [q, k, v, p]) => {
        const dp = tf.matMul(dy, v, false, true).mul(p);
        const ds = dp.sub(p.mul(dp.sum(-1, true))).mul(scale);
        return [tf.matMul(ds, k), tf.matMul(ds, q, true, false), tf.matMul(p, dy, true, false)];
      },
    };
  })(q, k, v);
}
/** Mean −log p(answer); logits and one-hot answers [N, V]. */
function crossEntropy(logits, answers) {
  const rows = logits.shape[0];
  if (!hand) return tf.logSoftmax(logits).mul(answers).sum().div(-rows);
  return tf.customGrad((logits, save) => {
    const p = tf.softmax(logits);
    save([p]);
    const [m, s] = [logits.max(-1, true), logits.mul(answers).sum(-1)];
    const value = logits.sub(m).exp().sum(-1).log().add(m.squeeze([1])).sub(s).mean();
    return { value, gradFunc: (dy, [p]) => p.sub(answers).mul(dy.div(rows)) };
  })(logits);
}

async function training() {
  const { sizes, mode } = workloads[work];
  const { V, d, L, H, T, B } = sizes;
  const D = d / H;
  const rows = B * T;
  const p = {};
  const trained = [];
  for (const w of weights(sizes, mode)) {
    p[w.name] = tf.variable(tf.tensor(w.data, w.shape), w.trained, w.name);
    if (w.trained) trained.push(p[w.name]);
  }
  const text = tokens(sizes);
  const hidden = tf.tensor2d(
    Float32Array.from({ length: T * T }, (_, k) => (k % T > Math.floor(k / T) ? -1e9 : 0)),
    [T, T],
  );
  const ids = tf.tensor1d(text.ids, 'int32');
  const answers = tf.oneHot(tf.tensor1d(text.targets, 'int32'), V).toFloat();
  function loss() {
    const words = onehot ? product(tf.oneHot(ids, V).toFloat(), p.words) : tf.gather(p.words, ids);
    let x = words.reshape([B, T, d]).add(p.positions).reshape([rows, d]);
    for (let l = 0; l < L; l++) {
      const w = (name) => p[`${l}.${name}`];
      const h = norm(x, w('norm1.g'), w('norm1.b'));
      let qkv = linear(h, w('qkv.w'), w('qkv.b'));
      if (mode === 'lora') qkv = qkv.add(productT(productT(h, w('lora.A')), w('lora.B')).mul(alpha / rank));
      const [q, k, v] = tf.split(qkv, 3, 1).map((t) => t.reshape([B, T, H, D]).transpose([0, 2, 1, 3]));
      const o = attend(q, k, v, hidden).transpose([0, 2, 1, 3]).reshape([rows, d]);
      x = x.add(linear(o, w('o.w'), w('o.b')));
      const u = gelu(linear(norm(x, w('norm2.g'), w('norm2.b')), w('up.w'), w('up.b')));
      x = x.add(linear(u, w('down.w'), w('down.b')));
    }
    const logits = productT(norm(x, p['norm.g'], p['norm.b']), p.words);
    return crossEntropy(logits, answers);
  }
  const lr = rate[mode];
  const optimizer = tf.train.adam(lr, adam.b1, adam.b2, adam.eps); // it has no AdamW: the decay is taken off by hand
  const step = () => {
    const { value, grads } = tf.variableGrads(loss, trained);
    for (const v of trained) tf.tidy(() => v.assign(v.mul(1 - lr * adam.decay)));
    optimizer.applyGradients(grads);
    const [number] = value.dataSync();
    tf.dispose([value, grads]);
    return number;
  };
  emit({ ...(await timeSteps(step, effort)), note });
}

await (work === 'W1' ? products() : training());
process.exit(0);
