"""Writes fixtures/peft-rest.json: the types of Hugging Face PEFT that hf_peft.py and hf_peft_types.py leave out, on the same networks in the same way;
and peft-variants.json: mixtures of experts, starts and optimizers of LoRA that are left, and what is drawn in training.

    venv/bin/pip install scikit-learn bitsandbytes && venv/bin/python test/oracle/hf_peft_rest.py
"""

import contextlib
import logging
import sys
import tempfile
import warnings

import bitsandbytes.functional as bnb
import peft.tuners.lora.layer as lora_layer
import torch
from peft import (
    AdamssConfig, ArrowConfig, CartridgeConfig, CPTConfig, FrodConfig, LoftQConfig, LoraConfig, PolyConfig, PveraConfig, TrainableTokensConfig, XLoraConfig,
    create_arrow_model, get_peft_model, initialize_lora_eva_weights,
)
from peft.optimizers import create_riemannian_optimizer
from peft.tuners.frod.layer import FrodLayer
from peft.tuners.lora.config import EvaConfig, KasaConfig, MontecloraConfig, VeloraConfig
from peft.tuners.lora.monteclora import BufferedMontecloraSampler, MontecloraSampler

from peft.tuners.lora.variants import QALoraLinearVariant

from fixture import exact, result, write
from hf_peft import ABOUT, AT, BERT, LM, LORA, LR, case, double_precision, network, round_to_float32, trained
from hf_peft_types import buffers

SINGLE = torch.float32, torch.Tensor.float


@contextlib.contextmanager
def single_precision():
    """Float32 is float32 again, for files and for a quantiser that knows no other."""
    wide = torch.float32, torch.Tensor.float
    torch.float32, torch.Tensor.float = SINGLE
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.float32, torch.Tensor.float = wide
        torch.set_default_dtype(torch.float64)


def adamss() -> dict:
    """What the library's clusters are goes into the fixture; with a budget, clusters stop after the third step and the sixth."""

    def fixed(wrapped) -> dict:
        layers = {n: m for n, m in wrapped.named_modules() if hasattr(m, "scatter_index")}
        return {f"{n}.scatter_index": m.scatter_index["default"] for n, m in layers.items()} | buffers("adamss_newB")(wrapped)

    config = {"num_subspaces": 3, "subspace_rank": 2}
    budget = {"use_asa": True, "asa_target_subspaces": 4, "init_warmup": 2, "final_warmup": 8, "mask_interval": 3, "asa_schedule_exponent": 2.0}
    scores = {}

    def allocate(wrapped, step: int) -> None:
        """And what the clusters are worth after a step, in the order of layers and clusters; 0 where nothing is counted."""
        wrapped.base_model.update_and_allocate(step)
        worth = lambda ipt, unc: 0.0 if ipt is None else (ipt * unc).mean().item()
        tallies = [[m.exp_avg_ipt_A, m.exp_avg_unc_A, m.exp_avg_ipt_B, m.exp_avg_unc_B] for m in wrapped.modules() if hasattr(m, "exp_avg_ipt_A")]
        scores[step] = [worth(a, b) + worth(c, d) for four in tallies for a, b, c, d in zip(*(t["default"] for t in four))]

    cases = {
        "adamss llama": case("llama", AdamssConfig(r=5, **config, **AT), fixed=fixed),
        "adamss bert": case("bert", AdamssConfig(r=100, **config, **BERT), fixed=fixed),
        "adamss threshold bert": case("bert", AdamssConfig(r=4, use_dynamic_rank=True, svd_threshold=0.3, **config, **BERT), fixed=fixed),
        "adamss budget llama": case(
            "llama", AdamssConfig(r=5, **config, **budget, **AT), fixed=fixed, steps=8, every_step=allocate
        ),
    }
    return cases | {"adamss scores": scores}


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


