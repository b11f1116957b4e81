// Why a value is still there when backward runs: which gradients are written in terms of it. Read off the ops' own derivatives.
import { rootsOf, short } from './account.ts';
import { type Fused, fuse, storedAs } from './fuse.ts';
import { checkpointOp, pullback } from './grad.ts';
import { zip } from './op.ts';
import type { Program } from './plan.ts';
import { lower } from './schedule.ts';
import { place } from './scope.ts';
import { show, size } from './shape.ts';
import { input, inputsOf, type Param, paramOf, type Tensor, topological } from './tensor.ts';

/** One derivative that reads the value: ∂op/∂operand, which leads to the gradients of `params`. */
export interface Reason {
  readonly op: string;
  readonly path: string;
  readonly operand: string;
  /** What the derivative is for: the operand itself when it is a parameter (`direct`), else all parameters beneath it. */
  readonly params: readonly string[];
  readonly direct: boolean;
}
export interface Keeping {
  readonly kept: boolean;
  /** The value, what becomes of it, and since when, in one sentence. */
  readonly verdict: string;
  readonly reasons: readonly Reason[];
  /** Backward kernels that read it, as `name in path`. */
  readonly readers: readonly string[];
}

/** Parameter names by identity, as `params(model)` in nn/tree.ts answers them. */
export type Names = ReadonlyMap<Param, string>;

/**
 * Whether running `program` keeps `tensor` from forward to backward, and for which gradients. The program's recipes must
 * contain the tensor (the same object, or an equal recipe).
 */
export function keeping(program: Program | readonly Tensor[] | Tensor, tensor: Tensor, names: Names = new Map()): Keeping {
  const roots = rootsOf(program);
  const lowered = lower([...roots, tensor]);
  const target = storedAs(lowered.at(-1)!);
  const steps = fuse(lowered.slice(0, -1));
  const what = `${describe(tensor)} ${show(tensor.shape)}`;
  const answer = (kept: boolean, verdict: string, readers: readonly Fused[] = []): Keeping => ({
    kept,
    verdict: `${what}: ${verdict}`,
    readers: readers.map(named),
    reasons: kept ? reasonsFor(roots, tensor, wantedBy(program, roots), names) : [],
  });
  const { source } = target;
  if (source.kind !== 'apply')
    return answer(false, `${source.kind === 'leaf' ? 'frozen numbers' : `a ${source.kind}`}: there anyway, nothing is kept for it`);
  const step = steps.find((s) => s.node === target);
  const users = steps.filter((s) => s.reads.includes(target));
  if (step === undefined) {
    const inside = topological(lowered.slice(0, -1)).includes(target);
    return answer(false, inside ? 'never stored: it is computed inside the one kernel that reads it' : 'not a part of these recipes');
  }
  if (step.node.at.phase !== 'forward')
    return answer(false, `a value of the ${step.node.at.phase} phase, so nothing keeps it from forward`);
  const readers = users.filter((s) => s.node.at.phase === 'backward');
  const last = users.at(-1);
  if (readers.length === 0)
    return answer(false, `not kept for backward: ${last === undefined ? 'it is a result' : `its last reader is ${named(last)}`}`);
  return answer(true, `kept for backward, ${short(4 * size(target.shape), 'B')}`, readers);
}

/** The same as text. */
export function why(program: Program | readonly Tensor[] | Tensor, tensor: Tensor, names: Names = new Map()): string {
  const { verdict, reasons, readers } = keeping(program, tensor, names);
  const list = (ps: readonly string[]): string =>
    ps.length > 3 ? `${ps.slice(0, 3).join(', ')} and ${ps.length - 3} more` : ps.join(', ');
  return [
    verdict,
    ...reasons.map(
      ({ op, path, operand, params, direct }) =>
        `  ${op} ${path === '' ? 'at the top level' : `in ${path}`}: ∂/∂${operand} needs it, ${direct ? 'the gradient of' : 'on the way down to'} ${list(params)}`,
    ),
    ...(readers.length === 0 ? [] : [`  read by ${list(readers)}`]),
  ].join('\n');
}

const named = (s: Fused): string => `${s.kernel.name} ${place(s.node.at)}`;
const describe = (t: Tensor): string => {
  const s = storedAs(t).source;
  return `${s.kind === 'apply' ? s.op.name : s.kind === 'input' ? `input ${s.name}` : s.kind} ${place(t.at)}`;
};

/** The parameters whose gradients are asked for: those a program changes, else every active one. */
function wantedBy(program: Program | readonly Tensor[] | Tensor, roots: readonly Tensor[]): ReadonlySet<Param> {
  const all = topological(roots).flatMap((t) => paramOf(t) ?? []);
  const next = 'outputs' in program ? (program.next ?? null) : null;
  return new Set(all.filter((p) => p.active && (next === null || next.has(p))));
}

/** Every derivative, of the ops that made or read `t`, that mentions t's value. */
function reasonsFor(roots: readonly Tensor[], t: Tensor, wanted: ReadonlySet<Param>, names: Names): Reason[] {
  const order = topological(roots).filter((f) => f.at.phase === 'forward');
  const leads = new Set<Tensor>();
  for (const f of order) {
    const p = paramOf(f);
    if (p === null ? inputsOf(f).some((i) => leads.has(i)) : wanted.has(p)) leads.add(f);
  }
  const me = storedAs(t);
  const reasons: Reason[] = [];
  for (const f of order) {
    const s = f.source;
    if (s.kind !== 'apply' || s.op === checkpointOp || (f !== me && !s.ins.some((i) => storedAs(i) === me))) continue;
    for (const [k, name] of s.op.inputs.entries()) {
      const operand = s.ins[k]!;
      if (!leads.has(operand) || !derivativeReads(f, k, me)) continue;
      const direct = paramOf(storedAs(operand));
      const beneath = direct === null ? topological([operand]).flatMap((i) => paramOf(i) ?? []) : [direct];
      const params = [...new Set(beneath)].filter((p) => wanted.has(p)).map((p) => names.get(p) ?? `a parameter ${show(p.shape)}`);
      reasons.push({ op: s.op.name, path: f.at.path, operand: name, params: [...new Set(params)], direct: direct !== null });
    }
  }
  return reasons;
}

/** Whether f's derivative in its k-th input is written in terms of `me`: the derivative is built, with a placeholder for dy. */
function derivativeReads(f: Tensor, k: number, me: Tensor): boolean {
  if (f.source.kind !== 'apply') return false;
  const { op, ins, attrs } = f.source;
  const dy = input('dy', f.shape);
  const mentions = (d: Tensor | null | undefined, y: Tensor): boolean =>
    d != null && topological([d], new Set([...ins, y, dy])).some((n) => storedAs(n) === me || (n === y && me === storedAs(f)));
  if (op.vjp !== undefined) return mentions(op.vjp({ ...zip(op.inputs, ins), dy, y: f, attrs } as never)[op.inputs[k]!]?.(), f); // a graph has forgotten K and A
  if (op.kernel.kind !== 'composite') return false;
  const y = op.kernel.of(zip(op.inputs, ins), attrs);
  return mentions(pullback(y, dy, [ins[k]!], ins)[0], y);
}
