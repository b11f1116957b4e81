"""Writes fixtures/nn-*.json: tiny random models of Hugging Face transformers, their outputs and some gradients.

Run by hand, outside the repository's own toolchain:
    python -m venv venv && venv/bin/pip install torch transformers && venv/bin/python test/oracle/nn.py
"""

import torch
import torch.nn.functional as F
import transformers
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    RobertaConfig,
    RobertaForTokenClassification,
)

from fixture import exact, result, write

VOCABULARY, WIDTH, LAYERS, HEADS, INNER, POSITIONS = 13, 16, 2, 4, 24, 12
MASK = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]])
ABOUT = {"torch": torch.__version__, "transformers": transformers.__version__, "script": "test/oracle/nn.py"}


def randomise(model: torch.nn.Module, seed: int) -> torch.nn.Module:
    """Weights that are float32 numbers and far from every special value, computed with in double precision."""
    g = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        mean = 1.0 if p.dim() == 1 and name.endswith("weight") else 0.0
        p.data = (mean + 0.3 * torch.randn(p.shape, generator=g)).to(torch.float32)
    return model.eval().double()


def weights(model: torch.nn.Module) -> dict:
    return {name: exact(p) for name, p in model.named_parameters()}


def gradients(model: torch.nn.Module, loss: torch.Tensor, names: list[str]) -> dict:
    params = dict(model.named_parameters())
    return {n: result(g) for n, g in zip(names, torch.autograd.grad(loss, [params[n] for n in names]))}


def tokens(seed: int, low: int = 0) -> torch.Tensor:
    return torch.randint(low, VOCABULARY, MASK.shape, generator=torch.Generator().manual_seed(seed))


def language_model(name: str, model: torch.nn.Module, config: dict, seed: int, grads: list[str]) -> None:
    randomise(model, seed)
    ids = tokens(seed)
    targets = torch.where(MASK[:, 1:] == 1, ids[:, 1:], -100)
    targets = F.pad(targets, (0, 1), value=-100)  # the token after each one; none after the last
    logits = model(input_ids=ids, attention_mask=MASK).logits
    loss = F.cross_entropy(logits.reshape(-1, VOCABULARY), targets.reshape(-1))
    write(
        name,
        {
            "about": ABOUT,
            "config": config,
            "ids": ids.tolist(),
            "mask": MASK.tolist(),
            "targets": targets.tolist(),
            "weights": weights(model),
            "logits": result(logits),
            "loss": loss.item(),
            "grads": gradients(model, loss, grads),
        },
    )


def classifier(name: str, model: torch.nn.Module, config: dict, ids: torch.Tensor, types, targets: torch.Tensor, seed: int, grads: list[str]) -> None:
    randomise(model, seed)
    more = {} if types is None else {"token_type_ids": types}
    out = model(input_ids=ids, attention_mask=MASK, output_hidden_states=True, **more)
    loss = F.cross_entropy(out.logits.reshape(-1, out.logits.shape[-1]), targets.reshape(-1))
    write(
        name,
        {
            "about": ABOUT,
            "config": config,
            "ids": ids.tolist(),
            "mask": MASK.tolist(),
            "types": None if types is None else types.tolist(),
            "targets": targets.tolist(),
            "weights": weights(model),
            "hidden": result(out.hidden_states[-1]),
            "logits": result(out.logits),
            "loss": loss.item(),
            "grads": gradients(model, loss, grads),
        },
    )


EAGER = {"attn_implementation": "eager"}

language_model(
    "nn-gpt2",
    GPT2LMHeadModel(
        GPT2Config(vocab_size=VOCABULARY, n_embd=WIDTH, n_layer=LAYERS, n_head=HEADS, n_inner=INNER, n_positions=POSITIONS, **EAGER)
    ),
    {"layers": LAYERS, "heads": HEADS},
    1,
    ["transformer.wte.weight", "transformer.wpe.weight", "transformer.h.0.attn.c_attn.weight", "transformer.h.1.ln_2.weight", "transformer.h.1.mlp.c_proj.bias"],
)
language_model(
    "nn-llama",
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=WIDTH,
            intermediate_size=INNER,
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            num_key_value_heads=2,
            max_position_embeddings=POSITIONS,
            rms_norm_eps=1e-6,
            tie_word_embeddings=False,
            **EAGER,
        )
    ),
    {"layers": LAYERS, "heads": HEADS, "kvHeads": 2},
    2,
    ["model.embed_tokens.weight", "model.layers.0.self_attn.k_proj.weight", "model.layers.1.mlp.gate_proj.weight", "model.norm.weight", "lm_head.weight"],
)
BERT = dict(
    vocab_size=VOCABULARY,
    hidden_size=WIDTH,
    num_hidden_layers=LAYERS,
    num_attention_heads=HEADS,
    intermediate_size=INNER,
    num_labels=3,
    **EAGER,
)
classifier(
    "nn-bert",
    BertForSequenceClassification(BertConfig(max_position_embeddings=POSITIONS, **BERT)),
    {"layers": LAYERS, "heads": HEADS},
    tokens(3),
    torch.tensor([[0, 0, 0, 1, 1, 1], [0, 0, 1, 1, 0, 0]]),
    torch.tensor([2, 0]),
    3,
    [
        "bert.embeddings.token_type_embeddings.weight",
        "bert.embeddings.LayerNorm.weight",
        "bert.encoder.layer.0.attention.self.query.weight",
        "bert.encoder.layer.1.output.LayerNorm.bias",
        "bert.pooler.dense.weight",
        "classifier.weight",
    ],
)
PAD = 1  # RoBERTa counts positions over the ids that are not this one
classifier(
    "nn-roberta",
    RobertaForTokenClassification(
        RobertaConfig(max_position_embeddings=POSITIONS + PAD + 1, type_vocab_size=1, pad_token_id=PAD, layer_norm_eps=1e-5, **BERT)
    ),
    {"layers": LAYERS, "heads": HEADS},
    torch.where(MASK == 1, tokens(4, PAD + 1), PAD),
    None,
    torch.tensor([[0, 1, 2, -100, 1, 0], [2, 2, -100, 1, -100, -100]]),
    4,
    [
        "roberta.embeddings.position_embeddings.weight",
        "roberta.encoder.layer.0.attention.output.dense.weight",
        "roberta.encoder.layer.1.intermediate.dense.bias",
        "classifier.weight",
    ],
)