def saved(folder: str, n: int) -> tuple[list[str], list[dict]]:
    """LoRAs over the tiny LLaMA, of scale 1.5, in files; and their tensors. The first direction of each is much the largest, so that the power iteration
    by which Arrow finds it comes to an end."""
    paths, tensors = [], []
    with single_precision():
        for k in range(n):
            torch.manual_seed(20 + k)
            wrapped = get_peft_model(network("llama")[0].float(), LoraConfig(**LORA, **AT))
            with torch.no_grad():
                for name, p in trained(wrapped).items():
                    p.add_(0.3 * torch.randn(p.shape))
                    if "lora_A" in name:
                        p[0] *= 4
            wrapped.save_pretrained(f"{folder}/{k}")
            paths.append(f"{folder}/{k}")
            tensors.append({name: exact(p) for name, p in trained(wrapped).items()})
    return paths, tensors


def xlora() -> dict:
    """Two experts, or three, of which the first pass of the network itself says how much they count."""
    experts = lambda m: {n: p for n, p in m.named_parameters() if ".lora_A." in n or ".lora_B." in n}

    def wrap(model, config):
        model.config.use_cache = False
        with single_precision():
            return get_peft_model(model, config).double()

    with tempfile.TemporaryDirectory() as folder:
        paths = saved(folder, 3)[0]
        adapters = lambda n: {str(k): path for k, path in enumerate(paths[:n])}
        one = lambda n=2, **more: case("llama", XLoraConfig(hidden_size=16, adapters=adapters(n), xlora_dropout_p=0.0, **more, **LM), fixed=experts, wrap=wrap)
        return {
            "xlora llama": one(softmax_temperature=0.7, global_scaling_weight=1.3),
            "xlora layerwise llama": one(xlora_depth=3, xlora_size=6, layerwise_scalings=True),
            "xlora top llama": one(enable_softmax=False, top_k_lora=1, enable_softmax_topk=False),
            "xlora trained llama": one(n=3, use_trainable_adapters=True, enable_softmax=False, top_k_lora=2, enable_softmax_topk=True),
        }


def arrow() -> dict:
    """Three experts. The library trains nothing there; here the experts are, after their directions were taken. `general` is GenKnowSub: raw LoRAs in, logits out."""
    prototypes = lambda m: {n: b for n, b in m.named_buffers() if n.endswith("prototypes")}

    def model_of(model, paths, general, **more):
        config = ArrowConfig(top_k=2, router_temperature=0.6, rng_seed=1, use_gks=len(general) > 0, **more)
        with single_precision():
            wrapped = create_arrow_model(model, paths, config, general_adapter_paths=general).double()
        with torch.no_grad():
            logits = wrapped(**network("llama")[1]).logits  # takes the directions
        for n, p in wrapped.named_parameters():
            p.requires_grad_("lora_" in n and ".task_" in n)
        return wrapped, logits

    with tempfile.TemporaryDirectory() as folder:
        paths, tensors = saved(folder, 5)
        general, logits = model_of(network("llama")[0], paths[:3], paths[3:])
        return {
            "arrow llama": case("llama", None, wrap=lambda model, _: model_of(model, paths[:3], [])[0], fixed=prototypes),
            "general": {"raw": tensors, "logits": result(logits), "prototypes": {n: result(b) for n, b in prototypes(general).items()}},
        }


def forms() -> dict:
    """Starts and optimizers of LoRA that hf_peft.py has not."""
    ranks = lambda model, config: with_eva(get_peft_model(model, config))
    riemannian = lambda m: create_riemannian_optimizer(m, torch.optim.AdamW, lr=LR, reg=0.02, weight_decay=0.0)

    def with_eva(wrapped):
        initialize_lora_eva_weights(wrapped, [network("llama")[1]], show_progress_bar=False)
        return wrapped

    eva = LoraConfig(r=4, lora_alpha=6, init_lora_weights="eva", eva_config=EvaConfig(rho=2.0), target_modules=["q_proj", "v_proj", "o_proj"], **LM)
    return {
        "riemannianLora llama": case("llama", LoraConfig(**LORA, **AT), optimizer=riemannian),
        "loraOrthogonal llama": case("llama", LoraConfig(**LORA, init_lora_weights="orthogonal", **AT), move=0.0),
        "eva llama": case("llama", eva, wrap=ranks),
        "qaLora llama": qa_lora(),
        "loftq llama": loftq(),
    }


