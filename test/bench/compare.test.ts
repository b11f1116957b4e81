// npm run compare and npm run bench: command lines, statistics, tables, and what happens when results disagree.
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { parse, reason } from '../../bench/children.ts';
import { read } from '../../bench/compare.ts';
import { chosen, contestants } from '../../bench/contestants.ts';
import { goals, goalTable, kept } from '../../bench/goals.ts';
import { busy } from '../../bench/machine.ts';
import { type Measurement, median, timeSteps } from '../../bench/measurement.ts';
import { cases } from '../../bench/ops.ts';
import { factor } from '../../bench/packed.ts';
import { read as readBench, timed } from '../../bench/run.ts';
import { line } from '../../bench/scaling.ts';
import { beside, disagreeing, distance, failures, productTable, type Result, summarise, trainingTable } from '../../bench/verdict.ts';
import { simd } from '../../core/engines/simd.ts';

describe('command lines', () => {
  it('of compare: defaults, choices, and a sentence for each mistake', () => {
    expect(read([])).toMatchObject({ rounds: 3, threads: [1, 2], works: ['W1', 'W2', 'W3', 'W2-last', 'W4h', 'W4'], quick: false });
    expect(read(['--quick', '--work', 'W3,W2', '--threads', '1'])).toMatchObject({ rounds: 1, threads: [1], works: ['W2', 'W3'] });
    expect(read(['--work', 'W9'])).toMatch(/no workload 'W9'; choose among W1, W2/);
    expect(read(['--work', ''])).toMatch(/choose among W1/);
    expect(read(['--threads', '0'])).toMatch(/--threads 0: expected whole numbers from 1 to 16/);
    expect(read(['--threads', '1,x'])).toMatch(/--threads 1,x/);
    expect(read(['--rounds', '1.5'])).toMatch(/--rounds 1.5: expected a whole number/);
    expect(read(['--only', 'tensorflow'])).toMatch(/no such contestant; choose among ours-1t/);
    expect(read(['--jason'])).toMatch(/--jason/);
  });
  it('of bench: the same', () => {
    expect(readBench(['matmul', '--threads', '1'])).toMatchObject({ names: ['matmul'], engine: 'simd', threads: 1, scaling: false });
    expect(readBench(['scaling', '--mode', 'cpu'])).toMatchObject({ scaling: true, engine: 'gpujs', mode: 'cpu' });
    expect(readBench(['mathmul'])).toMatch(/no op 'mathmul'; choose parts of matmul ab/);
    expect(readBench(['scaling', 'matmul'])).toMatch(/takes no names/);
    expect(readBench(['qlora', '--save'])).toMatchObject({ qlora: true, save: true, quick: false });
    expect(readBench(['qlora', 'matmul'])).toMatch(/runs alone/);
    expect(readBench(['packed', 'nf4', 'f16'])).toMatchObject({ packed: true, names: ['nf4', 'f16'] });
    expect(readBench(['packed', 'nf5'])).toMatch(/no way of packing 'nf5'; choose of f32, f16/);
    expect(readBench(['packed', 'scaling'])).toMatch(/runs alone/);
    expect(readBench(['packed', '--mode', 'cpu'])).toMatch(/measures the simd engine/);
    // 50 MB of Node and the engine, 20 predicted: the base is held 1.1 times.
    const held = { packed: 100e6, activations: 15e6, trained: 5e6, resident: 180e6 };
    expect(factor(held, 50e6)).toBeCloseTo(1.1, 12);
    expect(readBench(['qlora', '--engine', 'float64'])).toMatch(/simd engine/);
    expect(readBench(['matmul', '--save'])).toMatch(/--save is for qlora/);
    expect(readBench(['--engine', 'cuda'])).toMatch(/no such engine; choose one of gpujs, simd, float64/);
    expect(readBench(['--mode', 'cuda'])).toMatch(/no such mode/);
    expect(readBench(['--threads', '-1'])).toMatch(/--threads/);
    expect(readBench(['--engine', 'float64', '--plain'])).toMatch(/for the simd engine/);
  });
  it('contestants: by name or beginning; those that need a card only by full name', () => {
    const all = contestants([1, 2], 'python3');
    const names = (only: string[]): string[] => chosen(all, only).map((c) => c.name);
    expect(names(['tfjs'])).toEqual(['tfjs-hand-1t', 'tfjs-tuned-1t', 'tfjs-1t']);
    expect(names(['ours'])).toEqual(['ours-1t', 'ours-plain-1t', 'ours-2t', 'ours-plain-2t']);
    expect(names(['torch-cuda'])).toEqual(['torch-cuda']);
    expect(names([]).filter((n) => /cuda|webgpu/.test(n))).toEqual([]);
    const torch = all.find((c) => c.name === 'torch-2t')!.command('W3', { steps: 1, warm: 2, seconds: 3 });
    expect([torch.file, ...torch.args.slice(1)].join(' ')).toBe('python3 W3 --threads 2 --steps 1 --warm 2 --seconds 3');
  });
});

