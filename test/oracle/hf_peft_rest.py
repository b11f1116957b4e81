"""Writes fixtures/peft-rest.json: the types of Hugging Face PEFT that hf_peft.py and hf_peft_types.py leave out, on the same networks in the same way.

    venv/bin/pip install scikit-learn && venv/bin/python test/oracle/hf_peft_rest.py
"""

import logging
import warnings

import torch
from peft import AdamssConfig, CartridgeConfig, CPTConfig, FrodConfig, LoraConfig, TrainableTokensConfig
from peft.tuners.frod.layer import FrodLayer
from peft.tuners.lora.config import KasaConfig, MontecloraConfig, VeloraConfig
from peft.tuners.lora.monteclora import BufferedMontecloraSampler, MontecloraSampler

from fixture import write
from hf_peft import ABOUT, AT, BERT, LM, LORA, LR, case, double_precision, round_to_float32
from hf_peft_types import buffers


def adamss() -> dict:
    """What the library's clusters are goes into the fixture; with a budget, clusters stop after the third step and after the sixth."""

    def fixed(wrapped) -> dict:
        layers = {n: m for n, m in wrapped.named_modules() if hasattr(m, "scatter_index")}
        return {f"{n}.scatter_index": m.scatter_index["default"] for n, m in layers.items()} | buffers("adamss_newB")(wrapped)

    config = {"num_subspaces": 3, "subspace_rank": 2}
    budget = {"use_asa": True, "asa_target_subspaces": 4, "init_warmup": 2, "final_warmup": 6, "mask_interval": 3, "asa_schedule_exponent": 2.0}
    return {
        "adamss llama": case("llama", AdamssConfig(r=5, **config, **AT), fixed=fixed),
        "adamss bert": case("bert", AdamssConfig(r=100, **config, **BERT), fixed=fixed),
        "adamss threshold bert": case("bert", AdamssConfig(r=4, use_dynamic_rank=True, svd_threshold=0.3, **config, **BERT), fixed=fixed),
        "adamss budget llama": case(
            "llama", AdamssConfig(r=5, **config, **budget, **AT), fixed=fixed, steps=7, every_step=lambda m, step: m.base_model.update_and_allocate(step)
        ),
    }


def frod() -> dict:
    """U, V and the first λ in double precision: in float32 their product would be the weight to seven digits only, and the library puts it in its place."""

    def precise(wrapped) -> dict:
        own = {f"{n}.{k}": t["default"] for n, m in layers(wrapped) for k, t in (("U", m.frod_U), ("start", m.frod_lambda_l))}
        return own | {f"{n}.V": m.frod_V["default"] for n, m in layers(wrapped) if ".0." in n}

    layers = lambda wrapped: [(n, m) for n, m in wrapped.named_modules() if isinstance(m, FrodLayer)]
    places = lambda wrapped: {f"{n}.places": m.frod_s_indices["default"] for n, m in layers(wrapped) if ".0." in n}  # as V, the same in all blocks
    config = {"sparse_rate": 0.03, "progressbar": False}
    return {
        "frod llama": case("llama", FrodConfig(**config, **AT), fixed=places, precise=precise),
        "frod bert": case("bert", FrodConfig(**config, **BERT), fixed=places, precise=precise),
    }


