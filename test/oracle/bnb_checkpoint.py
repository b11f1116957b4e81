"""Writes fixtures/bnb-llama/: the tiny LLaMA of fixtures/checkpoints in four bits, as transformers saves it with bitsandbytes, and its logits.

Run by hand, outside the repository's own toolchain, after the script that writes fixtures/checkpoints:
    python -m venv venv && venv/bin/pip install torch transformers accelerate bitsandbytes peft attrs && venv/bin/python test/oracle/bnb_checkpoint.py
"""

import json

import bitsandbytes
import torch
import transformers
from transformers import BitsAndBytesConfig, LlamaForCausalLM

from fixture import FOLDER, result
from hf_peft import double_precision

options = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=torch.float32)
model = LlamaForCausalLM.from_pretrained(FOLDER / "checkpoints" / "llama", quantization_config=options, dtype=torch.float32, device_map="cpu").eval()
folder = FOLDER / "bnb-llama"
model.save_pretrained(folder)
(folder / "generation_config.json").unlink(missing_ok=True)

def unpacked(m: bitsandbytes.nn.Linear4bit) -> torch.Tensor:
    """The weight by the format, in double precision: runs of 64 numbers share a scale, whatever the rows. The package's own CPU kernel (0.50.2) takes scales row by row
    where rows are 16·n columns and no multiple of 64, and is off by several steps there: (32, 32) comes back wrong, (12, 40) and (32, 64) right."""
    q, s = m.weight.data.reshape(-1), m.weight.quant_state
    codes = torch.stack([q >> 4, q & 15], 1).reshape(-1).long()
    inner = s.state2
    scales = inner.code.double()[s.absmax.long()] * inner.absmax.double().repeat_interleave(inner.blocksize)[: s.absmax.numel()] + s.offset.double()
    return (s.code.double()[codes] * scales.repeat_interleave(s.blocksize)[: codes.numel()]).reshape(s.shape)


plain = LlamaForCausalLM.from_pretrained(FOLDER / "checkpoints" / "llama", dtype=torch.float32).double().eval()
layers = dict(plain.named_modules())
with torch.no_grad():
    for name, m in model.named_modules():
        if isinstance(m, bitsandbytes.nn.Linear4bit):
            layers[name].weight.copy_(unpacked(m))
    double_precision()  # norms and rotations too
    ids = torch.tensor([[3, 1, 4, 1, 5]])
    logits = plain(input_ids=ids).logits
about = {"bitsandbytes": bitsandbytes.__version__, "torch": torch.__version__, "transformers": transformers.__version__, "script": "test/oracle/bnb_checkpoint.py"}
(folder / "logits.json").write_text(json.dumps({"about": about, "ids": ids.tolist(), "logits": result(logits)}, separators=(",", ":")) + "\n")