describe('statistics', () => {
  it('median: at most half lie on either side', () => {
    fc.assert(
      fc.property(fc.array(fc.double({ noNaN: true, min: -1e6, max: 1e6 }), { minLength: 1 }), (xs) => {
        const m = median(xs);
        expect(xs.filter((x) => x < m).length).toBeLessThanOrEqual(xs.length / 2);
        expect(xs.filter((x) => x > m).length).toBeLessThanOrEqual(xs.length / 2);
      }),
    );
  });
  it('a straight line is found, and what is not one is seen', () => {
    const at = (f: (n: number) => number) => [1, 2, 4, 8].map((n) => ({ n, ms: f(n) }));
    const straight = line(at((n) => 5 + 3 * n));
    expect(straight.fixed).toBeCloseTo(5);
    expect(straight.each).toBeCloseTo(3);
    expect(straight.off).toBeLessThan(1e-9);
    expect(line(at((n) => n * n)).off).toBeGreaterThan(0.15);
    expect(() => line([{ n: 1, ms: 1 }])).toThrow(/three or more/);
  });
  it('steps: the first is never timed, and time that is over ends it after two', async () => {
    const few = await timeSteps(async () => 1, { steps: 4, warm: 3, seconds: 100 });
    expect([few.ms.length, few.losses!.length]).toEqual([4, 7]);
    const late = await timeSteps(async () => 1, { steps: 100, warm: 50, seconds: 0 });
    expect([late.ms.length, late.losses!.length]).toEqual([2, 3]);
  });
  it('losses: compared over the steps both took; a loss that is no number is far from all', () => {
    expect(distance([1, 2, 3], [1, 2.5])).toBe(0.5);
    expect(distance([1, Number.NaN], [1, 2])).toBe(Number.POSITIVE_INFINITY);
    expect(distance([], [1])).toBe(Number.POSITIVE_INFINITY);
  });
});

const step = (ms: number[], losses: number[], peak = 100): Measurement => ({ ms, first: 9, peak, losses });
const result = (name: string, side: Result['side'], rounds: Measurement[], error: string | null = null): Result => ({
  work: 'W2',
  name,
  side,
  threads: Number(/(\d)t$/.exec(name)![1]),
  rounds,
  error,
});
const LOSSES = [6.3, 6.2];
const results = [
  result('ours-1t', 'ours', [step([100, 110], LOSSES), step([90, 100], LOSSES)]),
  result('ours-2t', 'ours', [step([50], LOSSES)]),
  result('tfjs-1t', 'javascript', [step([400], [6.30005, 6.2], 1000)]),
  result('jax-eager-1t', 'javascript', [step([500], LOSSES, 900)]),
  result('jax-eager-2t', 'javascript', [step([250], LOSSES, 900)]),
  result('jax-jit-1t', 'javascript', [], 'RangeError: out of memory'),
  result('torch-1t', 'pytorch', [step([40], LOSSES)]),
];

