// The parameter report against counts made by hand, and against what is really saved.
import { mkdtemp, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { float64 } from '../../core/engines/float64.ts';
import { size } from '../../core/shape.ts';
import type { Tensor } from '../../core/tensor.ts';
import { saveAdapter } from '../../io/adapters.ts';
import { realize, unfreeze } from '../../nn/freeze.ts';
import type { Model } from '../../nn/layer.ts';
import { tensors } from '../../nn/tree.ts';
import { adamw } from '../../optim/adamw.ts';
import { sgd } from '../../optim/sgd.ts';
import { methods } from '../../peft/all.ts';
import { finish } from '../../peft/merge.ts';
import { lora } from '../../peft/reparameterized/lora.ts';
import { report, reportTable } from '../../peft/report.ts';
import { pick } from '../../peft/site.ts';
import { ready } from '../laws/methodCase.ts';
import { bertNetwork, gpt2Network, run } from '../laws/models.ts';
import { SCRATCH } from '../scratch.ts';

const net = gpt2Network(1);
const engine = float64();
const network = [...new Set([...tensors(net.base)].map(({ tensor }) => tensor))].reduce((n, t) => n + size(t.shape), 0);

describe('report', () => {
  const r = report(lora({ rank: 2, where: ['q', 'v'] })(net.base), { optimizer: adamw() });
  it('counts LoRA by site', () => {
    expect(r.sites).toHaveLength(4);
    expect(r.sites[0]).toEqual({
      path: 'trunk.blocks.0.attn.q',
      method: 'lora',
      trainable: 2 * (8 + 8),
      fixed: 0,
      frozen: 8 * 8 + 8, // weight and bias
      ratio: 32 / (32 + 72),
      bytes: 4 * 32,
      saved: null,
    });
  });
  it('states both ratios over what they say', () => {
    expect(r.total.trainable).toBe(128);
    expect(r.total.frozen).toBe(network); // the tied table once
    expect(r.total.ofAll).toBeCloseTo(128 / (128 + network), 15);
    expect(r.total.ofBase).toBeCloseTo(128 / network, 15);
  });
  it('counts the state of the optimizer: two moments for AdamW, none for plain SGD', () => {
    expect(r.optimizer).toEqual({ name: 'adamw', bytes: 2 * 4 * 128 });
    expect(report(lora({ rank: 2 })(net.base), { optimizer: sgd({ momentum: 0 }) }).optimizer?.bytes).toBe(0);
  });
  it('shows two methods at one place, and tensors of the network that train', () => {
    const twice = lora({ rank: 1, where: 'q' })(lora({ rank: 2, where: 'q' })(net.base));
    const both = report(unfreeze(twice, (p) => p === 'trunk.norm.weight'));
    expect(both.sites.map((s) => [s.path, s.method, s.trainable])).toEqual([
      ['trunk.blocks.0.attn.q', 'lora2', 16],
      ['trunk.blocks.0.attn.q', 'lora', 32],
      ['trunk.blocks.1.attn.q', 'lora2', 16],
      ['trunk.blocks.1.attn.q', 'lora', 32],
      ['trunk.norm.weight', 'unfrozen', 8],
    ]);
    expect(both.total.frozen).toBe(network - 8);
    expect(both.total.ofBase).toBeCloseTo(104 / network, 15);
  });
  it('with a loss, counts what a step keeps: where and how deep one attaches decides it', () => {
    const loss = (m: Model): Tensor => run(net, m).loss;
    const deep = report(lora({ rank: 2, where: ['q', 'v'] })(net.base), { loss });
    const last = report(lora({ rank: 2, where: /blocks\.1\..*(q|v)$/ })(net.base), { loss });
    expect(last.step!.saved).toBeLessThan(deep.step!.saved);
    expect(last.step!.flops.backward).toBeLessThan(deep.step!.flops.backward);
    for (const r of [deep, last]) for (const s of r.sites) expect(s.saved! > 0 && s.saved! < r.step!.saved, s.path).toBe(true);
    expect(reportTable(deep)).toMatch(/kept here\n(.*\n)*step +keeps .*B for backward/);
  });
  it('of a model with nothing attached trains nothing', () => {
    expect(report(net.base).total).toEqual({ trainable: 0, fixed: 0, frozen: network, ofAll: 0, ofBase: 0, bytes: 0 });
  });
  it('agrees with every method about its own count, and with the file about bytes', async () => {
    const folder = await mkdtemp(join(SCRATCH, 'tinypeft-report-'));
    try {
      for (const n of [net, bertNetwork(1)])
        for (const m of methods.filter((x) => x.unfit[n.name] === undefined)) {
          const method = await ready(m.tiny(), n, engine);
          const model = method(n.base);
          const { total } = report(model);
          const saved = await saveAdapter(model, folder);
          const done = await saveAdapter(await realize(finish(model), engine), folder);
          // Where finish only leaves tensors out, the file is smaller by these; where it computes an equivalent, this engine answers float64, but what
          // a trainer stores is float32.
          if (done.numbers === saved.numbers) expect(total.bytes, m.name).toBe(saved.bytes);
          else expect([done.bytes, 4 * done.numbers], m.name).toContain(total.bytes);
          const counted = method.parts.map((p) =>
            p.method.count(pick(n.base, p.method.at, p.config.where, p.method.name), p.config, p.prepared),
          );
          expect(total.trainable, m.name).toBe(counted.reduce((k, c) => k + c.train, 0));
        }
    } finally {
      await rm(folder, { recursive: true });
    }
  });
});

describe('the table', () => {
  it('is what a terminal shows', () => {
    expect(reportTable(report(lora({ rank: 2, where: 'q' })(net.base), { optimizer: adamw() }))).toBe(
      [
        'site                   method  trained  fixed  frozen here  trained here  stored',
        '─────────────────────  ──────  ───────  ─────  ───────────  ────────────  ──────',
        'trunk.blocks.0.attn.q  lora         32      0           72        30.8 %   128 B',
        'trunk.blocks.1.attn.q  lora         32      0           72        30.8 %   128 B',
        '',
        'trained   64 of 1,360 scalars: 4.71 % of all, methods included; 4.94 % of the network alone',
        'stored    256 B without file headers',
        'optimizer 512 B (adamw)',
      ].join('\n'),
    );
  });
  it('sums what would not fit', () => {
    const lines = reportTable(report(lora({ rank: 2, where: ['q', 'k', 'v', 'o'] })(net.base)), 4).split('\n');
    expect(lines.filter((l) => l.includes('… 5 more'))).toHaveLength(1);
    expect(lines.find((l) => l.includes('more'))).toMatch(/… 5 more +160 /);
  });
});
