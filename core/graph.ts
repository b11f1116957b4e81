// A schedule as a picture: kernels coloured by phase, boxed by layer; values kept from forward to backward stand out. DOT and SVG.
import { account, rootsOf, savedSteps, short } from './account.ts';
import type { Program } from './plan.ts';
import { type Ref, type Schedule, type Step, schedule } from './schedule.ts';
import type { Phase } from './scope.ts';
import { show, size } from './shape.ts';
import type { Data, Param, Tensor } from './tensor.ts';

/** Fill colours: blue for forward, orange for backward, green for the update (Okabe and Ito's colour-blind safe palette, lightened). */
export const PHASE_COLOURS: Readonly<Record<Phase, string>> = { forward: '#cfe3f5', backward: '#fbe0c3', update: '#cdeadf' };
const SOURCE_COLOUR = { leaf: '#eeeeee', input: '#ffffff', state: '#f3d6e6' } as const;
const SAVED_COLOUR = '#d55e00';

export interface GraphOptions {
  /** Layers deeper than this are drawn in the box of the layer above (no limit). */
  readonly depth?: number;
  /** Names of parameters, as `params(model)` answers them. */
  readonly names?: ReadonlyMap<Param, string>;
  /** Whether frozen numbers get a node (false: there are many, and they explain little), or which, under what name. */
  readonly leaves?: boolean | ReadonlyMap<Data, string>;
  /** Kernels for which this answers the same name are drawn as one node. It is asked with a kernel's layer and whether it depends on anything fed. */
  readonly group?: (path: string, fed: boolean) => string | null;
  /** Refuses more kernels than this (2,000): no picture of more is readable. */
  readonly limit?: number;
}

/** The graph an engine would run, in the DOT language. */
export function dot(program: Program | readonly Tensor[] | Tensor, options: GraphOptions = {}): string {
  const { depth = Number.POSITIVE_INFINITY, names = new Map<Param, string>(), leaves = false, group = () => null, limit = 2000 } = options;
  const s = schedule(rootsOf(program));
  if (s.steps.length > limit)
    throw new RangeError(
      `graph: ${s.steps.length} kernels are more than the limit of ${limit}; draw a part (one block's output), or raise \`limit\``,
    );
  const saved = savedSteps(s);
  const root: Box = { name: '', nodes: [], boxes: new Map() };
  const { of, groups } = grouped(s, group);
  for (const [name, members] of groups) {
    const [first] = members;
    const { path, phase } = s.steps[first!]!.node.at;
    const label = `${name}\\n${members.length} kernel${members.length === 1 ? '' : 's'}`;
    boxAt(root, path.split('.').filter(Boolean).slice(0, depth)).nodes.push(
      `s${first} [label=${quote(label)}, fillcolor="${PHASE_COLOURS[phase]}", style="rounded,filled,dashed"];`,
    );
  }
  for (const [k, { node, kernel }] of s.steps.entries()) {
    if (of[k] !== null) continue;
    const path = node.at.path.split('.').filter(Boolean).slice(0, depth);
    const label = `${title(kernel.name)}\\n${show(node.shape)}${saved.has(k) ? `\\nkept ${short(4 * size(node.shape), 'B')}` : ''}`;
    const border = saved.has(k) ? `, color="${SAVED_COLOUR}", penwidth=2` : '';
    const tip = `${kernel.name} in ${node.at.path} (${node.at.phase}): ${short(kernel.flops)} FLOP`;
    boxAt(root, path).nodes.push(
      `s${k} [label=${quote(label)}, fillcolor="${PHASE_COLOURS[node.at.phase]}"${border}, tooltip=${quote(tip)}];`,
    );
  }
  const leafName = (data: Data): string | null => (typeof leaves === 'boolean' ? (leaves ? '' : null) : (leaves.get(data) ?? null));
  const drawn = (r: Ref): boolean => r.kind !== 'leaf' || leafName(s.leaves[r.index]!.data) !== null;
  const nodeOf = (k: number): number => (of[k] == null ? k : groups.get(of[k])![0]!);
  const edges = s.steps.flatMap(({ args, node }, k) =>
    args.filter(drawn).flatMap((r) => {
      const from: Ref = r.kind === 'step' ? { kind: 'step', index: nodeOf(r.index) } : r;
      if (from.kind === 'step' && from.index === nodeOf(k)) return [];
      const kept = r.kind === 'step' && saved.has(r.index) && node.at.phase === 'backward';
      return [`${id(from)} -> s${nodeOf(k)}${kept ? ` [color="${SAVED_COLOUR}", penwidth=2]` : ''};`];
    }),
  );
  const sources = [
    ...s.inputs.map((i, k) => source(`i${k}`, `${i.name}\\n${show(i.shape)}`, 'input')),
    ...s.states.map((p, k) => source(`p${k}`, `${names.get(p) ?? 'parameter'}\\n${show(p.shape)}`, 'state')),
    ...s.leaves.flatMap((l, k) => {
      const name = leafName(l.data);
      return name === null ? [] : [source(`l${k}`, `${name === '' ? '' : `${name}\\n`}${show(l.shape)}`, 'leaf')];
    }),
  ];
  return [
    'digraph {',
    '  rankdir=TB; ranksep=0.3; nodesep=0.2; fontname="Helvetica";',
    '  node [shape=box, style="rounded,filled", fontname="Helvetica", fontsize=10, margin="0.14,0.05", color="#888888"];',
    '  edge [color="#888888", arrowsize=0.5];',
    ...inside(root, '', '  '),
    ...sources.map((l) => `  ${l}`),
    ...(groups.size === 0 ? edges : [...new Set(edges)]).map((l) => `  ${l}`),
    `  label=${quote(caption(program))}; labelloc=b; fontsize=10;`,
    '}',
    '',
  ].join('\n');
}

