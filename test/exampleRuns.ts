// Running the examples as a reader would, and the lines their output must have.
import { execFile } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join, resolve } from 'node:path';

export const folder = resolve(import.meta.dirname, '../examples');
const tsx = createRequire(import.meta.url).resolve('tsx/cli');

/** Lines of its output that must be there. */
export const says: Readonly<Record<string, readonly (string | RegExp)[]>> = {
  '01-tensor.ts': ['not computed yet', 'dw       [ 40.5, 54, 67.5 ]', 'nudged   [ 40.5, 54, 67.5 ]', /one step downhill the loss is 0\.69/],
  '02-recipe.ts': [
    'forward in kernels:  matmul, tanh+mul, logsumexp, sub+exp+mul, sum',
    'mul in head: ∂/∂b needs it, the gradient of gain',
    /matmul in hidden \[4, 5\]: not kept for backward/,
    /never stored: it is computed inside the one kernel that reads it/,
    /and on float64 differ by at most (0|\d\.\d)e(\+0|-(0[6-9]|[6-9]|1\d))\n/,
  ],
  '03-mlp.ts': [/after step 1: loss 0\.[67]/, /after step 300: loss 0\.0\d+, 1(59|60) of 160 points on the right side/, /▓▓xxx▓▓▓/],
  '04-attention.ts': [
    /weights .*\n +1\.000 +· +· +· +·\n/,
    /outputs differ by at most (0|\d(\.\d+)?e-(0[6-9]|[6-9]|1\d))\n/,
    /dk differs by at most (0|\d(\.\d+)?e-(0[6-9]|[6-9]|1\d))\n/,
  ],
  '05-transformer.ts': [
    /knowing nothing is ln 34 = 3\.526/,
    /step 1500: training loss [12]\.\d+ █+\n/,
    /after: +"the whale [a-z .,;!?'"\\]{70}"\nvalidation loss [12]\.\d+; the table of letter pairs has 2\.\d+: beaten/,
  ],
  '06-lora-by-hand.ts': [
    'a gradient for W would be [16, 24]: it is nowhere',
    '|∂L/∂A| = 0 and',
    /\n +1 +40 +10 % +(0\.9|1\.0)\d+ /, //                     rank 1 stops where Eckart and Young say
    /\n +2 +80 +21 % +0\.0000\d\d .* by at most \de-[6-9]/, // rank 2 is enough
  ],
  '07-lora-with-the-library.ts': [
    'same structure, line by line: yes',
    'same frozen arrays in memory: yes',
    'same starting values of A, B: yes',
    'second compile needed nothing new: yes',
    '100 losses equal bit for bit: yes',
  ],
  '08-four-families.ts': [
    /full fine-tuning +\(none\) +everything +54080 +100\.00 %/,
    /houlsby +additive .* 2336 +4\.32 %/,
    /bitfit +selective .* 1440 +2\.66 %/,
    /lora +reparameterized .* 2048 +3\.79 %/,
    /mam +hybrid .* 3232 +5\.98 %/,
    /in the last block alone, [12]\d % is kept and 1\d % of backward is left/,
    'as a picture: out/08-four-families.svg',
  ],
  '09-composing.ts': [
    /and ia3\(lora\(base\)\) are one recipe: yes\n.*is another one: +yes/,
    "MAM is prefixTuning + parallelAdapter; the library's own is the same recipe: yes",
    /frozen arrays: base (\d+), shared by all three models \1\n/,
    /no adapter .* 0 1 2 3 4 5 6 7 8 9 10 11\n.*adapter up .* 1 2 3 4 5 6 7 8 9 10 11 0\n.*adapter down .* 11 0 1 2 3 4 5 6 7 8 9 10\n/,
    /every logit the same bit for bit: yes\n.*two trainings on top of it: +yes/,
  ],
  '10-write-your-own-method.ts': [
    /✗ I3 .*\n +→ .*attn\.k\.ssf\.beta gets no gradient/,
    /SSF on q, v, o, up and down:\n( +✓ .*\n)+ +keeps (\d+) of \2 laws/,
    /careless count:\n(.*\n)+ +✗ I4 .*\n.*differ by(.*\n)+ +✗ I6 .*\n.*declares 88 trained scalars and has 176/,
  ],
  '11-pretrain-and-tune.ts': [
    /Melville \(pretrained on\) .*\n +Roosevelt \(tuned to\) /,
    /merged ≡ unmerged .* ✓\n.*LoRA changed the logits .* ✓\n.*removed, the base is back +bit for bit ✓\n/,
    /wrote .*adapter\.safetensors .*loss\.svg/,
  ],
  '12-longer-context.ts': [
    /Embeddings and norms beside LoRA help: yes\. .*it was made from: yes\n/,
    /interpolated \+ LoRA +6144 .*\n.*interpolated \+ LongLoRA +9360 /,
    'as a picture: out/12-longer-context.svg',
  ],
  '13-adamw-against-sgd.ts': [
    /SGD +constant +0 B /,
    /SGD, momentum 0\.9 +constant +14\.3 kB /,
    /AdamW +constant +28\.7 kB /,
    /AdamW is lower by 0\.0\d+ nats per letter/,
    'as a picture: out/13-adamw-against-sgd.svg',
  ],
  '14-rank-and-alpha.ts': [
    / +1 +1088 .*\n +2 +2176 .*\n +4 +4352 .*\n +8 +8704 .*\n +16 +17408 .*\n +32 +34816 /,
    /α = 1r: best on unseen text at rank (1|2|4|8) .* it overfits\n/,
    'as a picture: out/14-rank-and-alpha.svg',
  ],
  '15-qlora.ts': [
    /float32 +32\.000 .*\nint8, float32 scales +8\.500 .*\nFP4, float32 scales +4\.506 .*\nNF4, float32 scales +4\.506 .*\nNF4, 8-bit scales +4\.242 /,
    'packed matrices: 14; their bytes are what they were: yes',
  ],
  '16-smollm.ts': [
    /30 blocks of width 576, 9 heads \(3 for keys\), 49152 words/,
    /The capital of France is Paris/,
    /\nlora +2,442,240 +\d\.\d{4} +\d\.\d{4} +\d+\.\d +\d+ MB\nqlora +2,442,240 /,
  ],
  '17-adapters-that-consult-each-other.ts': [
    /16,000 +2\.\d+ +2\.\d+\ntrained: 1104 numbers, and 6272 of the attention/,
    /\nKennedy( +0\.\d\d){6}\n/,
    'as a picture: out/17-adapters-that-consult-each-other.svg',
  ],
  '18-where-masks-fall.ts': [
    /FISH +1024 .* 100 % .*\nSNIP +1024 .*\nlargest \|W\| +1020 .*\nsmallest \|W\| +1020 .*\nrandom +1020 .*\nall of them +20480 /,
    'as a picture: out/18-where-masks-fall.svg',
  ],
  '19-the-spectrum-of-tuning.ts': [
    / +1 +\d\d % .* 1088 .*\n(.*\n){4} +32 +100 % +2\.\d+ +100 % +34816 /,
    'as a picture: out/19-the-spectrum-of-tuning.svg',
  ],
  '20-mam-and-its-parts.ts': [
    / 640 +2\.\d+ ± .* 584 .* 712 .*\n +1280 .* 1234 .* 1360 .*\n +2560 .* 2404 .* 2526 /,
    'as a picture: out/20-mam-and-its-parts.svg',
  ],
  '21-a-hybrid-of-your-own.ts': [
    'It is gate(parallel(lora, ia3)) + mask(lora) + route(pfeiffer, parallelAdapter)',
    /Deciding token by token is worth -?0\.\d+ in the gates/,
    'as a picture: out/21-a-hybrid-of-your-own.svg',
  ],
  '22-adapterhub-blocks.ts': [
    /Split\("a", "b", splits=\[2, 3\]\)\n +ours +split\(\[a, b\], \[2\]\)\n.*\n +answer +\[3, 5, 8\]; .* those of b\(base\): yes/,
    /Parallel\("a", "b"\)\n(.*\n){2} +answer +\[6, 5, 8\]; .*: yes/,
    'six blocks, 6 of them equal to their parts',
  ],
};

