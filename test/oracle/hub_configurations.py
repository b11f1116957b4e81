"""Writes fixtures/hub-configurations.json: every configuration string and composition block of AdapterHub's `adapters` on the tiny BERT.

Each configuration is the library's default; only sizes that a network of width 16 cannot have are smaller, and named in `sizes`. `settings` has what the
library says of its configuration, and `counts` what it trains under it, unchanged, on a BERT of width 128. Run by hand (after nn.py), like hub.py:
    venv/bin/pip install torch adapters && venv/bin/python test/oracle/hub_configurations.py
"""

import json

import adapters
import torch
import torch.nn.functional as F
import transformers
from adapters import AdapterPlusConfig, LoRAConfig, PrefixTuningConfig, SeqBnConfig, UniPELTConfig
from adapters.composition import Average, BatchSplit, Fuse, Parallel, Split, Stack
from adapters.configuration import ADAPTER_CONFIG_MAP, ConfigUnion
from torch.nn.utils import parametrize
from transformers import BertConfig, BertForSequenceClassification

from fixture import FOLDER, exact, result, write

base = json.loads((FOLDER / "nn-bert.json").read_text())
ids, mask, types, targets = (torch.tensor(base[k]) for k in ("ids", "mask", "types", "targets"))
# Adapter+ needs torchvision for its stochastic depth, which is for training only.
MAP = {**ADAPTER_CONFIG_MAP, "Adapter+": AdapterPlusConfig(stochastic_depth=0.0)}
OLD = {"pfeiffer", "houlsby", "parallel", "scaled_parallel", "pfeiffer+inv", "houlsby+inv"}
TABLES = dict(prefix_length=3, bottleneck_size=5)
SIZES = {
    "seq_bn": dict(reduction_factor=4),  # 16 leaves one ReLU, which is at rest on these texts: no gradient
    "seq_bn_inv": dict(reduction_factor=4),
    "compacter": dict(reduction_factor=4),
    "compacter++": dict(reduction_factor=4),
    "prefix_tuning": TABLES,
    "prefix_tuning_flat": dict(prefix_length=3),
    "prompt_tuning": dict(prompt_length=4),
    "mam": {0: TABLES},
    "unipelt": {0: TABLES},
}


def model_of(width=16, heads=4, inner=24):
    torch.set_default_dtype(torch.float32)
    config = BertConfig(
        vocab_size=13, hidden_size=width, num_hidden_layers=2, num_attention_heads=heads, intermediate_size=inner, num_labels=3,
        max_position_embeddings=12, attn_implementation="eager",
    )
    model = BertForSequenceClassification(config)
    if width == 16:
        model.load_state_dict({n: torch.tensor(w["data"]).reshape(w["shape"]) for n, w in base["weights"].items()}, strict=False)
    adapters.init(model)
    return model


def sized(name):
    config, sizes = MAP[name], SIZES.get(name, {})
    if isinstance(config, ConfigUnion):
        return ConfigUnion(*[c.replace(**sizes.get(k, {})) for k, c in enumerate(config.configs)])
    return config.replace(**sizes)


def parts(name, t, p):
    """A tensor of theirs as tensors of ours: a matrix of all layers' tables cut into them, a diagonal matrix as its diagonal."""
    if "control_trans" in name and "control_trans.0" not in name:
        if t.dim() == 1 and "bias" not in name:
            t = t.reshape(p, -1).T  # flat: [2L·Hk·D, p]
            return {f"{name}.{i}": t[16 * i : 16 * (i + 1)].T for i in range(4)}
        return {f"{name}.{i}": t[16 * i : 16 * (i + 1)] for i in range(4)}
    if name.endswith(("vera_D", "vera_B")):
        return {name: torch.diagonal(t)}
    return {name: t}


def answer(model, prompt):
    if prompt == 0:
        return model(input_ids=ids, attention_mask=mask, token_type_ids=types).logits
    h = model.bert(input_ids=ids, attention_mask=mask, token_type_ids=types)[0][:, prompt:]  # the pooler is to read the text, not the prompt
    return model.classifier(model.bert.pooler(h))


def fill(model, own):
    g = torch.Generator().manual_seed(11)
    wanted = [(n, p) for n, p in model.named_parameters() if any(o in n for o in own)]
    for n, p in wanted:
        draw = 0.3 * torch.randn(p.shape, generator=g)
        if n.endswith((".m.weight", "original1")) or "parametrizations" in n:
            draw = p.data * (1 + draw) if n.endswith(".m.weight") else p.data
        elif n.endswith(("vera_D", "vera_B")):
            draw = torch.diag(torch.diagonal(draw))
        elif n.endswith(("scaling", "task_specific.values", "weights")) or "loras.a.lora_B" in n and p.dim() == 1:
            draw = 1 + draw
        p.data = draw.to(torch.float32)
    return wanted


