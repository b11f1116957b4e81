"""X-LoRA and Arrow as files of Hugging Face PEFT, both ways: an adapter's own folder, and in it a folder for each expert.

    hf_experts.py write          writes fixtures/hf-experts/<case>/ and what the library answers with each (logits.json)
    hf_experts.py read FOLDER    for each FOLDER/<case>/: what the library answers with it, and whether it saves the same weights files again, byte for byte

By hand, as hf_files.py (see there), with PYTHONHASHSEED=0. What the library itself (0.21.2) cannot do, and how it is helped here:
- save_pretrained of X-LoRA loses every tensor with ".0." (or another expert's name) in its key, the gate's first layer among them: the gate is saved with
  `gate`, which writes the same keys and takes them all. Its experts were saved each by itself, before they became experts; trained ones by `trained_experts`.
- X-LoRA follows the paths in its configuration from where Python runs: it runs in the folder of all cases.
- X-LoRA finds the experts' tensors only in networks whose inside is called `model`: LLaMA's, not GPT-2's.
- nothing loads what save_pretrained writes for Arrow but create_arrow_model, with the folders and the configuration read by hand.
- Arrow finds an expert's direction by 15 power iterations from a random start; here it takes 500, to compare what it looks for and not how far it came.
  `iterated` in logits.json is what 15 give.
"""

import json
import logging
import os
import pathlib
import shutil
import sys
import tempfile
import warnings

import torch
from peft import ArrowConfig, LoraConfig, PeftModel, XLoraConfig, create_arrow_model, get_peft_model
from peft.tuners.lora.arrow import ArrowLoraLinearLayer
from safetensors.torch import save_file

from fixture import FOLDER, result
from hf_files import WEIGHTS, precisely
from hf_peft import ABOUT, AT, LM, network, trained

FILES = FOLDER / "hf-experts"
LORA = {"r": 2, "lora_alpha": 3}
ALL = {"target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"], **LM}
GPT2 = {"target_modules": ["c_attn", "c_fc"], "fan_in_fan_out": True, **LM}  # both are c_proj, and Arrow takes every module of a name
HALF = {"target_modules": ["v_proj"], **LM}
ITERATIONS = ArrowLoraLinearLayer.top_right_singular_vec_from_BA.__defaults__

XLORA = {
    "xlora-llama": ([LoraConfig(**LORA, **AT)] * 2, dict(softmax_temperature=0.7, global_scaling_weight=1.3)),
    "xlora-layerwise-llama": ([LoraConfig(r=1, lora_alpha=2, **ALL)] * 2, dict(xlora_depth=2, xlora_size=6, layerwise_scalings=True)),
    "xlora-top-llama": ([LoraConfig(**LORA, **HALF)] * 2, dict(xlora_depth=3, xlora_size=6, xlora_dropout_p=0.0, enable_softmax=False, top_k_lora=1)),
    "xlora-softmax-top-llama": ([LoraConfig(**LORA, **HALF)] * 3, dict(enable_softmax=False, top_k_lora=2, enable_softmax_topk=True, use_trainable_adapters=True)),
    "xlora-softmax-all-llama": ([LoraConfig(**LORA, **HALF)] * 2, dict(enable_softmax=False, enable_softmax_topk=True)),
    "xlora-pass-llama": ([LoraConfig(**LORA, **AT)] * 2, dict(scaling_pass_value=0.5, layerwise_scalings=True)),
    "xlora-places-llama": ([LoraConfig(**LORA, **AT), LoraConfig(**LORA, target_modules=["q_proj", "down_proj"], layers_to_transform=[1], **LM)], dict(layerwise_scalings=True)),
    "xlora-ranks-llama": ([LoraConfig(r=k, lora_alpha=4, use_rslora=k == 2, lora_dropout=0.25, **AT) for k in (1, 2, 3)], dict(xlora_depth=2, xlora_size=4)),
}
ARROW = {
    "arrow-llama": (3, 0, LoraConfig(**LORA, **AT), dict(top_k=2, router_temperature=0.6)),
    "arrow-top-llama": (2, 0, LoraConfig(**LORA, **ALL), dict(top_k=1)),
    "arrow-general-llama": (3, 2, LoraConfig(**LORA, **AT), dict(top_k=2, router_temperature=0.6, use_gks=True, rng_seed=1)),
    "arrow-gpt2": (3, 0, LoraConfig(**LORA, **GPT2), dict(top_k=3, router_temperature=2.0)),
    "arrow-general-gpt2": (2, 1, LoraConfig(**LORA, **GPT2), dict(top_k=1, use_gks=True)),
}


def base(title: str):
    model, batch, _ = network(title.split("-")[-1])
    model.config.use_cache = False  # X-LoRA insists
    return model.float(), batch


def experts(title: str, configs: list, folder: pathlib.Path, largest: bool) -> list[str]:
    """LoRAs, each saved by itself. With `largest`, one direction of each is much the largest, so that one expert is the nearest by far."""
    for k, config in enumerate(configs):
        torch.manual_seed(20 + k)
        wrapped = get_peft_model(base(title)[0], LoraConfig(**{f: v for f, v in config.to_dict().items() if f in ("r", "lora_alpha", "target_modules", "use_rslora", "lora_dropout", "fan_in_fan_out", "layers_to_transform", "task_type")}))
        with torch.no_grad():
            for name, p in trained(wrapped).items():
                p.add_(0.3 * torch.randn(p.shape))
                if largest and "lora_A" in name:
                    p[0] *= 4
        wrapped.save_pretrained(folder / str(k))
        (folder / str(k) / "README.md").unlink()
    return [f"{folder}/{k}" for k in range(len(configs))]