describe('the table', () => {
  const all = summarise(results);
  const ours = all.find((s) => s.name === 'ours-1t')!;
  it('has the median over all rounds, ratios to the best JavaScript peer and to PyTorch, and who failed', () => {
    expect(ours).toMatchObject({ ms: 100, min: 90, max: 110, perRound: [105, 95], rate: 10240, difference: 0 });
    const table = trainingTable(all, 'W2').split('\n');
    expect(table.find((l) => l.startsWith('ours-1t'))).toMatch(/^ours-1t +100 +90\.0–110 +10240 +4\.00 +2\.50 +9\.00 +100 +0e\+0$/);
    expect(table.find((l) => l.startsWith('ours-2t'))).toMatch(/^ours-2t +50\.0 .* 5\.00 +— /); // 250 by threads; no PyTorch at two
    expect(table.find((l) => l.startsWith('jax-jit-1t'))).toMatch(/^jax-jit-1t +—$/);
    expect(failures(all, 'W2')).toEqual(['jax-jit-1t: RangeError: out of memory']);
  });
  it('a peer with threads is no rival of one thread', () => {
    expect(beside(all, ours).javascript?.name).toBe('tfjs-1t');
  });
  it('is quiet at 5e-5 and loud above 1e-4', () => {
    expect(disagreeing(all)).toEqual([]);
    const wrong = summarise([...results, result('jax-jit-2t', 'javascript', [step([10], [6.3002, 6.2])])]);
    expect(disagreeing(wrong).map((s) => s.name)).toEqual(['jax-jit-2t']);
    expect(trainingTable(wrong, 'W2')).toMatch(/^jax-jit-2t .*!! 2e-4$/m);
    const mute = summarise([...results, result('jax-jit-2t', 'javascript', [step([10], [Number.NaN])])]);
    expect(disagreeing(mute).map((s) => s.name)).toEqual(['jax-jit-2t']);
  });
  it('of products: GFLOP/s by transposes, and a wrong element is loud', () => {
    const w1 = (name: string, side: Result['side'], check: number): Result => ({
      ...result(name, side, [{ ms: [2], first: 3, peak: 1, case: '512 nn', check }]),
      work: 'W1',
    });
    const right = -0.0004963632673025131;
    const some = summarise([w1('ours-1t', 'ours', right), w1('tfjs-1t', 'javascript', right + 1)]);
    expect(disagreeing(some).map((s) => s.name)).toEqual(['tfjs-1t']);
    expect(productTable(some, 512)).toMatch(/^ours-1t +2\.00 +2\.00–2\.00 +134 +— +— +— +1\.00 +— +\de-\d+$/m);
    expect(productTable(some, 512)).toMatch(/^tfjs-1t .*!! /m);
  });
  it('goals: kept and missed', () => {
    const list = goals(all);
    const of = (what: string) => list.find((g) => g.what.startsWith(what))!;
    expect(kept(of('W2, 1 thread: times faster'))).toBe(true); // 4 ≥ 3
    expect(of('W2, 2 threads: times faster').value).toBe(5);
    expect(of('W2: peak memory').value).toBeCloseTo(0.1);
    expect(list.some((g) => g.what.startsWith('W3'))).toBe(false); // not measured: neither kept nor missed
    expect(goalTable([{ what: 'a', value: 1, bound: 2, least: true }])).toMatch(/a +1\.00 +≥ 2 +MISSED/);
  });
});

describe('children and machine', () => {
  it('JSON lines among other output are read; of an error, the line that says it', () => {
    expect(parse('Platform node has already been set\n{"ms":[1],"first":2,"peak":3}\nbye')).toEqual([{ ms: [1], first: 2, peak: 3 }]);
    expect(reason('at x\nRangeError: no memory\n  at y\nNode.js v20.1.0', 1, null)).toBe('RangeError: no memory');
    expect(reason('', null, 'SIGKILL')).toBe('ended with SIGKILL');
  });
  it('a busy machine is told from a quiet one', () => {
    const m = { cpu: 'x', cores: 2, memory: 1, system: 'y', node: 'z', load: 0.3 };
    expect(busy(m)).toBeNull();
    expect(busy({ ...m, load: 2 })).toMatch(/not to be quoted/);
  });
  it('tinybench times an op', async () => {
    await using engine = await simd({ threads: 1 });
    const row = await timed(engine, cases.find((c) => c.name === 'gather')!, true);
    expect(row).toMatchObject({ name: 'gather', shape: '512×256 by 1024' });
    expect(row.ms).toBeGreaterThan(0);
    expect(row.runs).toBeGreaterThanOrEqual(3);
    expect(row.gbytes).toBeGreaterThan(0);
  });
});
