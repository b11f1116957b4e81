"""PyTorch beside ours: one measurement of a workload, printed as a line of JSON. Run by bench/compare.ts.

    python3 torch_bench.py W1|W2|W3|W4|W4h [--threads 1] [--device cpu] [--steps 6] [--warm 2] [--seconds 20]

The same model, weights and tokens as bench/workloads.ts. Attention is PyTorch's own fused one, which is its fastest here.
"""
import argparse
import json
import math
import resource
import sys
import time

import torch
import torch.nn.functional as F

SMALL = dict(V=512, d=256, L=4, H=4, F=1024, T=128, B=8)
MINI = dict(V=2048, d=384, L=6, H=12, F=1536, T=128, B=16)
WORKLOADS = {
    "W2": (SMALL, "lora"),
    "W3": (SMALL, "full"),
    "W4": (MINI, "lora"),
    "W4h": ({**MINI, "B": 8}, "lora"),
}
RANK, ALPHA = 8, 16
RATE = {"lora": 1e-2, "full": 1e-3}
MASK = 0xFFFFFFFF


def hashed(i, seed):
    """Whole numbers below 2**32 from an int64 tensor and a seed; products wrap around, of which only the low 32 bits count."""
    h = (i * 0x9E3779B1 + ((seed * 0x85EBCA77) & MASK)) & MASK
    h = ((h ^ (h >> 16)) * 0x7FEB352D) & MASK
    h = ((h ^ (h >> 15)) * 0x846CA68B) & MASK
    return h ^ (h >> 16)


def numbers(shape, seed, offset=0):
    """Uniform with standard deviation 0.02 around `offset`."""
    i = torch.arange(math.prod(shape), dtype=torch.int64)
    return (offset + (hashed(i, seed).double() / 2**32 - 0.5) * 0.0692).float().reshape(shape)


def weights(s, mode):
    """Every tensor by name, in the order that numbers the seeds. Matrices are made [in, out] and kept [out, in], as torch does."""
    d, blocks = s["d"], range(s["L"])
    shapes = [("words", (s["V"], d), 0), ("positions", (s["T"], d), 0)]
    for l in blocks:
        shapes += [
            (f"{l}.norm1.g", (d,), 1), (f"{l}.norm1.b", (d,), 0),
            (f"{l}.qkv.w", (d, 3 * d), 0), (f"{l}.qkv.b", (3 * d,), 0),
            (f"{l}.o.w", (d, d), 0), (f"{l}.o.b", (d,), 0),
            (f"{l}.norm2.g", (d,), 1), (f"{l}.norm2.b", (d,), 0),
            (f"{l}.up.w", (d, s["F"]), 0), (f"{l}.up.b", (s["F"],), 0),
            (f"{l}.down.w", (s["F"], d), 0), (f"{l}.down.b", (d,), 0),
        ]
    shapes += [("norm.g", (d,), 1), ("norm.b", (d,), 0)]
    if mode == "lora":
        for l in blocks:
            shapes += [(f"{l}.lora.A", (RANK, d), 0), (f"{l}.lora.B", (3 * d, RANK), 0)]
    made = {}
    for k, (name, shape, offset) in enumerate(shapes):
        w = numbers(shape, k + 1, offset)
        made[name] = w.t().contiguous() if name.endswith(".w") else w
    return made


def emit(note, **measured):
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 1024)
    print(json.dumps({**measured, "peak": peak, "note": note}), flush=True)


def products(a, device, wait, note):
    for n in (512, 1024):
        x, y = numbers((n, n), 1).to(device), numbers((n, n), 2).to(device)

        def once():
            t = time.perf_counter()
            c = x @ y
            wait()
            return (time.perf_counter() - t) * 1e3, c

        first, _ = once()
        began = time.perf_counter()
        while time.perf_counter() - began < 0.3:
            once()
        timed = [once() for _ in range(5 * a.steps)]
        emit(note, ms=[ms for ms, _ in timed], first=first, case=f"{n} nn", check=float(timed[-1][1][3, 5]))


def training(a, device, wait, note):
    s, mode = WORKLOADS[a.work]
    V, d, L, H, T, B = (s[k] for k in ("V", "d", "L", "H", "T", "B"))
    p = {
        name: torch.nn.Parameter(w.to(device), requires_grad=mode == "full" or "lora" in name)
        for name, w in weights(s, mode).items()
    }
    text = (hashed(torch.arange(B * (T + 1)), 7777) % V).reshape(B, T + 1).to(device)
    ids, targets = text[:, :-1].contiguous(), text[:, 1:].reshape(-1)
    trained = [w for w in p.values() if w.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=RATE[mode], betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01)

    def loss():
        x = F.embedding(ids, p["words"]) + p["positions"]
        for l in range(L):
            w = lambda name: p[f"{l}.{name}"]
            h = F.layer_norm(x, (d,), w("norm1.g"), w("norm1.b"), 1e-5)
            qkv = F.linear(h, w("qkv.w"), w("qkv.b"))
            if mode == "lora":
                qkv = qkv + F.linear(F.linear(h, w("lora.A")), w("lora.B")) * (ALPHA / RANK)
            q, k, v = qkv.view(B, T, 3, H, d // H).permute(2, 0, 3, 1, 4)
            if a.plain:
                scores = (q @ k.transpose(-1, -2)) * (d // H) ** -0.5
                hidden = torch.triu(torch.ones(T, T, dtype=torch.bool, device=device), 1)
                o = scores.masked_fill(hidden, float("-inf")).softmax(-1) @ v
            else:
                o = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + F.linear(o.transpose(1, 2).reshape(B, T, d), w("o.w"), w("o.b"))
            h = F.layer_norm(x, (d,), w("norm2.g"), w("norm2.b"), 1e-5)
            x = x + F.linear(F.gelu(F.linear(h, w("up.w"), w("up.b")), approximate="tanh"), w("down.w"), w("down.b"))
        logits = F.layer_norm(x, (d,), p["norm.g"], p["norm.b"], 1e-5) @ p["words"].t()
        return F.cross_entropy(logits.view(B * T, V), targets)

    losses, ms, first = [], [], 0.0
    began = time.perf_counter()
    while len(ms) < a.steps:
        t = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        value = loss()
        value.backward()
        optimizer.step()
        losses.append(value.item())
        wait()
        took, spent = (time.perf_counter() - t) * 1e3, time.perf_counter() - began
        if len(losses) == 1:
            first = took
        elif len(losses) > a.warm or spent > a.seconds / 2:
            ms.append(took)
        if spent > a.seconds and len(ms) >= 2:
            break
    emit(note, ms=ms, first=first, losses=losses[:8])


if __name__ == "__main__":
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("work", choices=["W1", *WORKLOADS])
    flags.add_argument("--threads", type=int, default=1)
    flags.add_argument("--device", default="cpu")
    flags.add_argument("--plain", action="store_true", help="attention from products and a softmax instead of the fused one")
    flags.add_argument("--steps", type=int, default=6)
    flags.add_argument("--warm", type=int, default=2)
    flags.add_argument("--seconds", type=float, default=20)
    a = flags.parse_args()
    torch.set_num_threads(a.threads)
    cuda = a.device == "cuda"
    name = torch.cuda.get_device_name() if cuda else f"{a.threads} thread{'' if a.threads == 1 else 's'}"
    wait = torch.cuda.synchronize if cuda else lambda: None
    (products if a.work == "W1" else training)(a, a.device, wait, f"PyTorch {torch.__version__}, {name}{', plain attention' if a.plain else ''}")