def cpt() -> dict:
    """Two examples in front. The loss is the library's own, over the examples' answers too; of the text, the last tokens are the answer.

    It projects before it runs, so that the start is brought into the balls here, a little inside; ours projects after each step. Its mask of gradients is a
    hook, as OSF's: the fixture's gradients are those before, its trajectory is with them.
    """
    examples = {"cpt_token_ids": [1, 5, 2, 7, 3, 9], "cpt_mask": [1] * 6, "cpt_tokens_type_mask": [2, 3, 4, 4, 5, 8]}
    config = CPTConfig(
        num_virtual_tokens=6, **examples, opt_weighted_loss_type="decay", opt_loss_decay_factor=0.7, opt_projection_epsilon=9.0,
        opt_projection_format_epsilon=6.0, **LM,
    )

    def into_balls(wrapped) -> None:
        encoder = wrapped.prompt_encoder["default"]
        d = encoder.delta_embedding.weight
        ball = encoder.get_epsilon()
        ball[ball < 1e-9] = 0.0
        d.copy_(round_to_float32(d * (0.99 * ball / d.norm(dim=1))[:, None]))

    def measure(wrapped, batch, targets):
        labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        parts = torch.tensor([1, 2, 3, 4, 4, 4]).repeat(2, 1).to(torch.float64)  # of the text: template, input, template, answer
        out = wrapped(**batch, labels=labels, input_type_mask=parts)
        return out.logits[:, -6:], out.loss

    grad = torch.autograd.grad

    def before_hooks(loss, tensors, **more):
        hooks = [t._backward_hooks for t in tensors]
        for t in tensors:
            t._backward_hooks = None
        answer = grad(loss, tensors, **more)
        for t, h in zip(tensors, hooks):
            t._backward_hooks = h
        return answer

    torch.autograd.grad = before_hooks
    try:
        return {f"cpt {n}": case(n, config, begin=into_balls, measure=measure) for n in ("llama", "gpt2")}
    finally:
        torch.autograd.grad = grad


def monteclora() -> dict:
    """One sample for each layer, the same in every step; the divergences are added as the library wants it."""

    def fixed(wrapped) -> dict:
        samplers = {n: m for n, m in wrapped.named_modules() if isinstance(m, MontecloraSampler)}
        return {f"{n}.{k}": t for n, m in samplers.items() for k, t in m.sampler.buffer[0].items()}

    get, BufferedMontecloraSampler.get = BufferedMontecloraSampler.get, lambda self: self.buffer[0]
    one = lambda entropy: MontecloraConfig(num_samples=3, use_entropy=entropy, dirichlet_prior=0.4, sample_scaler=0.3, kl_loss_weight=0.01, buffer_size=1)
    added = lambda m: m.base_model._get_monteclora_loss()
    try:
        return {
            f"monteclora{title} llama": case("llama", LoraConfig(**LORA, monteclora_config=one(entropy), **AT), training=True, fixed=fixed, added=added)
            for title, entropy in (("", False), (" entropy", True))
        }
    finally:
        BufferedMontecloraSampler.get = get


def variants() -> dict:
    """Variants of LoRA. The ids of LLaMA's fixture are 5 9 8 6 12 2 and 4 3 12 11 7 4: both texts have 12, one has 8 6."""
    alora = lambda *ids: case("llama", LoraConfig(**LORA, alora_invocation_tokens=list(ids), **AT))
    # 3 groups divide the 24 inputs of `down`, not the 16 of `v`
    velora = lambda start, fixed: case("llama", LoraConfig(**LORA, velora_config=VeloraConfig(num_groups=3, scale=0.7, init_type=start), **AT), training=True, fixed=fixed)
    return {
        "alora llama": alora(12),
        "alora two llama": alora(8, 6),
        "velora llama": velora("batch_average", lambda m: {}),
        "velora random llama": velora("random", buffers("lora_velora_embed")),
        "kasa penalty llama": case(
            "llama", LoraConfig(**LORA, kasa_config=KasaConfig(beta=0.02, gamma=0.03), **AT), added=lambda m: m.base_model._get_kasa_loss()
        ),
    }


def rows() -> dict:
    """Rows of the embedding (GPT-2's head is tied to it), and rows of keys and values."""
    tokens = {"token_indices": [12, 5, 7], **LM}
    frozen = lambda m: {n: p for n, p in m.named_parameters() if "frozen_embedding" in n}
    return {
        "trainableTokens llama": case("llama", TrainableTokensConfig(**tokens)),
        "trainableTokens gpt2": case("gpt2", TrainableTokensConfig(target_modules=["wte"], **tokens)),
        "cartridge llama": case("llama", CartridgeConfig(num_virtual_tokens=3, **LM), fixed=frozen),
        "cartridge gpt2": case("gpt2", CartridgeConfig(num_virtual_tokens=3, num_frozen_tokens=0, **LM)),
    }


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    double_precision()
    cases = {}
    for group in (adamss, frod, cpt, monteclora, variants, rows):
        cases |= group()
    write("peft-rest", {"about": ABOUT | {"script": "test/oracle/hf_peft_rest.py"}, "cases": cases})
