"""Writes fixtures/adamss.json: what PyTorch, NumPy and scikit-learn draw and sort for AdaMSS, by the functions of Hugging Face PEFT.

By hand; see hf_peft.py for the environment, with scikit-learn besides. Weights are torch.randn's own from the seed beside them, so that no table is stored; the
labels of a case are one digit each. `falling` weights have columns that fade, as trained weights' directions do.
"""

import json

import numpy
import sklearn
import torch
from peft.tuners.adamss.utils import clustering_Z, slice_pca

from fixture import FOLDER

CASES = [  # outputs, inputs (with the bias), directions, clusters, seed
    (12, 9, 3, 2, 3), (48, 32, 8, 4, 0), (96, 97, 16, 5, 1), (192, 64, 32, 5, 2), (64, 160, 24, 3, 3), (40, 12, 100, 5, 4), (160, 161, 100, 5, 5),
]
LARGE = [(576, 576, 100, 5, 6), (768, 769, 100, 5, 7), (192, 576, 64, 8, 8), (1536, 385, 100, 5, 9)]


def draw(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def weight(out: int, into: int, seed: int, falling: bool) -> torch.Tensor:
    w = draw(1000 + seed, out, into)
    return w / torch.sqrt(torch.arange(1, into + 1)) if falling else w


def case(out: int, into: int, directions: int, clusters: int, seed: int, falling: bool) -> dict:
    _, u = slice_pca(weight(out, into, seed, falling)[None, None], directions, "cpu", torch.float32, seed)
    labels, _ = clustering_Z(u[0, 0], clusters, 10)
    return dict(out=out, into=into, directions=directions, clusters=clusters, seed=seed, falling=falling, labels="".join(map(str, labels.tolist())))


choice = lambda seed, n, k: numpy.random.RandomState(seed).choice(n, size=k, replace=False, p=numpy.ones(n, numpy.float32) / numpy.float32(n)).tolist()
content = {
    "about": {"torch": torch.__version__, "numpy": numpy.__version__, "scikit-learn": sklearn.__version__, "script": "test/oracle/adamss.py"},
    "normals": [{"seed": s, "values": draw(s, n).tolist()} for s, n in ((0, 16), (7, 17), (2, 40))],
    "choices": [{"seed": s, "n": n, "k": k, "values": choice(s, n, k)} for s, n, k in ((123456789, 7, 3), (123456789, 5, 5), (3, 12, 12), (123456789, 768, 5), (8, 40, 25))],
    "clusters": [case(*c, falling) for c in CASES for falling in (False, True)],
    "large": [case(*c, falling) for c in LARGE for falling in (False, True)],
}
(FOLDER / "adamss.json").write_text(json.dumps(content, separators=(",", ":")) + "\n")