/** Those that take a minute take fewer steps here. */
export const options: Readonly<Record<string, readonly string[]>> = {
  '11-pretrain-and-tune.ts': ['--steps', '3'],
  '16-smollm.ts': ['--steps', '2', '--tokens', '64'],
};

/** Studies of half a minute and more: `npm run test:long` runs them. */
export const long: ReadonlySet<string> = new Set([
  ...['12-longer-context.ts', '13-adamw-against-sgd.ts', '14-rank-and-alpha.ts', '16-smollm.ts'],
  ...['17-adapters-that-consult-each-other.ts', '18-where-masks-fall.ts', '19-the-spectrum-of-tuning.ts'],
  ...['20-mam-and-its-parts.ts', '21-a-hybrid-of-your-own.ts'],
  '15-qlora.ts',
  '22-adapterhub-blocks.ts',
]);

export const examples = readdirSync(folder).filter((name) => /^\d\d-.*\.ts$/.test(name));

interface Ended {
  readonly code: number;
  readonly out: string;
  readonly err: string;
}
/** Runs one program after the other in each of two lanes: the machines have two cores. */
const lanes: Promise<unknown>[] = [Promise.resolve(), Promise.resolve()];
export function run(name: string, ...args: string[]): Promise<Ended> {
  const program = (): Promise<Ended> =>
    new Promise((done) => {
      execFile(process.execPath, [tsx, join(folder, name), ...args], { cwd: resolve(folder, '..') }, (failed, out, err) =>
        done({ code: failed === null ? 0 : Number(failed.code ?? 1), out, err }),
      );
    });
  const mine = lanes.shift()!.then(program);
  lanes.push(mine);
  return mine;
}
