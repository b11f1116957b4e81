// npm run bench -- qlora: its table, its page and its files, and that every variant builds, packs what it says and trains.
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { machine } from '../../bench/machine.ts';
import { qloraPage, qloraTable, saveQlora } from '../../bench/qlora.ts';
import { newborn, type QloraRow, sizes, type Variant, type VariantName, variants } from '../../bench/qloraWork.ts';
import { freeze } from '../../nn/freeze.ts';
import { layers, trainable } from '../../nn/tree.ts';
import { packedPaths, residentBytes } from '../../quant/quantize.ts';

const names = Object.keys(variants) as VariantName[];
const row = (variant: VariantName, k: number): QloraRow => ({
  variant,
  base: 4e6,
  blocks: 1e6,
  weights: 2e6,
  trained: 1000 + k,
  states: variant === 'nf4' ? { stored: 8192, resident: 4096 } : null,
  peak: 2e8,
  rest: 1e8,
  ms: 10 + k,
  before: 2.5,
  after: 2.25,
});
const rows = names.map(row);

describe('the report', () => {
  it('has a line per variant, in the table and on the page, with bits of the packed weights and bytes of paged states', () => {
    const text = qloraTable(rows);
    for (const name of names) expect(text).toContain(variants[name].title);
    expect(text.split('\n')).toHaveLength(2 + names.length);
    expect(text).toContain('4.00'); // bits: 8·1e6/2e6
    const page = qloraPage(rows, { ...machine(), load: 0 }, 'quick', '2026-01-02T03:04:05Z');
    expect(page).toContain('on 2026-01-02');
    expect(page.split('\n').filter((l) => l.startsWith('| ')).length).toBe(2 + names.length);
    expect(page).toContain('8.19 kB of optimizer states, at most 4.10 kB');
    expect(page).not.toContain('busy');
    expect(qloraPage(rows, { ...machine(), load: 99 }, 'quick', '2026-01-02')).toContain('not to be quoted');
  });
  it('is saved as JSON and as a page', async () => {
    const root = await mkdtemp(join(tmpdir(), 'tinypeft-bench-'));
    try {
      const [json, page] = saveQlora(rows, machine(), 'quick', root) as [string, string];
      expect(JSON.parse(await readFile(json, 'utf8'))).toMatchObject({ rows: [{ variant: names[0] }, ...rows.slice(1).map(() => ({}))] });
      expect(await readFile(page, 'utf8')).toContain('# LoRA on packed bases');
    } finally {
      await rm(root, { recursive: true });
    }
  });
});

describe('variants', () => {
  const base = freeze(newborn({ ...sizes.quick, layers: 1 }, 11));
  it.each(names)('%s', (name) => {
    const { pack, adapt }: Variant = variants[name];
    const model = adapt(pack === null ? base : pack(base), 2);
    expect(packedPaths(model)).toHaveLength(name === 'lora' ? 0 : 7);
    expect([...layers(model)].filter(({ layer }) => layer.attached !== null)).toHaveLength(7);
    expect(trainable(model).size).toBe(14);
    if (name !== 'lora') expect(residentBytes(model)).toBeLessThan(residentBytes(base));
  });
});
