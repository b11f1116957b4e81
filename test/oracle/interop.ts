// Writes docs/interop.md: every adapter of Hugging Face PEFT's that is read here, and of ours that is read there, and how far the answers are apart.
//   TINYPEFT_PYTHON=python3 npx tsx test/oracle/interop.ts
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { CONFIG_FILE } from '../../io/peft/adapter.ts';
import { ROUTER } from '../../io/peft/arrow.ts';
import { PEFT_FORMATS } from '../../io/peft/formats.ts';
import { off } from './fixtures.ts';
import { EXPERTS, expertsReadAndWritten, expertsWritten, oursOverExperts, recordedExperts } from './hfExperts.ts';
import { answered, FILES, recorded, type There } from './hfFiles.ts';
import { ours, written } from './hfFilesOurs.ts';
import { readAndWritten } from './hfFilesRead.ts';
import { pythonWithPeft, run } from './python.ts';

interface Line {
  readonly type: string;
  readonly title: string;
  readonly apart: string;
  readonly again: boolean; // saved again by whoever read it, the weights are the same bytes
}
const NETWORKS = { llama: 'LLaMA', gpt2: 'GPT-2', bert: 'BERT', roberta: 'RoBERTa' } as const;
const networkOf = (title: string): keyof typeof NETWORKS => title.split('-').at(-1) as keyof typeof NETWORKS;
const shown = (x: number): string => (x === 0 ? '0' : x.toExponential(0));
const ARROW = 'LORA of `arrow_config`';
function typeIn(folder: string): string {
  if (existsSync(join(folder, ROUTER))) return ARROW;
  return (JSON.parse(readFileSync(join(folder, CONFIG_FILE), 'utf8')) as { peft_type: string }).peft_type;
}
const form = (title: string): string => title.split('-').slice(0, -1).join(' ');

async function theirs(): Promise<Line[]> {
  const lines: Line[] = [];
  for (const title of Object.keys(answered))
    lines.push({ type: typeIn(join(FILES, title)), title, apart: shown(await readAndWritten(title)), again: true });
  for (const title of Object.keys(recordedExperts.logits))
    lines.push({ type: typeIn(join(EXPERTS, title)), title, apart: shown(await expertsReadAndWritten(title)), again: true });
  return lines;
}
async function mine(
  python: string,
  script: string,
  titles: readonly string[],
  write: (title: string, folder: string) => Promise<number[]>,
): Promise<Line[]> {
  const folder = mkdtempSync(join(tmpdir(), 'interop-'));
  try {
    const here = new Map<string, number[]>();
    for (const title of titles) here.set(title, await write(title, folder));
    run(python, script, 'read', folder);
    const { logits } = JSON.parse(readFileSync(join(folder, 'logits.json'), 'utf8')) as {
      logits: Record<string, There>;
    };
    return [...here].map(([title, numbers]) => {
      const there = logits[title]!;
      return {
        type: typeIn(join(folder, title)),
        title,
        apart: 'error' in there ? 'cannot be read' : shown(off(numbers, there)),
        again: 'again' in there && there.again,
      };
    });
  } finally {
    rmSync(folder, { recursive: true });
  }
}

/** A row for each type of adapter, a column for each network; a cell has the largest difference of any form, and how many forms. */
function table(lines: readonly Line[]): string[] {
  const types = [...new Set(PEFT_FORMATS.map((f) => f.peftType)), ARROW].filter((t) => lines.some((l) => l.type === t));
  const cell = (type: string, network: string): string => {
    const found = lines.filter((l) => l.type === type && networkOf(l.title) === network);
    if (found.length === 0) return '–';
    if (found.some((l) => Number.isNaN(Number(l.apart)))) return 'cannot be read';
    return `${shown(Math.max(...found.map((l) => Number(l.apart))))}${found.length > 1 ? ` (${found.length})` : ''}`;
  };
  const networks = Object.keys(NETWORKS);
  return [
    `| \`peft_type\` | ${Object.values(NETWORKS).join(' | ')} | forms |`,
    `|${'---|'.repeat(networks.length + 2)}`,
    ...types.map((t) => {
      const forms = [...new Set(lines.filter((l) => l.type === t).map((l) => form(l.title)))];
      return `| ${t} | ${networks.map((n) => cell(t, n)).join(' | ')} | ${forms.join(', ')} |`;
    }),
  ];
}

