"""How the oracle scripts write numbers: float32 exactly (shortest text that reads back the same), float64 to 12 digits."""

import json
import pathlib

import numpy as np
import torch

FOLDER = pathlib.Path(__file__).parent / "fixtures"


def exact(t: torch.Tensor) -> dict:
    """A float32 tensor, bit for bit."""
    a = t.detach().numpy().astype(np.float32).reshape(-1)
    return {"shape": list(t.shape), "data": [float(np.format_float_scientific(x, unique=True)) for x in a]}


def result(t: torch.Tensor) -> dict:
    """What came out, in double precision."""
    return {"shape": list(t.shape), "data": [float(f"{x:.12g}") for x in t.detach().double().reshape(-1).tolist()]}


def write(name: str, content: dict) -> None:
    FOLDER.mkdir(exist_ok=True)
    path = FOLDER / f"{name}.json"
    path.write_text(json.dumps(content, separators=(",", ":")) + "\n")
    print(f"{path.name}: {path.stat().st_size / 1024:.1f} KB")