def gate(wrapped: PeftModel, folder: pathlib.Path) -> None:
    save_file({k: v for k, v in wrapped.state_dict().items() if "internal_xlora_classifier" in k}, folder / WEIGHTS, metadata={"format": "pt"})


def trained_experts(wrapped: PeftModel, folder: pathlib.Path) -> None:
    """Experts that were trained as such: the library's own folders have other keys, and not all of them. Each has its configuration already."""
    for k in wrapped.peft_config["default"].adapters:
        own = {n: v for n, v in wrapped.state_dict().items() if ".lora_" in n and n.endswith(f".{k}.weight")}
        save_file({n.replace("lora_model.", "").replace(f".{k}.weight", ".weight"): v for n, v in own.items()}, folder / k / WEIGHTS, metadata={"format": "pt"})


def write_xlora(title: str) -> None:
    configs, options = XLORA[title]
    experts(title, configs, FILES / title, False)
    torch.manual_seed(3)
    config = XLoraConfig(hidden_size=16, adapters={str(k): f"{title}/{k}" for k in range(len(configs))}, **options, **LM)
    wrapped = get_peft_model(base(title)[0], config)
    g = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, p in wrapped.named_parameters():
            if p.requires_grad:
                p.add_(0.3 * torch.randn(p.shape, generator=g))
    wrapped.save_pretrained(FILES / title, selected_adapters=["default"])
    gate(wrapped, FILES / title)
    if config.use_trainable_adapters:
        trained_experts(wrapped, FILES / title)
    batch = base(title)[1]
    with torch.no_grad():
        assert torch.equal(wrapped(**batch).logits, PeftModel.from_pretrained(base(title)[0], FILES / title)(**batch).logits), f"{title}: read again it is another model"


def write_arrow(title: str) -> None:
    tasks, general, config, options = ARROW[title]
    with tempfile.TemporaryDirectory() as folder:
        paths = experts(title, [config] * (tasks + general), pathlib.Path(folder), True)
        torch.manual_seed(3)
        wrapped = create_arrow_model(base(title)[0], paths[:tasks], ArrowConfig(**options), general_adapter_paths=paths[tasks:])
        wrapped.save_pretrained(FILES / title)  # before it answers anything: with GenKnowSub its experts are changed then


def same(title: str, one: pathlib.Path) -> bool:
    """A LoRA, read by itself and saved again."""
    with tempfile.TemporaryDirectory() as again:
        PeftModel.from_pretrained(base(title)[0], one).save_pretrained(again)
        return (pathlib.Path(again) / WEIGHTS).read_bytes() == (one / WEIGHTS).read_bytes()


def xlora(title: str, folder: pathlib.Path) -> dict:
    model, batch = base(title)
    wrapped = PeftModel.from_pretrained(model, folder)
    with tempfile.TemporaryDirectory() as again:
        gate(wrapped, pathlib.Path(again))
        whole = (pathlib.Path(again) / WEIGHTS).read_bytes() == (folder / WEIGHTS).read_bytes()
    whole = whole and all(same(title, pathlib.Path(path)) for path in wrapped.peft_config["default"].adapters.values())
    wrapped = wrapped.double().eval()
    with torch.no_grad(), precisely():
        return result(wrapped(**batch).logits) | {"again": whole}


def arrow(title: str, folder: pathlib.Path) -> dict:
    said = json.loads((folder / "arrow_router" / "adapter_config.json").read_text())["arrow_config"]
    names = said.pop("task_adapter_names"), said.pop("gks_adapter_names")

    def answer() -> tuple[dict, bool]:
        model, batch = base(title)
        wrapped = create_arrow_model(model, [f"{folder}/{n}" for n in names[0]], ArrowConfig(**said), general_adapter_paths=[f"{folder}/{n}" for n in names[1]])
        with tempfile.TemporaryDirectory() as again:
            wrapped.save_pretrained(again)
            whole = all((pathlib.Path(again) / n / WEIGHTS).read_bytes() == (folder / n / WEIGHTS).read_bytes() for n in (*names[0], *names[1]))
        wrapped = wrapped.double().eval()
        with torch.no_grad(), precisely():
            return result(wrapped(**batch).logits), whole

    torch.manual_seed(4)
    iterated, _ = answer()
    ArrowLoraLinearLayer.top_right_singular_vec_from_BA.__defaults__ = (500, *ITERATIONS[1:])
    try:
        logits, whole = answer()
    finally:
        ArrowLoraLinearLayer.top_right_singular_vec_from_BA.__defaults__ = ITERATIONS
    apart = max(abs(a - b) / max(1, abs(b)) for a, b in zip(iterated["data"], logits["data"]))
    return logits | {"again": whole, "iterated": float(f"{apart:.1e}")}


def read(folder: pathlib.Path) -> None:
    answers = {}
    for path in sorted(p for p in folder.iterdir() if p.is_dir()):
        try:
            answers[path.name] = (xlora if path.name.startswith("xlora") else arrow)(path.name, path)
        except Exception as e:
            answers[path.name] = {"error": f"{type(e).__name__}: {e}"}
    (folder / "logits.json").write_text(json.dumps({"about": {**ABOUT, "script": "test/oracle/hf_experts.py"}, "logits": answers}, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    if sys.argv[1] == "write":
        FILES.mkdir(exist_ok=True)
        os.chdir(FILES)
        for title in XLORA | ARROW:
            shutil.rmtree(FILES / title, ignore_errors=True)
            (write_xlora if title in XLORA else write_arrow)(title)
            (FILES / title / "README.md").unlink(missing_ok=True)
        read(FILES)
        bad = {t: a["error"] for t, a in json.loads((FILES / "logits.json").read_text())["logits"].items() if "error" in a}
        if bad:
            sys.exit(f"the library cannot read its own files: {bad}")
    else:
        read(pathlib.Path(sys.argv[2]))