const python = pythonWithPeft();
if (python === null)
  throw new Error('no Python with peft, torch and transformers: set TINYPEFT_PYTHON to one (see test/oracle/hf_peft.py)');
const read = await theirs();
const wrote = [
  ...(await mine(python, 'hf_files.py', Object.keys(ours), written)),
  ...(await mine(python, 'hf_experts.py', Object.keys(oursOverExperts), expertsWritten)),
];
const iterated = Math.max(...Object.values(recordedExperts.logits).map((l) => ('iterated' in l ? Number(l.iterated) : 0)));
const { peft, torch, transformers } = recorded.about;
const page = `# Adapters exchanged with Hugging Face PEFT

Made by \`TINYPEFT_PYTHON=python3 npx tsx test/oracle/interop.ts\` with peft ${peft}, torch ${torch}, transformers ${transformers}. Cells: the largest difference of
any logit between the two libraries, in double precision from the same float32 numbers, as a share of that logit where it is above 1 (in brackets: over how many forms); – where there
is no such file. \`npm run test:long\` checks the same, and \`npm test\` a part.

## Written by PEFT, read here

Each of these ${read.length} adapters, saved again with \`savePeft(model, folder, { like: loaded.files })\`, is the same bytes: \`adapter_config.json\` and
\`adapter_model.safetensors\`.

${table(read).join('\n')}

PiSSA, OLoRA, KaSA, OSF and FRoD take their start out of the weight again, in float32 there: hence their larger differences (the first three are in LORA on LLaMA).

## Written here, read by PEFT

Of these ${wrote.length} adapters, ${wrote.filter((l) => l.again).length} saved again by PEFT give the same \`adapter_model.safetensors\`, byte for byte: keys, shapes, types, numbers.

${table(wrote).join('\n')}

"split" is a GPT-2 with query, key and value as three layers: its adapters are written for c_attn. PiSSA, OLoRA, CorDA and LoRA-GA are written as a LoRA of twice the rank
for the untouched base; ${['LoRA+', 'LoRA-FA', 'EVA', 'LoRA-drop', 'LoRA dropout', 'MoSLoRA', 'LoRA-XS', 'SoRA', 'DyLoRA', 'PSOFT'].join(', ')} as an ordinary LoRA.

## X-LoRA and Arrow: a folder with a folder for each expert

\`loadPeft(model, folder)\` reads the experts beneath \`folder\` (\`0\`, \`1\`, … or \`task_0\`, …) or where \`{ adapters: { "0": … } }\` says; \`savePeft\` writes them there;
\`loadArrow(model, folders, { topK, general })\` takes LoRAs that nobody has combined. Compared and written again are the experts' files too. What PEFT ${peft} cannot do itself,
and how it is helped in these tables ([hf_experts.py](../test/oracle/hf_experts.py), [decision 370](decisions/370-mixtures-in-folders.md)):

* its \`save_pretrained\` of X-LoRA loses every tensor whose key has an expert's name between dots, \`.0.\` above all: of a gate of depth 1 nothing is left. The gate is
  saved whole with \`safetensors\` instead, under the same keys, which PEFT reads. Files without it are refused here, with that line of Python. The folders it makes of the experts lose layers in the same
  way: use those they came from. Experts that were trained as such are written by
  \`save_file({n.replace("lora_model.", "").replace(f".{k}.weight", ".weight"): v for n, v in model.state_dict().items() if ".lora_" in n and n.endswith(f".{k}.weight")}, f"{folder}/{k}/adapter_model.safetensors", metadata={"format": "pt"})\`
  for each \`k\`, beside the configuration they had.
* it reads X-LoRA's experts only in networks whose inside is called \`model\`, as LLaMA's; and at the paths in the configuration, from where Python runs,
  whatever \`adapters=\` says: where a folder was moved, correct them there.
* nothing but \`create_arrow_model\` reads Arrow, from the folders and the router's configuration. Saved after its first answer with GenKnowSub, its experts have been
  subtracted from already, and are again when they are read: by PEFT and, as the same folder, here.
* Arrow's directions are exact here, and 15 power iterations there. The tables have 500 of those; 15 move these answers by ${shown(iterated)} at most; where two
  directions of an expert are of nearly one size, PEFT's answer is a matter of its seed (decision 370).

## Not exchanged

| what | why |
|---|---|
| prompts (PROMPT_TUNING, P_TUNING, MULTITASK_PROMPT_TUNING) on encoders | PEFT reads a classifier's answer at the prompt's first row, this library at the text's first token |
| \`ensure_weight_tying\` with LoRA on an embedding whose table the head shares | PEFT adapts the head too, with the same factors; \`loraEmbedding\` changes the lookup alone. Refused by name, and read where nothing is shared |
| DoRA, aLoRA, KaSA, VeLoRA, MonteCLoRA and BD-LoRA on embeddings | PEFT has DoRA there, with lengths of the table's columns, and none of the others; \`loraEmbedding\` is the plain update |
| \`trainable_token_indices\` and LoRA on one embedding | PEFT refuses it |
| \`target_parameters\` | parameters that are in no linear layer, as the stacked experts of mixtures of experts: the networks here have none |
| QALoRA (\`use_qalora\`) | PEFT has it on GPTQ layers alone, whose checkpoints are not read here; \`qaLora\` stands on the packed weights of this library |
| PSOFT, reading | the file turns singular vectors of the weight, whose signs are those of the routine that computed them where it was trained: write it there with \`save_as_lora\`, which is exact |
| FROD, writing | PEFT takes the weights apart again when it loads, in a basis of its own, and keeps that beside the file's |
| ADAMSS whose projection was drawn on a GPU, or with as many directions as a layer has outputs | the clusters are in no file; they are made again as PEFT makes them on a CPU, where rounding does not decide |
| AdaMSS from here whose clusters were made here, or that rounding could change | PEFT makes its own on loading: attach it with \`adamssAsPeft\` before training |
| X-LoRA on other networks than LLaMA's kind, or of more than ten experts | PEFT finds no tensors of the experts there, and mixes up the order of more than ten (0, 1, 10, 2) |
| experts of X-LoRA or Arrow that are more than LoRAs on layers (DoRA, PiSSA, biases, modules saved whole), or of several ranks or scalings each | experts share one network that none of them changes; a mixture here has one rank and one scaling for each |
| Arrow at some modules of a name and not at others, or with experts of several ranks; writing | PEFT's router is at every module of a name, and stacks the experts |
| Arrow whose experts were trained after it took their directions, writing | PEFT would take them anew |
| CPT and P_TUNING, as what they were | a file has the finished rows, read as a prompt |
| CorDA, LoRA-GA and \`pissa_niter_*\` files that were not converted on saving | the change of the base cannot be made again without its data |
| RandLoRA, TinyLoRA, FRoD with \`save_projection: false\` | the number type drawn, the normal distribution, or the signs depend on the machine: set it to true and save again (VeRA, PVeRA, UniLoRA and WaveFT are drawn again from the seed) |
| FourierFT and WaveFT from here whose places were drawn here | a file has only PyTorch's seed: \`withTorchPlaces(model)\` before training |
| \`adapter_model.bin\` | a pickle can run any program; save as safetensors |
`;
writeFileSync(join(import.meta.dirname, '..', '..', 'docs', 'interop.md'), page);
console.log(page);
if (wrote.some((l) => Number.isNaN(Number(l.apart)))) process.exitCode = 1;
