// The house rules that a machine can check: which folder may import which, what a module may hold, and what one method loads.
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { dirname, join, relative, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';

const ROOT = resolve(dirname(fileURLToPath(import.meta.url)), '..');
/** What each folder may import besides itself. bench, test and the rest may import anything. */
const MAY_IMPORT: Readonly<Record<string, readonly string[]>> = {
  core: [],
  nn: ['core'],
  quant: ['core', 'nn'],
  optim: ['core', 'nn'],
  peft: ['core', 'nn', 'quant', 'optim'],
  io: ['core', 'nn', 'quant', 'optim', 'peft'],
  cli: ['core', 'nn', 'quant', 'optim', 'peft', 'io'],
  lab: ['core', 'nn', 'quant', 'optim', 'peft', 'io'],
  examples: ['core', 'nn', 'quant', 'optim', 'peft', 'io', 'test/laws'], // one example lets the laws judge a method
};
const FOLDERS = [...Object.keys(MAY_IMPORT), 'test', 'bench'];
/** Folders that run in a browser as they are. */
const BROWSER = ['core', 'nn', 'peft', 'optim', 'quant'];

const files: readonly string[] = FOLDERS.filter((f) => existsSync(join(ROOT, f))).flatMap((f) =>
  readdirSync(join(ROOT, f), { recursive: true, encoding: 'utf8' })
    .filter((p) => p.endsWith('.ts') && !p.endsWith('.d.ts') && !p.includes('node_modules'))
    .map((p) => join(f, p).replaceAll('\\', '/')),
);
const OTHER_LANGUAGE = 'core/simd/assembly/'; // AssemblyScript: another compiler, no modules of ours
const own = files.filter((f) => !f.startsWith(OTHER_LANGUAGE));
const text = new Map(own.map((f) => [f, readFileSync(join(ROOT, f), 'utf8')]));
const folderOf = (path: string): string => path.split('/')[0]!;

interface Import {
  readonly to: string; // a path from the root, or the name of a package
  readonly packaged: boolean;
  readonly loads: boolean; // false for `import type`, which leaves nothing behind
  readonly lazy: boolean;
}
/** Code without comments and texts, so that an import in either is none; `keepTexts` leaves texts in. */
const code = (source: string, keepTexts = false): string =>
  source.replace(/\/\*[\s\S]*?\*\/|(?<![:'"`\\])\/\/[^\n]*|`(?:\\[\s\S]|[^`\\])*`|'(?:\\.|[^'\\\n])*'|"(?:\\.|[^"\\\n])*"/g, (m) =>
    m.startsWith('/') ? '' : keepTexts ? m : m[0]! + m.at(-1)!,
  );
function importsOf(file: string): Import[] {
  const source = code(text.get(file)!, true);
  const one = (name: string, loads: boolean, lazy: boolean): Import =>
    name.startsWith('.')
      ? { to: relative(ROOT, resolve(ROOT, dirname(file), name)).replaceAll('\\', '/'), packaged: false, loads, lazy }
      : { to: name, packaged: true, loads, lazy };
  return [
    ...[...source.matchAll(/^(?:import|export)\s+(type\s)?(?:[^'";]*?\sfrom\s+)?'([^']+)'/gm)].map((m) =>
      one(m[2]!, m[1] === undefined, false),
    ),
    ...[...source.matchAll(/\bimport\(\s*'([^']+)'/g)].map((m) => one(m[1]!, true, true)),
  ];
}
const bad = (what: (file: string) => string[]): string[] => own.flatMap((f) => what(f).map((w) => `${f}: ${w}`));

test('the checks see the sources', () => {
  expect(own.length).toBeGreaterThan(60);
  expect(importsOf('peft/reparameterized/lora.ts').map((i) => i.to)).toContain('peft/attach.ts');
  expect(importsOf('core/graph.ts')).toContainEqual({ to: '@viz-js/viz', packaged: true, loads: true, lazy: true });
  expect(code("a('x // y') // z\n/* `q` */ `r`", false)).toBe("a('') \n ``");
});

describe('imports', () => {
  test('go one way: core ← nn ← {quant, optim} ← peft ← io ← {cli, lab, examples}', () => {
    expect(
      bad((f) => {
        const allowed = MAY_IMPORT[folderOf(f)];
        if (allowed === undefined) return [];
        return importsOf(f)
          .filter((i) => !i.packaged && folderOf(i.to) !== folderOf(f) && !allowed.some((a) => i.to.startsWith(`${a}/`)))
          .map((i) => `imports ${i.to}`);
      }),
    ).toEqual([]);
  });
  test('name files that exist, with their ending', () => {
    expect(
      bad((f) =>
        importsOf(f)
          .filter((i) => !i.packaged && !existsSync(join(ROOT, i.to)))
          .map((i) => i.to),
      ),
    ).toEqual([]);
  });
  test('only core/engines/gpujs.ts knows gpu.js', () => {
    expect(
      bad((f) =>
        f === 'core/engines/gpujs.ts' || /^(test|bench)\//.test(f)
          ? []
          : importsOf(f)
              .filter((i) => i.to === 'gpu.js')
              .map((i) => i.to),
      ),
    ).toEqual([]);
  });
  test('what runs in a browser imports nothing of Node', () => {
    const free = (f: string): boolean => !BROWSER.includes(folderOf(f)) || f.startsWith('core/engines/') || f.startsWith('core/simd/');
    expect(
      bad((f) =>
        free(f)
          ? []
          : importsOf(f)
              .filter((i) => i.to.startsWith('node:') && i.loads)
              .map((i) => i.to),
      ),
    ).toEqual([]);
  });
  test('packages are dependencies of ours', () => {
    const { dependencies, optionalDependencies, devDependencies } = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8')) as Record<
      string,
      Record<string, string>
    >;
    const shipped = Object.keys({ ...dependencies, ...optionalDependencies });
    const all = [...shipped, ...Object.keys(devDependencies ?? {})];
    const name = (s: string): string =>
      s
        .split('/')
        .slice(0, s.startsWith('@') ? 2 : 1)
        .join('/');
    expect(
      bad((f) => {
        const may = /^(core|nn|quant|optim|peft|io)\//.test(f) && f !== 'core/simd/build.ts' ? shipped : all; // a build script runs here only
        return importsOf(f)
          .filter((i) => i.packaged && i.loads && !i.to.startsWith('node:') && !may.includes(name(i.to)))
          .map((i) => i.to);
      }),
    ).toEqual([]);
  });
});

describe('modules', () => {
  test('have no more than 400 lines', () => {
    expect(
      bad((f) => {
        const n = text.get(f)!.trimEnd().split('\n').length;
        return n > 400 ? [`${n} lines`] : [];
      }),
    ).toEqual([]);
  });
  test('say in their first line what they are', () => {
    expect(bad((f) => (/^(#!.*\n)?\/\/ \S/.test(text.get(f)!) ? [] : ['starts without a comment']))).toEqual([]);
  });
  const forbid = (title: string, pattern: RegExp, except: (f: string) => boolean = () => false): void =>
    test(title, () => {
      expect(bad((f) => (except(f) ? [] : [...code(text.get(f)!).matchAll(pattern)].map((m) => m[0].trim())))).toEqual([]);
    });
  forbid('have no `any`', /(?<=[:<,|&(]\s*)any\b(?!\s*[(:=])|\bas any\b/g);
  forbid('have no enum', /\b(const\s+)?enum\s+\w+\s*\{/g);
  forbid('have no default export', /\bexport\s+default\b/g);
  forbid('have no barrel', /^export\s+\*/gm);
  forbid(
    'hold no changing state: no `let` or `var` outside functions, but the scope',
    /^(export\s+)?(let|var)\s/gm,
    (f) => f === 'core/scope.ts' || /^(test|bench|cli|examples)\//.test(f),
  );
});

describe('one method', () => {
  /** Every file that loading one file loads at once, types and lazy imports not counted. */
  function reach(file: string): Set<string> {
    const seen = new Set<string>();
    const stack = [file];
    for (let f = stack.pop(); f !== undefined; f = stack.pop()) {
      if (seen.has(f)) continue;
      seen.add(f);
      stack.push(
        ...importsOf(f)
          .filter((i) => !i.packaged && i.loads && !i.lazy)
          .map((i) => i.to),
      );
    }
    return seen;
  }
  const methods = own.filter((f) => /^peft\/(additive|selective|reparameterized|hybrid)\/\w+\.ts$/.test(f));
  test('LoRA loads no other method, no engine, no trainer, no quantiser', () => {
    const loaded = [...reach('peft/reparameterized/lora.ts')];
    expect(loaded.filter((f) => methods.includes(f))).toEqual(['peft/reparameterized/lora.ts']);
    expect(loaded.filter((f) => /^(optim|quant|io|core\/engines)\//.test(f))).toEqual([]);
    expect(loaded).not.toContain('peft/all.ts');
  });
  test('no method loads the list of all methods, an engine or a trainer', () => {
    expect(
      methods.flatMap((m) =>
        [...reach(m)]
          .filter(
            (f) => f === 'peft/all.ts' || f.startsWith('peft/lists/') || f.startsWith('core/engines/') || f.startsWith('optim/trainer'),
          )
          .map((f) => `${m} loads ${f}`),
      ),
    ).toEqual([]);
  });
  test('each folder is an entry of the package', () => {
    const { exports } = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8')) as { exports: Record<string, unknown> };
    for (const f of ['core', 'nn', 'peft', 'optim', 'quant', 'io']) expect(Object.keys(exports)).toContain(`./${f}/*`);
  });
});
