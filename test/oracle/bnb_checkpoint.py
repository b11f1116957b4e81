"""Writes fixtures/bnb-llama/: the tiny LLaMA of fixtures/checkpoints in four bits, as transformers saves it with bitsandbytes, and its logits.

Run by hand, outside the repository's own toolchain, after the script that writes fixtures/checkpoints:
    python -m venv venv && venv/bin/pip install torch transformers accelerate bitsandbytes && venv/bin/python test/oracle/bnb_checkpoint.py
"""

import json

import bitsandbytes
import torch
import transformers
from transformers import BitsAndBytesConfig, LlamaForCausalLM

from fixture import FOLDER, result

options = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=torch.float32)
model = LlamaForCausalLM.from_pretrained(FOLDER / "checkpoints" / "llama", quantization_config=options, dtype=torch.float32, device_map="cpu").eval()
folder = FOLDER / "bnb-llama"
model.save_pretrained(folder)
(folder / "generation_config.json").unlink(missing_ok=True)
# The package's multiplication on the CPU does not take matrices this small: its unpacked numbers in the plain network, in double precision.
plain = LlamaForCausalLM.from_pretrained(FOLDER / "checkpoints" / "llama", dtype=torch.float32).double().eval()
layers = dict(plain.named_modules())
with torch.no_grad():
    for name, m in model.named_modules():
        if isinstance(m, bitsandbytes.nn.Linear4bit):
            layers[name].weight.copy_(bitsandbytes.functional.dequantize_4bit(m.weight.data, m.weight.quant_state))
    ids = torch.tensor([[3, 1, 4, 1, 5]])
    logits = plain(input_ids=ids).logits
about = {"bitsandbytes": bitsandbytes.__version__, "torch": torch.__version__, "transformers": transformers.__version__, "script": "test/oracle/bnb_checkpoint.py"}
(folder / "logits.json").write_text(json.dumps({"about": about, "ids": ids.tolist(), "logits": result(logits)}, separators=(",", ":")) + "\n")
