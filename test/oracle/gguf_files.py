"""Writes fixtures/gguf-blocks.json and fixtures/tiny-llama.gguf with the Python package `gguf`.

Run by hand, outside the repository's own toolchain (after nn.py):
    python -m venv venv && venv/bin/pip install torch gguf && venv/bin/python test/oracle/gguf_files.py

gguf-blocks.json: for every format, blocks of random bytes (their halves finite) and the float32 numbers they stand for.
tiny-llama.gguf: the LLaMA of nn-llama.json as llama.cpp's converter lays it out, the rows of q and k in pairs, and a small byte-level
vocabulary.
"""

import json

import gguf
import numpy as np

from fixture import FOLDER, write

Q = gguf.GGMLQuantizationType
FORMATS = [Q.F32, Q.F16, Q.BF16, Q.Q4_0, Q.Q4_1, Q.Q5_0, Q.Q5_1, Q.Q8_0, Q.Q2_K, Q.Q3_K, Q.Q4_K, Q.Q5_K, Q.Q6_K]
# Where the halves d, m, dmin stand in a block.
HALVES = {
    "F32": [], "F16": [0], "BF16": [], "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0],
    "Q2_K": [80, 82], "Q3_K": [108], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208],
}
r = np.random.default_rng(250)
cases = {}
for f in FORMATS:
    numbers, size = gguf.GGML_QUANT_SIZES[f]
    count = 8 if numbers == 1 else 2
    b = r.integers(0, 256, (count, size), dtype=np.uint8)
    for at in HALVES[f.name]:
        b[:, at : at + 2] = r.normal(0, 0.1, (count, 1)).astype(np.float16).view(np.uint8)
    if numbers == 1 and f != Q.F16:
        b[:] = (r.normal(size=(count, 1)).astype(np.float32).view(np.uint8))[:, 4 - size :]
    out = gguf.quants.dequantize(b.reshape(1, -1), f).astype(np.float32).reshape(-1)
    cases[f.name] = {
        "id": int(f), "numbers": numbers, "bytes": size, "packed": b.tobytes().hex(),
        "values": [float(np.format_float_scientific(v, unique=True)) for v in out],
    }
write("gguf-blocks", {"about": {"gguf": "0.19.0", "script": "test/oracle/gguf_files.py"}, "formats": cases})

base = json.loads((FOLDER / "nn-llama.json").read_text())
weights = {n: np.array(w["data"], dtype=np.float32).reshape(w["shape"]) for n, w in base["weights"].items()}
HEADS, KV, WIDTH = 4, 2, 16


def pairs(w: np.ndarray, heads: int) -> np.ndarray:
    """Numbers k and k + D/2 of a head side by side, as the converter lays them out."""
    return w.reshape(heads, 2, w.shape[0] // heads // 2, w.shape[1]).swapaxes(1, 2).reshape(w.shape)


path = FOLDER / "tiny-llama.gguf"
w = gguf.GGUFWriter(path, "llama")
w.add_name("tiny")
w.add_vocab_size(13)
w.add_context_length(12)
w.add_embedding_length(WIDTH)
w.add_block_count(2)
w.add_feed_forward_length(24)
w.add_head_count(HEADS)
w.add_head_count_kv(KV)
w.add_rope_dimension_count(WIDTH // HEADS)
w.add_layer_norm_rms_eps(1e-6)
w.add_rope_freq_base(10000.0)
w.add_tokenizer_model("gpt2")
w.add_tokenizer_pre("smollm")
w.add_token_list(["<|end|>", "a", "b", "c", "1", "2", "Ġ", "Ċ", "ab", "abc", "Ġa", "é", "<own>"])
w.add_token_types([3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 4])
w.add_token_merges(["a b", "ab c", "Ġ a"])
w.add_eos_token_id(0)
w.add_bos_token_id(0)
w.add_add_bos_token(False)
PLACES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
}
TOP = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight", "lm_head.weight": "output.weight"}
for name, value in weights.items():
    if name in TOP:
        w.add_tensor(TOP[name], value)
        continue
    _, _, layer, place = name.removesuffix(".weight").split(".", 3)
    heads = {"self_attn.q_proj": HEADS, "self_attn.k_proj": KV}.get(place)
    value = value if heads is None else pairs(value, heads)
    to = f"blk.{layer}.{PLACES[place]}.weight"
    w.add_tensor(to, value)
w.write_header_to_file()
w.write_kv_data_to_file()
w.write_tensors_to_file()
w.close()
print(f"{path.name}: {path.stat().st_size / 1024:.1f} KB")
