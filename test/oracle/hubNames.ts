// Our tensors' paths as AdapterHub's names: 'a' is the adapter's name there.

const PREFIX = 'bert.encoder.layer.0.attention.self.prefix_tuning.pool.prefix_tunings.a.self_prefix.';
const BOTTLENECK: Readonly<Record<string, readonly string[]>> = {
  down: ['adapter_down.0.weight'],
  downBias: ['adapter_down.0.bias', 'adapter_down.0.b'], // PHM layers have a name of their own
  up: ['adapter_up.weight'],
  upBias: ['adapter_up.bias', 'adapter_up.b'],
  s: ['scaling'],
  downS: ['adapter_down.0.W_left'],
  downT: ['adapter_down.0.W_right'],
  upS: ['adapter_up.W_left'],
  upT: ['adapter_up.W_right'],
  'gate.0': ['gate.weight'],
  'gate.1': ['gate.bias'],
};
const FUSION: Readonly<Record<string, string>> = {
  ...{ query: 'query.weight', queryBias: 'query.bias', key: 'key.weight', keyBias: 'key.bias', value: 'value.weight' },
};
const LORA: Readonly<Record<string, readonly string[]>> = {
  A: ['lora_A'],
  B: ['lora_B'],
  l: ['lora_B'],
  m: ['m.weight'],
  lambdaB: ['vera_B'],
  lambdaD: ['vera_D'],
  lambda: ['task_specific.values'],
  omega: ['weights'],
};
const LINEAR: Readonly<Record<string, string>> = {
  'attn.q': 'attention.self.query',
  'attn.k': 'attention.self.key',
  'attn.v': 'attention.self.value',
  'mlp.up': 'intermediate.dense',
};
const MLP: Readonly<Record<string, string>> = { E: 'wte.weight', W1: 'control_trans.0.weight', b1: 'control_trans.0.bias' };

/** Their names that a path of ours could have. */
function candidates(path: string, a: string): readonly string[] {
  const trunk = /^trunk\.(prefixTuning|promptTuning|invertible)\.(.+)$/.exec(path);
  if (trunk?.[1] === 'promptTuning') return [`bert.prompt_tuning.prompt_tunings.${a}.prompt_embedding.weight`];
  if (trunk?.[1] === 'invertible') {
    const [net, k] = trunk[2]!.split('.');
    return [`bert.invertible_adapters.${a}.${net}.${k === '0' || k === '1' ? 0 : 2}.${k === '0' || k === '2' ? 'weight' : 'bias'}`];
  }
  const prefix = (name: string, first: number): string[] => {
    const [what, k] = name.split('.') as [string, string | undefined];
    if (k === undefined) return MLP[what] === undefined ? [] : [MLP[what]];
    const at = first + Number(k);
    return { table: [`control_trans.${at}`], W2: [`control_trans.2.weight.${at}`], b2: [`control_trans.2.bias.${at}`] }[what] ?? [];
  };
  const ofPrefix = (name: string, first: number): string[] => prefix(name, first).map((n) => PREFIX.replace('.a.', `.${a}.`) + n);
  if (trunk) return ofPrefix(trunk[2]!, 0);
  const [, block, rest] = /^trunk\.blocks\.(\d)\.(.+)$/.exec(path)!;
  const layer = `bert.encoder.layer.${block}`;
  const linear = /^(attn\.[qkv]|mlp\.up)\.\w+\.(\w+)$/.exec(rest!);
  if (linear && LINEAR[linear[1]!] !== undefined && LORA[linear[2]!] !== undefined)
    return LORA[linear[2]!]!.map((n) => `${layer}.${LINEAR[linear[1]!]}.loras.${a}.${n}`);
  const gated = /^attn\.unipelt\.(lora|gateQ|gateV|gateP)\.(\d)$/.exec(rest!);
  if (gated) {
    const [what, k] = [gated[1]!, Number(gated[2])];
    if (what === 'lora') return [`${layer}.attention.self.${k < 2 ? 'query' : 'value'}.loras.${a}.lora_${k % 2 === 0 ? 'A' : 'B'}`];
    const kind = k === 0 ? 'weight' : 'bias';
    if (what === 'gateP') return [`${layer}.attention.self.prefix_tuning.prefix_gates.${a}.${kind}`];
    return [`${layer}.attention.self.${what === 'gateQ' ? 'query' : 'value'}.loras.${a}.gate.${kind}`];
  }
  const shared = /^attn\.unipelt\.(.+)$/.exec(rest!);
  if (shared) return ofPrefix(shared[1]!, 2 * Number(block));
  const reft = /^(?:lo|no|di)reft\.([WbR])\.(\d)$/.exec(rest!);
  if (reft) {
    const of = { W: 'learned_source.weight', b: 'learned_source.bias', R: 'projection.weight' }[reft[1]!];
    return [`${layer}.reft_layer.refts.${a}.units.${reft[2]}.${of}`];
  }
  const [, where, name] = /^(?:(attn|mlp)\.)?\w+\.(.+)$/.exec(rest!)!;
  const fusion = FUSION[name!];
  if (fusion !== undefined) return [`${layer}.output.adapter_fusion_layer.${a}.${fusion}`];
  if (name === 'A') return [`bert.shared_parameters.${a}.phm_rule`];
  return (BOTTLENECK[name!] ?? []).map((n) => `${layer}.${where === 'attn' ? 'attention.output' : 'output'}.adapters.${a}.${n}`);
}

/** The name under which a fixture has our tensor; throws where it has none. */
export function hubName(path: string, has: Readonly<Record<string, unknown>>, a = 'a'): string {
  const all = candidates(path, a);
  const found = all.find((n) => n in has);
  if (found === undefined) throw new Error(`${path}: the fixture has none of ${all.join(', ') || '(no name known)'}`);
  return found;
}
