// TensorFlow.js on its WebAssembly backend: one measurement. Run by bench/compare.ts.
//   node tfjs.mjs W2 [--tuned] [--onehot]
// Without --tuned as its documentation would write it. --tuned for one who has read the backend's source: only single,
// untransposed products reach its fast kernel, and matMul's own gradient always asks for a transpose; so gradients are
// written by hand over explicit transposes, those of frozen weights made once. --onehot reads the embedding as a product:
// the backend has no gradient of gather; only a trained embedding needs it.
import * as tf from '@tensorflow/tfjs';
import '@tensorflow/tfjs-backend-wasm';
import { adam, alpha, emit, eps, flags, rank, rate, timeProducts, timeSteps, tokens, weights, workloads } from './common.mjs';

const { work, effort, tuned, onehot } = flags({ tuned: { type: 'boolean', default: false }, onehot: { type: 'boolean', default: false } });
await tf.setBackend('wasm');
await tf.ready();
const note = `wasm${tuned ? ', gradients by hand' : ''}${onehot ? ', one-hot embedding' : ''}`;

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
const norm = (x, g, b) => {
  const { mean, variance } = tf.moments(x, -1, true);
  return x.sub(mean).mul(variance.add(eps).rsqrt()).mul(g).add(b);
};
const gelu = (x) =>
  x.mul(0.5).mul(
    x
      .add(x.square().mul(x).mul(0.044715))
      .mul(Math.sqrt(2 / Math.PI))
      .tanh()
      .add(1),
  );

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
      let qkv = product(h, w('qkv.w')).add(w('qkv.b'));
      if (mode === 'lora') qkv = qkv.add(productT(productT(h, w('lora.A')), w('lora.B')).mul(alpha / rank));
      const [q, k, v] = tf.split(qkv, 3, 1).map((t) => t.reshape([B, T, H, D]).transpose([0, 2, 1, 3]));
      const seen = tf.softmax(tf.matMul(q, k, false, true).mul(1 / Math.sqrt(D)).add(hidden));
      const o = tf.matMul(seen, v).transpose([0, 2, 1, 3]).reshape([rows, d]);
      x = x.add(product(o, w('o.w')).add(w('o.b')));
      const u = gelu(product(norm(x, w('norm2.g'), w('norm2.b')), w('up.w')).add(w('up.b')));
      x = x.add(product(u, w('down.w')).add(w('down.b')));
    }
    const logits = productT(norm(x, p['norm.g'], p['norm.b']), p.words);
    return tf.logSoftmax(logits).mul(answers).sum().div(-rows);
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
