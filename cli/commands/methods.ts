// `tinypeft methods`, `npm run methods`: what the library can attach: as a table, as JSON, one in detail, as pages, or all trained side by side.
import { parseArgs } from 'node:util';
import { nearest } from '../../core/nearest.ts';
import { methods } from '../../peft/all.ts';
import { programs } from '../../peft/lists/programs.ts';
import { composing } from '../methodComposes.ts';
import { details } from '../methodDetails.ts';
import { fits, keeps, programRow, programTable, type Row, referenceModel, rowOf, table } from '../methodRows.ts';
import { programDetails } from '../programDocs.ts';
import { UsageError } from '../usage.ts';

const help = `npm run methods -- [show NAME] [--family NAME] [--place KIND] [--mergeable] [--max-params N] [--json]
npm run methods -- --train [--steps N] [--seeds N] [--only A,B] [--quick] [--resume] [--docs]
npm run methods -- --docs

  A table of all methods: name, family, place, paper, the formula of what is trained (cut where it is long) and the
  number, whether it merges into plain weights, whether it can be put on top of other methods, and whether a fresh
  attachment computes the same as the base. Numbers are for the defaults on the reference model named below the table.

  show NAME        one method: equation, where it sits, defaults, counts, merging, its file; or one program, and its tests
  --family NAME    additive, selective, reparameterized or hybrid
  --place KIND     the kind of layer it attaches to: weight, linear, norm, embedding, branch, block, trunk
  --mergeable      those that merge into plain weights
  --max-params N   those that train at most N scalars on the reference model
  --json           one record per method, for programs

  --train          trains every method on one small task and writes docs/methods-trained.md, .json and .svg (about ten minutes)
  --steps N        steps of each training (100)
  --seeds N        trainings per method, whose mean and spread are shown (3)
  --only A,B       these methods only; written to out/methods/ instead of docs/
  --quick          a few methods of each family, fewer steps, one seed: under a minute; written to out/methods/
  --resume         keep what an interrupted run has finished

  --docs           writes docs/methods.md, and a page for every method (with a figure) and program into docs/methods/
  --help           this text`;

function parsed(args: readonly string[]) {
  try {
    return parseArgs({
      args: [...args],
      allowPositionals: true,
      options: {
        json: { type: 'boolean', default: false },
        family: { type: 'string' },
        place: { type: 'string' },
        mergeable: { type: 'boolean', default: false },
        'max-params': { type: 'string' },
        docs: { type: 'boolean', default: false },
        train: { type: 'boolean', default: false },
        steps: { type: 'string' },
        seeds: { type: 'string' },
        only: { type: 'string' },
        quick: { type: 'boolean', default: false },
        resume: { type: 'boolean', default: false },
        help: { type: 'boolean', short: 'h', default: false },
      },
    });
  } catch (e) {
    throw new UsageError(e instanceof Error ? e.message : String(e));
  }
}

/** A whole number from `least`, or undefined where the flag was not given. */
function whole(flag: string, value: string | undefined, least: number): number | undefined {
  if (value === undefined) return undefined;
  const n = Number(value.replaceAll(/[_,]/g, ''));
  if (!Number.isInteger(n) || n < least) throw new UsageError(`--${flag} ${value}: expected a whole number from ${least}`);
  return n;
}
function oneOf(what: string, value: string | undefined, known: readonly string[]): string | undefined {
  if (value !== undefined && !known.includes(value)) throw new UsageError(`there is no ${what} ${value}; there are ${known.join(', ')}`);
  return value;
}
const program = (name: string) => programs.find((p) => p.name === name);
/** The method of a name; where there is none, the nearest of `names`. */
function method(name: string, names: readonly { readonly name: string }[]) {
  const found = methods.find((m) => m.name === name);
  const near = (): string[] =>
    nearest(
      name,
      names.map((m) => m.name),
    );
  if (found === undefined) throw new UsageError(`there is no method ${name}. Nearest: ${near().join(', ')}`);
  return found;
}
/** A method that --train trains. */
function trained(name: string): string {
  if (program(name) !== undefined)
    throw new UsageError(`${name} is a program and no single attachment; --train trains methods: show ${name} says more`);
  return method(name, methods).name;
}

export async function methodsCommand(args: readonly string[]): Promise<void> {
  const { values: v, positionals } = parsed(args);
  if (v.help) return console.log(help);
  const [command, name, ...more] = positionals;
  if (command !== undefined && command !== 'show') throw new UsageError(`unknown command ${command}; there is: show NAME`);
  if (command === 'show' && name === undefined) throw new UsageError('show needs the name of a method');
  if (more.length > 0) throw new UsageError(`show prints one method; what is ${more.join(' ')}?`);
  const filter = {
    family: oneOf('family', v.family, [...new Set(methods.map((m) => m.family))]),
    place: oneOf('place', v.place, [...new Set(methods.flatMap((m) => m.at))]),
    mergeable: v.mergeable,
    maxParams: whole('max-params', v['max-params'], 0),
  };
  const [steps, seeds, only] = [whole('steps', v.steps, 1), whole('seeds', v.seeds, 1), v.only?.split(',').map(trained)];
  if (!v.train && (steps ?? seeds ?? only ?? (v.quick || v.resume || undefined)) !== undefined)
    throw new UsageError('--steps, --seeds, --only, --quick and --resume are for --train');
  if (v.train) {
    const { train } = await import('../methodTrain.ts');
    const all = await train({ steps, seeds, only, quick: v.quick, resume: v.resume });
    if (!all) return;
  }
  if (v.docs) {
    const { writeDocs } = await import('../methodDocs.ts');
    await writeDocs();
  }
  if (v.train || v.docs) return;
  const shownProgram = name === undefined ? undefined : program(name);
  if (shownProgram !== undefined)
    return console.log(v.json ? JSON.stringify(programRow(shownProgram), null, 2) : programDetails(shownProgram));
  const model = referenceModel();
  if (name !== undefined) {
    const m = method(name, [...methods, ...programs]);
    return console.log(v.json ? JSON.stringify(await rowOf(m, model, composing()), null, 2) : await details(m, model));
  }
  const [composes, rows]: [ReturnType<typeof composing>, Row[]] = [composing(), []];
  for (const m of methods.filter(fits(filter))) rows.push(await rowOf(m, model, composes));
  const kept = rows.filter(keeps(filter));
  const shown = Object.values(filter).every((f) => f === undefined || f === false) ? programs : [];
  console.log(v.json ? JSON.stringify([...kept, ...shown.map(programRow)], null, 2) : `${table(kept)}${programTable(shown)}`);
}
