"""Writes fixtures/peft-joined.json: LoRA on embeddings, DEFT with a QR, and what puts two methods into one adapter, as hf_peft.py has the others.

    venv/bin/python test/oracle/hf_peft_joined.py
"""

import logging
import warnings

from peft import DeftConfig, LoraConfig, SupertuningConfig

from fixture import write
from hf_peft import ABOUT, AT, CONV1D, LM, LORA, case, double_precision


def without_padding(model, batch, config, targets) -> None:
    """torch gives no gradient to the row of id 0, BERT's [PAD]; in the fixture's texts it is a word like any other."""
    model.bert.embeddings.word_embeddings.padding_idx = None


def joined() -> dict:
    indices = lambda m: {n: b for n, b in m.named_buffers() if "supertuning_indices" in n}
    bert = ["word_embeddings", "position_embeddings", "token_type_embeddings"]
    return {
        "loraEmbedding llama": case("llama", LoraConfig(**LORA, target_modules=["embed_tokens"], **LM)),
        # the head shares the table, and keeps it
        "loraEmbedding gpt2": case("gpt2", LoraConfig(**LORA, use_rslora=True, target_modules=["wte", "wpe"], **LM)),
        "loraEmbedding bert": case("bert", LoraConfig(**LORA, target_modules=bert), prepare=without_padding),
        "tokens and lora llama": case("llama", LoraConfig(**LORA, trainable_token_indices=[3, 5, 1], **AT)),
        "tokens and lora gpt2": case("gpt2", LoraConfig(**LORA, trainable_token_indices={"wte": [2, 7]}, **CONV1D)),
        "supra llama": case("llama", SupertuningConfig(sparsity=0.9, r=2, lora_alpha=3, **AT), fixed=indices),
        "deft qr llama": case("llama", DeftConfig(r=3, alpha=2, decomposition_method="qr", **AT)),
        "deft qr gpt2": case("gpt2", DeftConfig(r=2, para=True, decomposition_method="qr", **CONV1D)),
    }


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    double_precision()
    write("peft-joined", {"about": ABOUT | {"script": "test/oracle/hf_peft_joined.py"}, "cases": joined()})