/** The group of each step, and the steps of each group. */
function grouped(s: Schedule, group: NonNullable<GraphOptions['group']>): { of: (string | null)[]; groups: Map<string, number[]> } {
  const fed: boolean[] = [];
  const of: (string | null)[] = [];
  const groups = new Map<string, number[]>();
  for (const [k, { node, args }] of s.steps.entries()) {
    fed.push(args.some((r) => r.kind === 'input' || (r.kind === 'step' && fed[r.index])));
    const name = group(node.at.path, fed[k]!);
    of.push(name);
    if (name !== null) groups.set(name, [...(groups.get(name) ?? []), k]);
  }
  return { of, groups };
}

interface Box {
  readonly name: string;
  readonly nodes: string[];
  readonly boxes: Map<string, Box>;
}
function boxAt(root: Box, path: readonly string[]): Box {
  return path.reduce((box, name) => {
    const inner = box.boxes.get(name) ?? { name, nodes: [], boxes: new Map<string, Box>() };
    box.boxes.set(name, inner);
    return inner;
  }, root);
}
const inside = (box: Box, path: string, indent: string): string[] => [
  ...box.nodes.map((n) => `${indent}${n}`),
  ...[...box.boxes.values()].flatMap((b) => {
    const at = path === '' ? b.name : `${path}.${b.name}`;
    return [
      `${indent}subgraph ${quote(`cluster ${at}`)} {`,
      `${indent}  label=${quote(b.name)}; color="#bbbbbb"; style=rounded; labeljust=l; fontsize=10;`,
      ...inside(b, at, `${indent}  `),
      `${indent}}`,
    ];
  }),
];

/** A fused kernel's name, shortened in the middle. */
const title = (name: string): string => {
  const ops = name.split('+').filter((op, _, all) => op !== 'next' || all.length === 1);
  return ops.length <= 4 ? ops.join('+') : `${ops.slice(0, 2).join('+')}+…+${ops.at(-1)} (${ops.length} ops)`;
};
const id = ({ kind, index }: Ref): string => `${{ step: 's', input: 'i', state: 'p', leaf: 'l' }[kind]}${index}`;
const source = (name: string, label: string, kind: keyof typeof SOURCE_COLOUR): string =>
  `${name} [label=${quote(label)}, fillcolor="${SOURCE_COLOUR[kind]}", shape=ellipse];`;
/** A DOT string; `\n` written as two characters stays a line break. */
const quote = (text: string): string =>
  `"${text
    .replaceAll(/\\(?!n)/g, '\\\\')
    .replaceAll('"', '\\"')
    .replaceAll('\n', ' ')}"`;

function caption(program: Program | readonly Tensor[] | Tensor): string {
  const { total, phases } = account(program);
  const count = (p: Phase): string => (phases[p].kernels === 0 ? '' : ` ${p} ${phases[p].kernels},`);
  return `${total.kernels} kernels:${count('forward')}${count('backward')}${count('update')} ${short(total.flops)} FLOP, kept for backward ${short(total.saved, 'B')}`;
}

/** A DOT text as SVG, laid out by Graphviz (in WebAssembly, loaded when first asked for; no network). */
export async function svg(text: string): Promise<string> {
  const { instance } = await import('@viz-js/viz');
  return (await instance()).renderString(text, { format: 'svg', engine: 'dot' });
}

/** The steps of a schedule, one line each, in the order in which they run. */
export function listing(program: Program | readonly Tensor[] | Tensor, names: ReadonlyMap<Param, string> = new Map()): string {
  const s = schedule(rootsOf(program));
  const read = (r: Ref): string => {
    if (r.kind === 'step') return `%${r.index}`;
    if (r.kind === 'input') return s.inputs[r.index]!.name;
    return r.kind === 'state' ? (names.get(s.states[r.index]!) ?? `param ${r.index}`) : `frozen ${show(s.leaves[r.index]!.shape)}`;
  };
  return s.steps.map((st, k) => line(st, k, read)).join('\n');
}
function line({ node, kernel, args, free }: Step, k: number, read: (r: Ref) => string): string {
  const gone = free.length === 0 ? '' : `   frees ${free.map((f) => `%${f}`).join(' ')}`;
  return `%${k} = ${kernel.name}(${args.map(read).join(', ')}) ${show(node.shape)}  ${node.at.phase}${node.at.path === '' ? '' : ` ${node.at.path}`}${gone}`;
}
