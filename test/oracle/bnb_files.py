"""Writes fixtures/bnb-*.safetensors: matrices that the bitsandbytes package packed into four bits, as its layers save them, and bnb.json, their numbers.

Run by hand, outside the repository's own toolchain (the package computes on the CPU):
    python -m venv venv && venv/bin/pip install torch bitsandbytes safetensors && venv/bin/python test/oracle/bnb_files.py
"""

import importlib.metadata
import json

import bitsandbytes.functional as bnb
import torch
from safetensors.torch import save_file

from fixture import FOLDER, exact

CASES = {
    "nf4": dict(quant_type="nf4", shape=(12, 40)),
    "nf4-nested": dict(quant_type="nf4", shape=(40, 64), blocksize=32, compress_statistics=True),
    "fp4": dict(quant_type="fp4", shape=(5, 13)),  # an odd number of numbers
    "fp4-nested": dict(quant_type="fp4", shape=(150, 128), compress_statistics=True),  # 300 scales: two blocks of scales
}

FOLDER.mkdir(exist_ok=True)
numbers = {}
for seed, (name, options) in enumerate(CASES.items()):
    shape = options.pop("shape")
    w = 0.05 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    packed, state = bnb.quantize_4bit(w, **options)
    tensors = {"layer.weight": packed} | {f"layer.weight.{k}": v for k, v in state.as_dict(packed=True).items()}
    save_file({k: v.contiguous() for k, v in tensors.items()}, FOLDER / f"bnb-{name}.safetensors", metadata={"format": "pt"})
    dequantized = bnb.dequantize_4bit(packed, state).reshape(-1)
    numbers[name] = {
        "shape": list(shape),
        "weights": f"0.05 times normal numbers of torch seed {seed}",
        "first": exact(w.reshape(-1)[:64]),
        "dequantized": exact(dequantized[:: max(1, dequantized.numel() // 400)]),
        "step": max(1, dequantized.numel() // 400),
        **({"whole": exact(w)} if name in ("nf4", "fp4") else {}),
    }
about = {"bitsandbytes": importlib.metadata.version("bitsandbytes"), "torch": torch.__version__, "script": "test/oracle/bnb_files.py"}
(FOLDER / "bnb.json").write_text(json.dumps({"about": about, "cases": numbers}, separators=(",", ":")) + "\n")
