"""Writes fixtures/hub.json: AdapterHub's `adapters` on the tiny BERT of nn-bert.json, logits, gradients and three AdamW steps.

Run by hand, outside the repository's own toolchain (after nn.py, with the same torch):
    python -m venv venv && venv/bin/pip install torch adapters && venv/bin/python test/oracle/hub.py
"""

import json

import adapters
import torch
import torch.nn.functional as F
import transformers
from adapters import CompacterConfig, DoubleSeqBnConfig, ParBnConfig, SeqBnConfig
from adapters.composition import Fuse, Stack
from transformers import BertConfig, BertForSequenceClassification

from fixture import FOLDER, exact, result, write

base = json.loads((FOLDER / "nn-bert.json").read_text())
WIDTH = 16
ids, mask, types, targets = (torch.tensor(base[k]) for k in ("ids", "mask", "types", "targets"))


def fresh() -> BertForSequenceClassification:
    config = BertConfig(
        vocab_size=13, hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=4, intermediate_size=24, num_labels=3,
        max_position_embeddings=12, attn_implementation="eager",
    )
    model = BertForSequenceClassification(config)
    model.load_state_dict({n: torch.tensor(w["data"]).reshape(w["shape"]) for n, w in base["weights"].items()}, strict=False)
    adapters.init(model)
    return model


def case(setup, steps: bool = True) -> dict:
    """The methods' tensors, and what the model answers with them; everything but them frozen."""
    model = fresh()
    own = setup(model)
    g = torch.Generator().manual_seed(7)
    wanted = [(n, p) for n, p in model.named_parameters() if any(o in n for o in own["tensors"])]
    seen = {}
    for n, p in wanted:
        mean = 1.0 if n.endswith("scaling") else 0.0
        p.data = (mean + 0.3 * torch.randn(p.shape, generator=g)).to(torch.float32)
    model.eval().double()
    train = [(n, p) for n, p in wanted if any(o in n for o in own["train"])]
    for n, p in model.named_parameters():
        p.requires_grad_(any(n == t for t, _ in train))
    out = {"tensors": {n: exact(p) for n, p in wanted}}

    def loss():
        logits = model(input_ids=ids, attention_mask=mask, token_type_ids=types).logits
        seen["logits"] = logits
        extra = model.get_fusion_regularization_loss() if "fusion" in own else None
        value = F.cross_entropy(logits, targets)
        return value if extra is None else value + extra

    value = loss()
    grads = torch.autograd.grad(value, [p for _, p in train])
    out |= {"logits": result(seen["logits"]), "loss": value.item(), "grads": {n: result(v) for (n, _), v in zip(train, grads)}}
    optimizer = torch.optim.AdamW([p for _, p in train], lr=0.01, weight_decay=0.0)
    losses = []
    for _ in range(3):
        optimizer.zero_grad()
        v = loss()
        losses.append(v.item())
        v.backward()
        optimizer.step()
    loss()
    out |= {"losses": losses, "after": result(seen["logits"])}
    return out


def one(config, **kw):
    def setup(model):
        model.add_adapter("a", config=config)
        model.set_active_adapters("a")
        return {"tensors": [".a.", "shared_parameters"], "train": [".a.", "shared_parameters"], **kw}

    return setup


def stacked(model):
    for n in "ab":
        model.add_adapter(n, config=SeqBnConfig(reduction_factor=4))
    model.set_active_adapters(Stack("a", "b"))
    return {"tensors": [".a.", ".b."], "train": [".b."]}


def fusion(kind: str):
    def setup(model):
        for n, r in (("a", 4), ("b", 8), ("c", 4)):
            model.add_adapter(n, config=SeqBnConfig(reduction_factor=r))
        names = Fuse("a", "b", "c")
        model.add_adapter_fusion(names, config=kind)
        model.set_active_adapters(names)
        return {"tensors": [".a.", ".b.", ".c.", "fusion_layer"], "train": ["fusion_layer"], "fusion": True}

    return setup


write(
    "hub",
    {
        "about": {"torch": torch.__version__, "transformers": transformers.__version__, "adapters": adapters.__version__, "script": "test/oracle/hub.py"},
        "cases": {
            "houlsby": case(one(DoubleSeqBnConfig(reduction_factor=4))),
            "pfeiffer": case(one(SeqBnConfig(reduction_factor=4))),
            "parallel": case(one(ParBnConfig(reduction_factor=4, scaling=4.0))),
            "parallelLearned": case(one(ParBnConfig(reduction_factor=4, scaling="learned"))),
            "compacter": case(one(CompacterConfig(reduction_factor=4, phm_dim=2, phm_rank=2))),
            "stack": case(stacked),
            "fusionDynamic": case(fusion("dynamic")),
            "fusionStatic": case(fusion("static")),
        },
    },
)