def case(name):
    model = model_of()
    model.add_adapter("a", config=sized(name))
    model.set_active_adapters("a")
    if name in ("dora", "dvora"):  # theirs scales the bias with the rest, and does not merge what it computes: compared where there is none
        for n, p in model.named_parameters():
            if n.endswith(("self.query.bias", "self.value.bias")):
                p.data.zero_()
    wanted = fill(model, [".a.", "shared_parameters"])
    config = sized(name)
    p = config[0]["prefix_length"] if isinstance(config, ConfigUnion) else config.get("prefix_length", 0)
    prompt = config["prompt_length"] if name == "prompt_tuning" else 0
    model.eval().double()
    torch.set_default_dtype(torch.float64)  # the library makes tensors of its own in between
    idle = ("units.1.", "parametrizations")
    frozen = ("shared_parameters.a.lora_",)
    kept = [(n, q) for n, q in wanted if not any(i in n for i in idle)]
    train = [(n, q) for n, q in kept if not any(i in n for i in frozen)]
    for n, q in model.named_parameters():
        q.requires_grad_(any(n == t for t, _ in train) or "parametrizations" in n and "units.0" in n)
        if n.endswith(("vera_D", "vera_B")):
            q.register_hook(lambda g: g * torch.eye(len(g), dtype=g.dtype))  # kept diagonal: two vectors, as the papers have them
    tables = {k: exact(v) for n, q in kept for k, v in parts(n, q, p).items()}
    with parametrize.cached():  # one R for all uses, so that it has a gradient
        value = F.cross_entropy(answer(model, prompt), targets)
        turned = [(n, m.weight) for n, m in model.named_modules() if n.endswith("units.0.projection") and parametrize.is_parametrized(m)]
        tables |= {f"{n}.weight": exact(R) for n, R in turned}
        all_of = train + [(f"{n}.weight", R) for n, R in turned]
        grads = torch.autograd.grad(value, [q for _, q in all_of], allow_unused=True)
    out = {"tensors": tables, "logits": result(answer(model, prompt)), "loss": value.item(), "grads": {}}
    for (n, q), g in zip(all_of, grads):
        g = torch.zeros_like(q) if g is None else g
        if any(n == f"{t}.weight" for t, _ in turned):
            R = q.double()
            g = g - (g @ R.T) @ R  # along the sphere: rank 1
        out["grads"] |= {k: result(v) for k, v in parts(n, g, p).items()}
    optimizer = torch.optim.AdamW([q for _, q in train], lr=0.01, weight_decay=0.0)
    losses = []
    for _ in range(3):
        optimizer.zero_grad()
        v = F.cross_entropy(answer(model, prompt), targets)
        losses.append(v.item())
        v.backward()
        optimizer.step()
    return out | {"losses": losses, "after": result(answer(model, prompt))}


def count(name):
    model = model_of(128, 4, 96)
    model.add_adapter("a", config=MAP[name])
    return sum(q.numel() for n, q in model.named_parameters() if (".a." in n or "shared_parameters" in n) and "shared_parameters.a.lora_" not in n)


def settings(config):
    return {k: v for k, v in sorted(config.to_dict().items()) if k != "configs"} if not isinstance(config, ConfigUnion) else [settings(c) for c in config.configs]


def block(config, setup, fusion=None):
    model = model_of()
    for n in "ab":
        model.add_adapter(n, config=config)
    if fusion:
        model.add_adapter_fusion(setup, config=fusion)
    model.set_active_adapters(setup)
    wanted = fill(model, [".a.", ".b.", "fusion_layer"])
    if isinstance(config, LoRAConfig):
        assert not any("scaling" in n for n, _ in wanted)
    model.eval().double()
    torch.set_default_dtype(torch.float64)  # the library makes tensors of its own in between
    p = 3
    tensors = {k: exact(v) for n, q in wanted for k, v in parts(n, q, p).items()}
    return {"tensors": tensors, "logits": result(model(input_ids=ids, attention_mask=mask, token_type_ids=types).logits)}


if __name__ == "__main__":
    seq, low, prefix = SeqBnConfig(reduction_factor=8), LoRAConfig(r=2, alpha=4), PrefixTuningConfig(flat=True, prefix_length=3)
    names = [n for n in MAP if n not in OLD]
    write(
        "hub-configurations",
        {
            "about": {"torch": torch.__version__, "transformers": transformers.__version__, "adapters": adapters.__version__, "script": "test/oracle/hub_configurations.py"},
            "aliases": {o: next(n for n in names if MAP[n] == MAP[o] and type(MAP[n]) is type(MAP[o])) for o in sorted(OLD)},
            "settings": {n: settings(MAP[n]) for n in names},
            "counts": {n: count(n) for n in names},
            "cases": {n: case(n) for n in names},
            "blocks": {
                "stack": block(seq, Stack("a", "b")),
                "fuse": block(seq, Fuse("a", "b"), "dynamic"),
                "split": block(seq, Split("a", "b", splits=[2, 4])),
                "batchSplit": block(seq, BatchSplit("a", "b", batch_sizes=[1, 1])),
                "batchSplitLora": block(low, BatchSplit("a", "b", batch_sizes=[1, 1])),
                "batchSplitPrefix": block(prefix, BatchSplit("a", "b", batch_sizes=[1, 1])),
                "parallel": block(seq, Parallel("a", "b")),
                "parallelPrefix": block(prefix, Parallel("a", "b")),  # LoRAs side by side fail in adapters 1.3.0: BERT's view has the batch of one
                "average": block(seq, Average("a", "b", weights=[1.4, 0.6], normalize_weights=False)),
                "averageLora": block(low, Average("a", "b", weights=[1.4, 0.6], normalize_weights=False)),
                "averageAsIs": block(low, Average("a", "b")),
            },
        },
    )
