"""Writes fixtures/adaption.json: Hugging Face PEFT's AdaptionPrompt on the tiny models of nn-llama.json and nn-gpt2.json.

Run by hand, outside the repository's own toolchain (after nn.py):
    python -m venv venv && venv/bin/pip install torch peft && venv/bin/python test/oracle/adaption.py
"""

import json

import peft
import torch
import torch.nn.functional as F
import transformers
from peft import AdaptionPromptConfig, get_peft_model
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from fixture import FOLDER, exact, result, write

EAGER = {"attn_implementation": "eager"}


def case(fixture: str, model: torch.nn.Module) -> dict:
    base = json.loads((FOLDER / f"{fixture}.json").read_text())
    ids, mask, targets = (torch.tensor(base[k]) for k in ("ids", "mask", "targets"))
    model.load_state_dict({n: torch.tensor(w["data"]).reshape(w["shape"]) for n, w in base["weights"].items()}, strict=False)
    wrapped = get_peft_model(model, AdaptionPromptConfig(adapter_len=3, adapter_layers=1, task_type="CAUSAL_LM")).eval()
    g = torch.Generator().manual_seed(5)
    train = [(n, p) for n, p in wrapped.named_parameters() if p.requires_grad]
    for _, p in train:
        p.data = torch.randn(p.shape, generator=g).to(torch.float32)
    wrapped.double()
    out = {"tensors": {n: exact(p) for n, p in train}}

    def run():
        logits = wrapped(input_ids=ids, attention_mask=mask).logits
        return logits, F.cross_entropy(logits.reshape(-1, logits.shape[-1]), targets.reshape(-1))

    logits, loss = run()
    grads = torch.autograd.grad(loss, [p for _, p in train])
    out |= {"logits": result(logits), "loss": loss.item(), "grads": {n: result(v) for (n, _), v in zip(train, grads)}}
    optimizer = torch.optim.AdamW([p for _, p in train], lr=0.01, weight_decay=0.0)
    losses = []
    for _ in range(3):
        optimizer.zero_grad()
        _, v = run()
        losses.append(v.item())
        v.backward()
        optimizer.step()
    return out | {"losses": losses, "after": result(run()[0])}


write(
    "adaption",
    {
        "about": {"torch": torch.__version__, "transformers": transformers.__version__, "peft": peft.__version__, "script": "test/oracle/adaption.py"},
        "llama": case(
            "nn-llama",
            LlamaForCausalLM(
                LlamaConfig(
                    vocab_size=13, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
                    max_position_embeddings=12, rms_norm_eps=1e-6, tie_word_embeddings=False, **EAGER,
                )
            ),
        ),
        "gpt2": case(
            "nn-gpt2", GPT2LMHeadModel(GPT2Config(vocab_size=13, n_embd=16, n_layer=2, n_head=4, n_inner=24, n_positions=12, **EAGER))
        ),
    },
)
