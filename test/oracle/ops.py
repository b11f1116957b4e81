"""Writes fixtures/ops.json and fixtures/optim.json: PyTorch's values and gradients of some ops, and steps of its optimizers.

Run by hand:
    python -m venv venv && venv/bin/pip install torch transformers && venv/bin/python test/oracle/ops.py
"""

import torch
import torch.nn.functional as F
import transformers
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from fixture import exact, result, write

torch.set_default_dtype(torch.float64)
ABOUT = {"torch": torch.__version__, "transformers": transformers.__version__, "script": "test/oracle/ops.py"}
G = torch.Generator().manual_seed(7)


def numbers(*shape: int, scale: float = 1.0) -> torch.Tensor:
    """Float32 numbers held in double precision."""
    return (scale * torch.randn(shape, generator=G)).to(torch.float32).double().requires_grad_()


def case(f, *, fixed: dict | None = None, **ins: torch.Tensor) -> dict:
    """y = f(ins) and the gradients of Σ dy·y for a random dy."""
    y = f(**ins)
    dy = numbers(*y.shape).detach()
    grads = torch.autograd.grad((y * dy).sum(), list(ins.values()))
    return {
        "ins": {k: exact(v) for k, v in ins.items()},
        "fixed": fixed or {},
        "dy": exact(dy),
        "y": result(y),
        "grads": {k: result(g) for k, g in zip(ins, grads)},
    }


def spread() -> torch.Tensor:
    """From −9 to 9, where gelu's two forms and their tails all show."""
    return torch.linspace(-9, 9, 37).to(torch.float32).double().reshape(1, 37).requires_grad_()


def rope(x: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    d = x.shape[-1]
    frequency = 10000.0 ** (-torch.arange(0, d, 2) / d)
    angle = positions[:, None] * frequency
    angle = torch.cat([angle, angle], -1)[None]  # [1, T, D]
    return apply_rotary_pos_emb(x, x, angle.cos(), angle.sin())[0]


POSITIONS = torch.tensor([0.0, 1.0, 5.0, 700.0])
TARGETS = torch.tensor([[1, -100, 4], [-100, 0, 2]])
BIAS = torch.tensor([[1.0, 1, 1, 1, 1], [1, 1, 1, 0, 0]])

write(
    "ops",
    {
        "about": ABOUT,
        "gelu": case(lambda x: F.gelu(x), x=spread()),
        "geluTanh": case(lambda x: F.gelu(x, approximate="tanh"), x=spread()),
        "silu": case(lambda x: F.silu(x), x=spread()),
        "softplus": case(lambda x: F.softplus(x, threshold=1000), x=spread()),
        "erf": case(lambda x: torch.erf(x), x=spread()),
        "softmax": case(lambda x: F.softmax(x, -1), x=numbers(3, 5, scale=3)),
        "logSoftmax": case(lambda x: F.log_softmax(x, -1), x=numbers(3, 5, scale=3)),
        "logsumexp": case(lambda x: torch.logsumexp(x, (0, 2)), x=numbers(3, 4, 2, scale=3)),
        "layerNorm": case(lambda x, g, b: F.layer_norm(x, (6,), g, b, 1e-5), x=numbers(2, 3, 6), g=numbers(6), b=numbers(6)),
        "rmsNorm": case(lambda x, g: F.rms_norm(x, (6,), g, 1e-6), x=numbers(2, 3, 6), g=numbers(6)),
        "rope": case(lambda x: rope(x, POSITIONS), fixed={"positions": POSITIONS.tolist()}, x=numbers(2, 3, 4, 6)),
        "attention": case(lambda q, k, v: F.scaled_dot_product_attention(q, k, v), q=numbers(2, 3, 4, 6), k=numbers(2, 3, 5, 6), v=numbers(2, 3, 5, 6)),
        "attentionCausal": case(
            lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True), q=numbers(2, 3, 5, 6), k=numbers(2, 3, 5, 6), v=numbers(2, 3, 5, 6)
        ),
        "attentionGrouped": case(
            lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True),
            q=numbers(2, 4, 5, 6),
            k=numbers(2, 2, 5, 6),
            v=numbers(2, 2, 5, 6),
        ),
        "attentionMasked": case(
            lambda q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=BIAS[:, None, None, :] == 1),
            fixed={"mask": BIAS.tolist()},
            q=numbers(2, 3, 5, 6),
            k=numbers(2, 3, 5, 6),
            v=numbers(2, 3, 5, 6),
        ),
        "crossEntropy": case(
            lambda x: F.cross_entropy(x.reshape(-1, 5), TARGETS.reshape(-1)), fixed={"targets": TARGETS.tolist()}, x=numbers(2, 3, 5, scale=3)
        ),
    },
)


def steps(make, count: int = 3) -> dict:
    """`count` steps with given gradients: the values after each."""
    p = torch.nn.Parameter(numbers(2, 3).detach().clone())
    start = exact(p)
    optimizer = make([p])
    grads, after = [], []
    for k in range(count):
        p.grad = numbers(2, 3).detach() * 10.0**-k  # sizes that differ, so that averages matter
        p.grad = p.grad.to(torch.float32).double()
        grads.append(exact(p.grad))
        optimizer.step()
        after.append(result(p))
    return {"start": start, "grads": grads, "after": after}


def optimizers(**makers) -> dict:
    return {name: {"optimizer": kind, "options": options, **steps(make)} for name, (kind, options, make) in makers.items()}


write(
    "optim",
    {
        "about": ABOUT,
        **optimizers(
            sgd=("sgd", {"lr": 0.1, "weightDecay": 0.01}, lambda p: torch.optim.SGD(p, lr=0.1, weight_decay=0.01)),
            momentum=("sgd", {"lr": 0.1, "momentum": 0.9}, lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9)),
            nesterov=(
                "sgd",
                {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weightDecay": 0.01},
                lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
            ),
            adam=("adam", {"lr": 0.01, "weightDecay": 0.1}, lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=0.1)),
            adamw=("adamw", {"lr": 0.01, "weightDecay": 0.1}, lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1)),
            adamwOptions=(
                "adamw",
                {"lr": 0.02, "weightDecay": 0, "beta1": 0.8, "beta2": 0.95, "eps": 1e-3},
                lambda p: torch.optim.AdamW(p, lr=0.02, weight_decay=0, betas=(0.8, 0.95), eps=1e-3),
            ),
        ),
    },
)
