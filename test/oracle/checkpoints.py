"""Writes fixtures/checkpoints/*: tiny random checkpoints as Hugging Face transformers saves them, and checkpoints.json with its answers.

Run by hand, outside the repository's own toolchain:
    python -m venv venv && venv/bin/pip install torch transformers && venv/bin/python test/oracle/checkpoints.py
"""

import json
import shutil

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoConfig,
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2ForTokenClassification,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from fixture import FOLDER

ROOT = FOLDER / "checkpoints"
MASK = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]])
answers: dict = {}


def randomise(model: torch.nn.Module, seed: int) -> torch.nn.Module:
    """Weights far from every special value; norms around 1, so that nothing that is read wrongly goes unseen."""
    g = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        mean = 1.0 if p.dim() == 1 and name.endswith("weight") else 0.0
        p.data = mean + 0.3 * torch.randn(p.shape, generator=g)
    return model.eval()


def numbers(t: torch.Tensor) -> dict:
    return {"shape": list(t.shape), "data": [float(f"{x:.8g}") for x in t.detach().double().reshape(-1).tolist()]}


def ask(model: torch.nn.Module, ids: torch.Tensor, mask: torch.Tensor, types=None) -> dict:
    """In double precision, from the numbers as they are in the file."""
    more = {} if types is None else {"token_type_ids": types}
    out = model.eval().double()(input_ids=ids, attention_mask=mask, output_hidden_states=True, **more)
    return {
        "ids": ids.tolist(),
        "mask": mask.tolist(),
        "types": None if types is None else types.tolist(),
        "logits": numbers(out.logits),
        "hidden": numbers(out.hidden_states[-1]) if hasattr(model, "bert") or hasattr(model, "roberta") else None,
    }


def save(name: str, model: torch.nn.Module, seed: int, dtype: torch.dtype, shard: str = "5GB") -> None:
    folder = ROOT / name
    shutil.rmtree(folder, ignore_errors=True)
    randomise(model, seed).to(dtype).save_pretrained(folder, max_shard_size=shard)
    (folder / "generation_config.json").unlink(missing_ok=True)


def load(name: str, kind, change: dict | None = None) -> torch.nn.Module:
    config = AutoConfig.from_pretrained(ROOT / name, **(change or {}))
    return kind.from_pretrained(ROOT / name, config=config, dtype=torch.float32)


def tokens(seed: int, vocabulary: int, low: int = 0) -> torch.Tensor:
    return torch.randint(low, vocabulary, MASK.shape, generator=torch.Generator().manual_seed(seed))


LLAMA = dict(
    vocab_size=40,
    hidden_size=32,
    intermediate_size=40,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=64,
    bos_token_id=1,
    eos_token_id=2,
)
GPT2 = dict(vocab_size=40, n_embd=32, n_layer=2, n_head=4, n_inner=48, n_positions=24, bos_token_id=1, eos_token_id=1)
ENCODER = dict(
    vocab_size=40, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=40, num_labels=3
)

save("gpt2", GPT2LMHeadModel(GPT2Config(**GPT2)), 1, torch.float32)
answers["gpt2"] = ask(load("gpt2", GPT2LMHeadModel), tokens(1, 40), MASK)

save("llama", LlamaForCausalLM(LlamaConfig(**LLAMA, tie_word_embeddings=False)), 2, torch.float32, shard="40KB")
# 24 tokens, so that the scalings show at positions that are far apart
far = torch.randint(0, 40, (1, 24), generator=torch.Generator().manual_seed(2))
answers["llama"] = ask(load("llama", LlamaForCausalLM), tokens(2, 40), MASK)
for name, rope in {
    "llama, rope linear": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0},
    "llama, rope llama3": {
        "rope_type": "llama3",
        "rope_theta": 500.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    },
}.items():
    change = {"rope_parameters": rope}
    answers[name] = {"folder": "llama", "config": change, **ask(load("llama", LlamaForCausalLM, change), far, torch.ones_like(far))}

save("qwen2", Qwen2ForCausalLM(Qwen2Config(**LLAMA, tie_word_embeddings=False)), 3, torch.float16)
answers["qwen2"] = ask(load("qwen2", Qwen2ForCausalLM), tokens(3, 40), MASK)

# As SmolLM: LLaMA's architecture, tied, with a byte-level tokenizer
raw = Tokenizer(models.BPE())
raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
raw.decoder = decoders.ByteLevel()
raw.train_from_iterator(
    ["the rank of the update is low, and so the update is small", "the weights of the model stay as they are"] * 4,
    trainers.BpeTrainer(vocab_size=288, special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()),
)
tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<|im_start|>", eos_token="<|im_end|>", unk_token="<|endoftext|>")
TEXT = "The update of the weights: größer, 数 & small.\n"
save("smollm", LlamaForCausalLM(LlamaConfig(**{**LLAMA, "vocab_size": len(raw.get_vocab())}, tie_word_embeddings=True)), 4, torch.bfloat16)
tokenizer.save_pretrained(ROOT / "smollm")
ids = torch.tensor([tokenizer(TEXT).input_ids])
answers["smollm"] = {"text": TEXT, **ask(load("smollm", LlamaForCausalLM), ids[:, :4], torch.ones_like(ids[:, :4])), "ids": ids.tolist()}

save("bert", BertForSequenceClassification(BertConfig(max_position_embeddings=24, **ENCODER)), 5, torch.float16)
answers["bert"] = ask(
    load("bert", BertForSequenceClassification), tokens(5, 40), MASK, torch.tensor([[0, 0, 0, 1, 1, 1], [0, 0, 1, 1, 0, 0]])
)
PAD = 1  # RoBERTa counts positions over the ids that are not this one; here one row has its padding at the left
left = MASK.clone()
left[0] = torch.tensor([0, 0, 1, 1, 1, 1])
save(
    "roberta",
    RobertaForSequenceClassification(
        RobertaConfig(max_position_embeddings=24 + PAD + 1, type_vocab_size=1, pad_token_id=PAD, layer_norm_eps=1e-5, **ENCODER)
    ),
    6,
    torch.float16,
)
answers["roberta"] = ask(load("roberta", RobertaForSequenceClassification), torch.where(left == 1, tokens(6, 40, PAD + 1), PAD), left)

SMALL = {**LLAMA, "hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 16}
save("llama-classes", LlamaForSequenceClassification(LlamaConfig(**SMALL, num_labels=3, pad_token_id=0)), 7, torch.float16)
answers["llama-classes"] = ask(load("llama-classes", LlamaForSequenceClassification), torch.where(MASK == 1, tokens(7, 40, 1), 0), MASK)
save(
    "gpt2-tags",
    GPT2ForTokenClassification(GPT2Config(**{**GPT2, "n_embd": 16, "n_layer": 1, "n_inner": None}, num_labels=3)),
    8,
    torch.float16,
)
answers["gpt2-tags"] = ask(load("gpt2-tags", GPT2ForTokenClassification), tokens(8, 40), MASK)

about = {"torch": torch.__version__, "transformers": transformers.__version__, "script": "test/oracle/checkpoints.py"}
path = FOLDER / "checkpoints.json"
path.write_text(json.dumps({"about": about, "answers": answers}, separators=(",", ":")) + "\n")
print(f"{path.name}: {path.stat().st_size / 1024:.1f} KB")
for folder in sorted(ROOT.iterdir()):
    print(f"{folder.name}: {sum(f.stat().st_size for f in folder.iterdir()) / 1024:.1f} KB  {sorted(f.name for f in folder.iterdir())}")
