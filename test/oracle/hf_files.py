"""Adapters as files of Hugging Face PEFT, both ways.

    hf_files.py write          writes fixtures/hf-files/<case>/ with save_pretrained, and what the library answers with each (logits.json)
    hf_files.py read FOLDER    for each FOLDER/<case>/: loads it with from_pretrained and writes the logits to FOLDER/logits.json

By hand, outside the repository's own toolchain, after nn.py (the networks are those of nn-*.json); see hf_peft.py for the environment. Files are
float32 as the library makes them; logits are computed in double precision from what was read back from the files.
"""

import contextlib
import json
import logging
import pathlib
import shutil
import sys
import warnings

import torch
from peft import LoraConfig, PeftModel, get_peft_model

from fixture import FOLDER, result
from hf_peft import ABOUT, AT, BERT, CONV1D, LM, double_precision, network, trained

FILES = FOLDER / "hf-files"
LORA = {"r": 2, "lora_alpha": 3}
CLS = {**BERT, "task_type": "SEQ_CLS"}

CASES = {
    "lora-llama": lambda: LoraConfig(**LORA, **AT),
    "lora-gpt2": lambda: LoraConfig(**LORA, **CONV1D),
    "lora-bert": lambda: LoraConfig(**LORA, **CLS),
    "lora-patterns-llama": lambda: LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj", "v_proj", "up_proj"], rank_pattern={"layers.1.self_attn.q_proj": 3, "^model.layers.0.mlp.up_proj": 1}, alpha_pattern={"v_proj": 7}, **LM),
    "lora-layers-llama": lambda: LoraConfig(r=1, target_modules=["q_proj", "o_proj"], layers_to_transform=[1], layers_pattern="layers", **LM),
    "lora-regex-llama": lambda: LoraConfig(r=1, target_modules=r".*\.(?P<idx>\d+)\.(self_attn\.[qk]|mlp\.gate)_proj", exclude_modules=["layers.0.mlp.gate_proj"], **LM),
    "lora-all-linear-llama": lambda: LoraConfig(r=1, target_modules="all-linear", **LM),
    "lora-bias-gpt2": lambda: LoraConfig(r=1, target_modules=["c_attn"], bias="lora_only", fan_in_fan_out=True, **LM),
    "lora-bias-all-bert": lambda: LoraConfig(r=1, target_modules=["query"], bias="all", task_type="SEQ_CLS"),
    "lora-saved-llama": lambda: LoraConfig(r=1, target_modules=["v_proj"], modules_to_save=["lm_head", "layers.1.input_layernorm"], **LM),
    "rslora-llama": lambda: LoraConfig(r=4, lora_alpha=3, use_rslora=True, lora_dropout=0.25, init_lora_weights="gaussian", **AT),
    "dora-llama": lambda: LoraConfig(**LORA, use_dora=True, **AT),
    "dora-gpt2": lambda: LoraConfig(**LORA, use_dora=True, **CONV1D),
    "pissa-llama": lambda: LoraConfig(**LORA, init_lora_weights="pissa", **AT),
    "olora-llama": lambda: LoraConfig(**LORA, init_lora_weights="olora", **AT),
    # a task without a type: the model's class is written instead
    "lora-untyped-llama": lambda: LoraConfig(r=1, target_modules={"v_proj", "k_proj"}),
}


def move(wrapped: torch.nn.Module) -> None:
    g = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for p in trained(wrapped).values():
            p.add_(0.3 * torch.randn(p.shape, generator=g))


def write_case(title: str) -> None:
    torch.manual_seed(3)
    model, _, _ = network(title.split("-")[-1])
    wrapped = get_peft_model(model.float(), CASES[title]()).eval()
    move(wrapped)
    folder = FILES / title
    wrapped.save_pretrained(folder)
    (folder / "README.md").unlink()


@contextlib.contextmanager
def precisely():
    """Double precision for a run: files cannot be read meanwhile, because float32 is not float32 then."""
    single, to_single = torch.float32, torch.Tensor.float
    double_precision()
    try:
        yield
    finally:
        torch.float32, torch.Tensor.float = single, to_single
        torch.set_default_dtype(torch.float32)


def logits(title: str, folder: pathlib.Path) -> dict:
    model, batch, _ = network(title.split("-")[-1])
    wrapped = PeftModel.from_pretrained(model.float(), folder).double().eval()
    extra = {"task_ids": torch.tensor([1, 0])} if "POLY" in str(wrapped.active_peft_config.peft_type) or "MULTITASK" in str(wrapped.active_peft_config.peft_type) else {}
    with torch.no_grad(), precisely():
        out = wrapped(**batch, **extra).logits
    return result(out[:, -batch["input_ids"].shape[1] :] if out.dim() == 3 else out)


def read(folder: pathlib.Path) -> None:
    """What the library answers with each adapter in a folder, or what it says when it cannot."""
    answers = {}
    for path in sorted(p for p in folder.iterdir() if p.is_dir()):
        try:
            answers[path.name] = logits(path.name, path)
        except Exception as e:
            answers[path.name] = {"error": f"{type(e).__name__}: {e}"}
    (folder / "logits.json").write_text(json.dumps({"about": {**ABOUT, "script": "test/oracle/hf_files.py"}, "logits": answers}, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    if sys.argv[1] == "write":
        for title in sys.argv[2:] or CASES:
            shutil.rmtree(FILES / title, ignore_errors=True)
            write_case(title)
        read(FILES)
        bad = {t: a["error"] for t, a in json.loads((FILES / "logits.json").read_text())["logits"].items() if "error" in a}
        if bad:
            sys.exit(f"the library cannot read its own files: {bad}")
    else:
        read(pathlib.Path(sys.argv[2]))
