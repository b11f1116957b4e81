"""Writes fixtures/peft-updates.json: the types of Hugging Face PEFT that hf_peft.py leaves out, on the same networks in the same way.

    venv/bin/python test/oracle/hf_peft_types.py
"""

import logging
import warnings

import peft.tuners.c3a.layer as c3a_layer
import torch
from peft import (
    BeftConfig, C3AConfig, DeftConfig, DeloraConfig, GloraConfig, GraloraConfig, LilyConfig, LoraConfig, OSFConfig, PeanutConfig, PsoftConfig, PveraConfig, RandLoraConfig,
    RoadConfig, SupertuningConfig, TinyLoraConfig, UniLoraConfig, WaveFTConfig,
)
from peft.tuners.lora.config import BdLoraConfig, KasaConfig
from peft.tuners.osf.layer import OSFLayer

from fixture import write
from hf_peft import ABOUT, AT, BERT, LORA, case, double_precision


def buffers(part: str):
    return lambda m: {n: b for n, b in m.named_buffers() if part in n}


class Circular:
    """C3A's product with autograd's own derivative: the library's (0.21.2) is that of a convolution where the product is a correlation, so that what
    reaches the layers below is wrong; torch.autograd.gradcheck says so."""

    @staticmethod
    def apply(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        _, n, b = w.shape
        spectra = torch.einsum("...nb,mnb->...mb", torch.fft.ifft(x.reshape(*x.shape[:-1], n, b)), torch.fft.fft(w))
        return torch.fft.fft(spectra).real.flatten(start_dim=-2)


def osf() -> dict:
    """The library projects gradients in hooks on the tensors; the fixture's gradients are those before, its trajectory is with them."""
    made, attach, grad = [], OSFLayer._attach_hooks, torch.autograd.grad

    def attached(layer, adapter):
        made.append((layer, adapter))
        attach(layer, adapter)

    def before_hooks(*args, **more):
        for layer, _ in made:
            layer._detach_hooks()
        answer = grad(*args, **more)
        for layer, adapter in made:
            attach(layer, adapter)
        return answer

    OSFLayer._attach_hooks, torch.autograd.grad = attached, before_hooks
    try:
        return case("llama", OSFConfig(effective_rank=5, **AT))
    finally:
        OSFLayer._attach_hooks, torch.autograd.grad = attach, grad


def updates() -> dict:
    c3a_layer.BlockCircularConvolution = Circular
    blocks = BdLoraConfig(target_modules_bd_a=["down_proj"], target_modules_bd_b=["v_proj"], nblocks=2)
    waves = lambda m: {f"{n}.indices": x.waveft_indices["default"] for n, x in m.named_modules() if hasattr(x, "waveft_spectrum")}
    second = lambda m: {n: p for n, p in m.named_parameters() if "lora_B" in n}
    road = lambda variant: case("bert", RoadConfig(variant=variant, group_size=8, **BERT))
    at = {k: v for k, v in AT.items()}
    return {
        "pvera llama": case("llama", PveraConfig(r=3, **at), fixed=buffers("pvera_")),
        "randlora llama": case("llama", RandLoraConfig(r=3, randlora_alpha=6, **at), fixed=buffers("randlora_")),
        "uniLora llama": case("llama", UniLoraConfig(r=2, theta_d_length=7, **at), fixed=buffers("unilora_")),
        "tinyLora llama": case("llama", TinyLoraConfig(r=2, u=5, **at), fixed=buffers("tinylora_")),
        "c3a llama": case("llama", C3AConfig(block_size=4, **at)),
        "gralora llama": case("llama", GraloraConfig(r=4, alpha=3, gralora_k=2, hybrid_r=1, **at)),
        "delora llama": case("llama", DeloraConfig(r=2, delora_lambda=2, **at), fixed=buffers("delora_w_norm")),
        "road 1 bert": road("road_1"),
        "road 2 bert": road("road_2"),
        "road 4 bert": road("road_4"),
        "psoft llama": case("llama", PsoftConfig(r=3, psoft_alpha=2, **at), fixed=buffers("psoft_")),
        "deft llama": case("llama", DeftConfig(r=2, alpha=3, **at)),
        "peanut llama": case("llama", PeanutConfig(r=3, depth=2, scaling=0.5, **at)),
        "glora bert": case("bert", GloraConfig(r=2, **BERT)),
        "waveft llama": case("llama", WaveFTConfig(n_frequency=9, scaling=4.0, **at), fixed=waves),
        "supertuning llama": case("llama", SupertuningConfig(sparsity=0.9, **at), fixed=buffers("supertuning_indices")),
        "osf llama": osf(),
        "lily llama": case("llama", LilyConfig(r=2, stride_A=2, num_B=2, scaling=2.0, **at)),
        "beft bert": case("bert", BeftConfig(target_modules=["value"])),
        "kasa llama": case("llama", LoraConfig(**LORA, kasa_config=KasaConfig(beta=0.0, gamma=0.0), **at)),
        "mica llama": case("llama", LoraConfig(**LORA, init_lora_weights="mica", **at), fixed=second),
        "bdLora llama": case("llama", LoraConfig(**LORA, use_bdlora=blocks, **at)),
    }


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    double_precision()
    write("peft-updates", {"about": ABOUT | {"script": "test/oracle/hf_peft_types.py"}, "cases": updates()})