def qa_lora() -> dict:
    """The library has it for GPTQ's layers alone; its own code is put on ordinary linear layers here."""
    resolve = lora_layer.Linear.resolve_lora_variant
    lora_layer.Linear.resolve_lora_variant = lambda self, *, config, **_: QALoraLinearVariant()
    try:
        return case("llama", LoraConfig(**LORA, use_qalora=True, qalora_group_size=4, **AT))
    finally:
        lora_layer.Linear.resolve_lora_variant = resolve


def loftq() -> dict:
    """Two turns of NF4; the library would compute them on a GPU. Its start is in single precision, what comes of it in double.

    bitsandbytes 0.50.2 unpacks some matrices of rows shorter than a block (8 × 16, 16 × 16, 32 × 32) with another block's scale on a CPU: it is given vectors.
    """
    to, unpack = torch.Tensor.to, bnb.dequantize_4bit
    on_cpu = lambda v: "cpu" if str(v).startswith("cuda") else v

    def flat(packed, state):
        shape, state.shape = state.shape, torch.Size([state.shape.numel()])
        return unpack(packed, state).reshape(shape)

    def wrap(model, config):
        bnb.dequantize_4bit = flat
        torch.Tensor.to = lambda self, *args, **more: to(self, *map(on_cpu, args), **{k: on_cpu(v) for k, v in more.items()})
        try:
            with single_precision():
                return get_peft_model(model.float(), config).double()
        finally:
            torch.Tensor.to, bnb.dequantize_4bit = to, unpack

    # α = r: the library does not divide by the scale
    config = LoraConfig(r=2, lora_alpha=2, init_lora_weights="loftq", loftq_config=LoftQConfig(loftq_bits=4, loftq_iter=2), **AT)
    weights = lambda m: {n: p for n, p in m.named_parameters() if "base_layer.weight" in n}
    return case("llama", config, move=0.0, wrap=wrap, fixed=weights)


def draws() -> dict:
    """As in training, with numbers drawn once: the four layers of every pass get the same four, PVeRA's noise and Poly's uniform numbers."""

    def run(name: str, config, numbers: list[torch.Tensor], fixed=lambda m: {}, **more) -> dict:
        draw, calls = getattr(torch, name), iter(range(1000))

        def wrap(model, config):
            wrapped = get_peft_model(model, config)
            setattr(torch, name, lambda *_, **__: numbers[next(calls) % 4])
            return wrapped

        try:
            own = lambda m: {f"draw {k}": t for k, t in enumerate(numbers)} | fixed(m)
            return case("llama", config, wrap=wrap, training=True, fixed=own, **more)
        finally:
            setattr(torch, name, draw)

    g = torch.Generator().manual_seed(9)
    noise = [torch.randn(2, 6, 3, generator=g) for _ in range(4)]
    uniform = [torch.rand(2, 2, 3, generator=g) for _ in range(4)]
    tasks = {"task_ids": torch.tensor([2, 0])}
    return {
        "pvera training llama": run("randn_like", PveraConfig(r=3, **AT), noise, fixed=buffers("pvera_")),
        "poly training llama": run("rand", PolyConfig(r=2, n_tasks=3, n_skills=3, n_splits=2, **AT), uniform, extra=tasks),
    }


FILES = {"rest": (adamss, frod, cpt, monteclora, variants, rows), "variants": (xlora, arrow, forms, draws)}

if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    double_precision()
    for name in sys.argv[1:] or FILES:
        cases = {}
        for group in FILES[name]:
            cases |= group()
        write(f"peft-{name}", {"about": ABOUT | {"script": "test/oracle/hf_peft_rest.py"}, "cases": cases})
