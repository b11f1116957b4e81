// Saves of adapters (ours and Hugging Face PEFT's) and of training states, killed at random moments: every file is whole, all of one save.
import { fork } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import { rng } from '../../core/rng.ts';
import { paramOf } from '../../core/tensor.ts';
import { loadAdapter } from '../../io/adapters.ts';
import { loadPeft } from '../../io/peft/load.ts';
import { readState } from '../../io/state.ts';
import { decoder, llama } from '../../nn/decoder.ts';
import { freeze } from '../../nn/freeze.ts';
import type { Model } from '../../nn/layer.ts';
import { tensors } from '../../nn/tree.ts';
import { lora } from '../../peft/reparameterized/lora.ts';

const KILLS = 60;
/** The one number that all trained tensors hold. */
function numberIn(model: Model): number {
  const all = new Set([...tensors(model)].flatMap(({ tensor }) => [...new Set(paramOf(tensor)?.value ?? [])]));
  expect(all.size).toBe(1);
  return [...all][0]!;
}

test(`${KILLS} kills`, async () => {
  const root = await mkdtemp(join(tmpdir(), 'tinypeft-killed-'));
  const base = freeze(decoder(llama({ vocabulary: 40, width: 64, layers: 4, heads: 2, positions: 16 }), rng(0)));
  const script = fileURLToPath(new URL('saveAdaptersForever.ts', import.meta.url));
  const seed = Date.now();
  const seen = { unfinished: 0, apart: 0 };
  let last = 0;
  for (let k = 0; k < KILLS; k++) {
    const child = fork(script, [root, String(last + 1)], { execArgv: ['--import', 'tsx'], stdio: 'inherit' });
    await once(child, 'message'); // it has saved once, and goes on saving
    const [wait] = rng(seed).split(String(k)).uniform(1);
    await new Promise((done) => setTimeout(done, wait! * 60));
    child.kill('SIGKILL');
    await once(child, 'exit');
    const own = numberIn(await loadAdapter(base, join(root, 'own'), [lora]));
    const peft = numberIn((await loadPeft(base, join(root, 'peft'))).model);
    const { state, extra } = await readState(join(root, 'state.safetensors'));
    const inState = new Set([...state.values['a.b']!.data, ...state.moments['a.b']!.m!.data, state.step, extra.n as number]);
    expect(inState.size, `seed ${seed}, kill ${k}`).toBe(1);
    for (const n of [own, peft, state.step]) expect(n, `seed ${seed}, kill ${k}`).toBeGreaterThan(last); // since it began it saved once at least
    expect(own - state.step).toBeLessThanOrEqual(1); // in the order they are saved
    expect(own).toBeGreaterThanOrEqual(peft);
    expect(peft).toBeGreaterThanOrEqual(state.step);
    if (own !== state.step) seen.apart++;
    const names = [root, join(root, 'own'), join(root, 'peft')];
    const left = (await Promise.all(names.map((f) => readdir(f)))).flat().filter((f) => f.endsWith('.tmp'));
    if (left.length > 0) seen.unfinished++;
    for (const f of names) for (const t of (await readdir(f)).filter((x) => x.endsWith('.tmp'))) await rm(join(f, t));
    last = Math.max(own, peft, state.step);
  }
  console.log(`${KILLS} kills: ${seen.unfinished} in the middle of a file, ${seen.apart} between two files`);
  expect(seen.unfinished + seen.apart).toBeGreaterThan(0); // else nothing was tested
  await rm(root, { recursive: true });
});
