// A GGUF file with random bytes changed: what every reading of it must keep.
import fc from 'fast-check';
import { rng } from '../../core/rng.ts';
import { decodeBlocks } from '../../io/ggufBlocks.ts';
import { GgufError, readGgufHeader } from '../../io/ggufHeader.ts';
import { ggufConfig } from '../../io/ggufLlama.ts';
import { ggufTokenizer } from '../../io/ggufTokenizer.ts';

/** Everything a reader does with bytes in memory; answers how many bytes of numbers came out. */
export async function readAll(bytes: Uint8Array): Promise<number> {
  const h = await readGgufHeader(async (from, length) => bytes.slice(from, from + length), bytes.length, 'mem');
  let n = 0;
  for (const e of h.entries.values()) n += decodeBlocks(bytes.slice(e.start, e.end), e.format).byteLength;
  for (const use of [() => ggufConfig({ path: 'mem', ...h }), () => ggufTokenizer(h.metadata, 8, 'mem').encode('ab c1\n<own>')])
    try {
      use();
    } catch (e) {
      if (!(e instanceof Error && e.message.startsWith('mem: '))) throw e;
    }
  return n;
}

/** `runs` mutations of a file: each is read, or refused with a place and a reason; never more numbers than 13 times the file. */
export const checkMutations = (whole: Uint8Array, header: number, runs: number): Promise<void> =>
  fc.assert(
    fc.asyncProperty(fc.integer(), fc.integer({ min: 1, max: 6 }), fc.boolean(), async (seed, changes, cut) => {
      const r = rng(seed);
      const bytes = whole.slice(0, cut ? r.below(whole.length + 1) : whole.length);
      for (let k = 0; k < changes && bytes.length > 0; k++) {
        const at = r.below(Math.min(bytes.length, header));
        const [few, ...values] = [r.below(2) === 0 ? 1 : 8, 0, 1, 255, 127, 128, r.below(256), bytes[at]! ^ (1 << r.below(8))];
        bytes.fill(values[r.below(values.length)]!, at, at + few!);
      }
      try {
        const n = await readAll(bytes);
        if (n > 13 * bytes.length) throw new Error(`${n} bytes of numbers from a file of ${bytes.length}`);
      } catch (e) {
        if (!(e instanceof GgufError) || !(e.offset >= 0 && e.offset <= bytes.length) || !/^mem, byte \d+: ./.test(e.message)) throw e;
      }
    }),
    { numRuns: runs },
  );
