"""Writes fixtures/tiny-qwen2.gguf: the tiny Qwen2 of fixtures/checkpoints as llama.cpp's converter lays it out, and gguf-qwen2.json: what transformers reads in that file.

Run by hand, outside the repository's own toolchain, after the script that writes fixtures/checkpoints:
    python -m venv venv && venv/bin/pip install torch transformers accelerate gguf && venv/bin/python test/oracle/gguf_qwen2.py

Rows of q and k stay as transformers has them: this architecture's rotation pairs k with k + D/2 in llama.cpp too. transformers' own reader of GGUF is the judge of that:
its logits come from the file, and are compared with the checkpoint's.
"""

import importlib.metadata

import gguf
import numpy as np
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from fixture import FOLDER, result, write

source = FOLDER / "checkpoints" / "qwen2"
weights = load_file(source / "model.safetensors")
path = FOLDER / "tiny-qwen2.gguf"
w = gguf.GGUFWriter(path, "qwen2")
w.add_name("tiny")
w.add_vocab_size(40)
w.add_context_length(64)
w.add_embedding_length(32)
w.add_block_count(2)
w.add_feed_forward_length(40)
w.add_head_count(4)
w.add_head_count_kv(2)
w.add_layer_norm_rms_eps(1e-6)
w.add_rope_freq_base(10000.0)
TOKENS = [
    *["<|endoftext|>", "<|im_start|>", "<|im_end|>", "a", "b", "c", "1", "2", "Ġ", "Ċ", "'", "l", "e", "s", ".", "Ã", "©", "Ì", "ģ", "Â", "½"],
    *["ab", "abc", "Ġa", "Ã©", "ll", "'ll", "..", "ĠĠ", "ĊĊ", "12", ".Ċ", "Ġab", "es", "LL", "L", "'LL", "ĠĊ", "Âł", "ł"],
]
assert len(TOKENS) == 40
w.add_tokenizer_model("gpt2")
w.add_tokenizer_pre("qwen2")
w.add_token_list(TOKENS)
w.add_token_types([3, 3, 3] + [1] * 37)
MERGES = ["a b", "ab c", "Ġ a", "Ã ©", "l l", "' ll", ". .", "Ġ Ġ", "Ċ Ċ", "1 2", ". Ċ", "Ġ ab", "e s", "L L", "' LL", "Ġ Ċ", "Â ł"]
w.add_token_merges(MERGES)
w.add_eos_token_id(2)
w.add_bos_token_id(0)
w.add_add_bos_token(False)
PLACES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
}
TOP = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight", "lm_head.weight": "output.weight"}
for name, value in weights.items():
    to = TOP.get(name)
    if to is None:
        _, _, layer, place = name.split(".", 3)
        place, part = place.rsplit(".", 1)
        to = f"blk.{layer}.{PLACES[place]}.{part}"
    keep = value.ndim == 2  # matrices as halves, the rest as float32: as the converter has it
    w.add_tensor(to, value.numpy() if keep else value.float().numpy())
w.write_header_to_file()
w.write_kv_data_to_file()
w.write_tensors_to_file()
w.close()
print(f"{path.name}: {path.stat().st_size / 1024:.1f} KB")

ids = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]])
with torch.no_grad():
    read = AutoModelForCausalLM.from_pretrained(FOLDER, gguf_file=path.name, dtype=torch.float32).double().eval()(input_ids=ids).logits
    original = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).double().eval()(input_ids=ids).logits
assert torch.equal(read, original), (read - original).abs().max()
tokenizer = AutoTokenizer.from_pretrained(FOLDER, gguf_file=path.name)
print(type(tokenizer).__name__, tokenizer.backend_tokenizer.pre_tokenizer, tokenizer.backend_tokenizer.normalizer)
TEXTS = ["abc a12", "a'll ab'LL 1 2", "ab..\n\n a", "  abc  \n", "e\u0301s \u00e9s", "a\u00a0b", "\u00bd12", "<|im_start|>abc<|im_end|>\n", "a   b\n\n\n  c"]
cases = [{"text": t, "ids": tokenizer(t, add_special_tokens=False)["input_ids"]} for t in TEXTS]
versions = {p: importlib.metadata.version(p) for p in ("gguf", "transformers", "torch")}
write("gguf-qwen2", {"about": {**versions, "script": "test/oracle/gguf_qwen2.py"}, "ids": ids.tolist(), "logits": result(read), "texts": cases})
