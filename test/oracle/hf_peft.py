"""Writes fixtures/peft-*.json: every method that Hugging Face PEFT shares with this library, on the tiny models of nn-*.json.

For each: tensors moved off their start, what comes of them (logits, loss, gradient of every trained tensor), and their values after three
AdamW steps. Run by hand, outside the repository's own toolchain (after nn.py, with the same torch):
    python -m venv venv && venv/bin/pip install torch peft attrs && venv/bin/python test/oracle/hf_peft.py
The library itself computes in double precision here: `double_precision` turns its own conversions to float32 into conversions to float64.
(The file is not called peft.py, which would hide the library from every script in this folder.)
"""

import json
import logging
import sys
import warnings

import peft
import peft.optimizers.lorafa
import peft.tuners.boft.layer as boft_layer
import torch
import torch.nn.functional as F
import transformers
from peft import (
    AdaLoraConfig, BeftConfig, BOFTConfig, FourierFTConfig, HiraConfig, HRAConfig, IA3Config, LNTuningConfig, LoHaConfig, LoKrConfig, LoraConfig, MissConfig,
    MultitaskPromptTuningConfig, OFTConfig, PolyConfig, PrefixTuningConfig, PromptEncoderConfig, PromptTuningConfig, ShiraConfig, VBLoRAConfig, VeraConfig,
    get_peft_model, initialize_lora_eva_weights,
)
from peft.optimizers import create_lorafa_optimizer, create_loraplus_optimizer
from peft.tuners.lora.config import CordaConfig, EvaConfig, LoraGAConfig
from peft.tuners.lora.corda import preprocess_corda
from peft.tuners.lora.loraga import preprocess_loraga
from transformers import BertConfig, BertForSequenceClassification, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from fixture import FOLDER, exact, result, write

ABOUT = {"torch": torch.__version__, "transformers": transformers.__version__, "peft": peft.__version__, "script": "test/oracle/hf_peft.py"}
EAGER = {"attn_implementation": "eager"}
SIZES = dict(vocab_size=13, hidden_size=16, num_hidden_layers=2, num_attention_heads=4, intermediate_size=24, max_position_embeddings=12, **EAGER)
LR = 0.01


def double_precision() -> None:
    torch.set_default_dtype(torch.float64)
    torch.float32 = torch.float64
    torch.Tensor.float = torch.Tensor.double
    peft.optimizers.lorafa.is_bf16_available = lambda: False  # else it multiplies in bfloat16, to three digits


class BlockDiagonal:
    """What BOFT's CUDA kernel computes, for machines without one: [m, n, b, b] → [m, n·b, n·b]."""

    @staticmethod
    def apply(blocks: torch.Tensor) -> torch.Tensor:
        return torch.stack([torch.block_diag(*one) for one in blocks])


def network(name: str) -> tuple[torch.nn.Module, dict, dict]:
    """The model of a fixture, the batch it is run on, and the fixture."""
    base = json.loads((FOLDER / f"nn-{name}.json").read_text())
    if name == "llama":
        model = LlamaForCausalLM(LlamaConfig(num_key_value_heads=2, rms_norm_eps=1e-6, tie_word_embeddings=False, **SIZES))
    elif name == "gpt2":
        model = GPT2LMHeadModel(GPT2Config(vocab_size=13, n_embd=16, n_layer=2, n_head=4, n_inner=24, n_positions=12, **EAGER))
    else:
        model = BertForSequenceClassification(BertConfig(num_labels=3, **SIZES))
    weights = {n: round_to_float32(torch.tensor(w["data"])).reshape(w["shape"]) for n, w in base["weights"].items()}
    missing = model.load_state_dict(weights, strict=False).missing_keys
    assert all(n in ("lm_head.weight",) for n in missing), missing
    batch = {"input_ids": torch.tensor(base["ids"]), "attention_mask": torch.tensor(base["mask"])}
    if name == "bert":
        batch["token_type_ids"] = torch.tensor(base["types"])
    return model.double().eval(), batch, base


def trained(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    return {n: p for n, p in model.named_parameters() if p.requires_grad}


def round_to_float32(t: torch.Tensor) -> torch.Tensor:
    return torch.tensor(t.detach().numpy().astype("float32").astype("float64"))


def case(
    name: str, config, move: float = 0.3, prepare=None, fixed=lambda wrapped: {}, optimizer=None, every_step=None, extra={}, penalty=False, answer=None, steps=3,
    wrap=get_peft_model, training=False, precise=lambda wrapped: {}, begin=lambda wrapped: None, measure=None, added=lambda wrapped: 0.0,
):
    """One method on one network. `move`: how far its tensors are from their start; `begin` brings them where they may be.

    `wrap` makes the model with the method, `training` runs it as in training. `precise` are frozen tensors kept in double precision, as they are before
    the move. `measure` computes logits and loss in place of cross-entropy; `added` is what the library wants added to it.
    """
    torch.manual_seed(3)
    model, batch, base = network(name)
    targets = torch.tensor(base["targets"])
    if prepare is not None:
        prepare(model, batch, config, targets)
    wrapped = wrap(model, config).train(training)
    if name == "bert":
        for n, p in wrapped.named_parameters():
            if "modules_to_save" in n:
                p.requires_grad_(False)
    make = optimizer or (lambda m: torch.optim.AdamW(trained(m).values(), lr=LR, weight_decay=0.0))
    opt = make(wrapped)
    kept = {n: result(t) for n, t in precise(wrapped).items()}
    g = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for p in trained(wrapped).values():
            p.copy_(round_to_float32(p + move * torch.randn(p.shape, generator=g)))
        for t in fixed(wrapped).values():
            if t.is_floating_point():
                t.copy_(round_to_float32(t))
        begin(wrapped)
    cross_entropy = lambda logits: F.cross_entropy(logits.reshape(-1, logits.shape[-1]), targets.reshape(-1))

    def run():
        if measure is not None:
            return measure(wrapped, batch, targets)
        if answer is not None:
            logits = answer(wrapped, batch)
            return logits, cross_entropy(logits)
        if penalty:  # the library adds its own to a loss that it is asked for
            model.loss_function = lambda logits, labels, **_: cross_entropy(logits)
            out = wrapped(**batch, **extra, labels=batch["input_ids"])
            return out.logits, out.loss
        logits = wrapped(**batch, **extra).logits
        logits = logits[:, -batch["input_ids"].shape[1] :] if name != "bert" else logits  # without the prompt's own
        return logits, cross_entropy(logits) + added(wrapped)

    logits, loss = run()
    train = trained(wrapped)
    grads = torch.autograd.grad(loss, list(train.values()), allow_unused=True)
    out = {
        "tensors": {n: exact(p) for n, p in train.items()},
        "fixed": {n: exact(t) for n, t in fixed(wrapped).items()} | kept,
        "logits": result(logits),
        "loss": loss.item(),
        "grads": {n: result(torch.zeros_like(p) if v is None else v) for (n, p), v in zip(train.items(), grads)},
    }
    losses = []
    for step in range(1, steps + 1):
        opt.zero_grad()
        _, value = run()
        losses.append(value.item())
        value.backward()
        opt.step()
        if every_step is not None:
            every_step(wrapped, step)
    run()  # some methods bring their tensors into bounds when they run
    return out | {"losses": losses, "after": {n: result(p) for n, p in train.items()}}


LM = {"task_type": "CAUSAL_LM"}
AT = {"target_modules": ["v_proj", "down_proj"], **LM}  # neither is square
BERT = {"target_modules": ["query", "intermediate.dense"]}  # with biases
CONV1D = {"target_modules": ["c_attn", "mlp.c_proj"], "fan_in_fan_out": True, **LM}  # stored as [in, out]
LORA = {"r": 2, "lora_alpha": 3}


def lora() -> dict:
    return {
        "lora llama": case("llama", LoraConfig(**LORA, **AT)),
        "lora gpt2": case("gpt2", LoraConfig(**LORA, **CONV1D)),
        "lora bert": case("bert", LoraConfig(**LORA, **BERT)),
        "rslora llama": case("llama", LoraConfig(**LORA, use_rslora=True, **AT)),
    }


def dora() -> dict:
    return {
        "dora llama": case("llama", LoraConfig(**LORA, use_dora=True, **AT)),
        "dora gpt2": case("gpt2", LoraConfig(**LORA, use_dora=True, **CONV1D)),
        "dora bert": case("bert", LoraConfig(**LORA, use_dora=True, **BERT)),
    }


def lora_optimizers() -> dict:
    plus = lambda m: create_loraplus_optimizer(m, torch.optim.AdamW, lr=LR, loraplus_lr_ratio=4.0)

    def fa(eps: float):
        """Its ε is added to √v before v is corrected, ours after: with ε = 0 they are one, and in the first step ε/√0.001 is the same."""

        def make(model):
            optimizer = create_lorafa_optimizer(model, 2, 3, LR)
            for group in optimizer.param_groups:
                group["eps"] = eps
            return optimizer

        return make

    first = lambda m: {n: p for n, p in m.named_parameters() if "lora_A" in n}
    return {
        "loraPlus llama": case("llama", LoraConfig(**LORA, **AT), optimizer=plus),
        "loraFa llama": case("llama", LoraConfig(**LORA, **AT), optimizer=fa(1e-15), fixed=first),
        "loraFa epsilon llama": case("llama", LoraConfig(**LORA, **AT), optimizer=fa(0.01), fixed=first, steps=1),
    }


def adalora() -> dict:
    def config(at, **more):
        return AdaLoraConfig(init_r=3, target_r=1, lora_alpha=3, total_step=3, tinit=0, tfinal=1, deltaT=1, orth_reg_weight=0.1, **at, **more)

    allocate = lambda m, step: m.base_model.update_and_allocate(step)
    return {
        "adalora llama": case("llama", config(AT), every_step=allocate, penalty=True),
        "adalora gpt2": case("gpt2", config(CONV1D), every_step=allocate, penalty=True),
    }


def starts() -> dict:
    """Initialisations of LoRA: factors as the library makes them, and what training makes of them."""
    one = {"move": 0.0}
    corda = lambda model, batch, config, targets: preprocess_corda(model, config, run_model=lambda: [model(input_ids=batch["input_ids"][b : b + 1, :4]) for b in (0, 1)])

    def gradient(model, batch, config, targets):
        def step():
            logits = model(**batch).logits
            F.cross_entropy(logits.reshape(-1, 13), targets.reshape(-1)).backward()

        preprocess_loraga(model, config, step)

    return {
        "pissa llama": case("llama", LoraConfig(**LORA, init_lora_weights="pissa", **AT), **one),
        "olora llama": case("llama", LoraConfig(**LORA, init_lora_weights="olora", **AT), **one),
        "corda first llama": case("llama", LoraConfig(**LORA, init_lora_weights="corda", corda_config=CordaConfig(corda_method="ipm"), **AT), prepare=corda, **one),
        "corda last llama": case("llama", LoraConfig(**LORA, init_lora_weights="corda", corda_config=CordaConfig(corda_method="kpm"), **AT), prepare=corda, **one),
        "loraGa llama": case("llama", LoraConfig(**LORA, init_lora_weights="lora_ga", lora_ga_config=LoraGAConfig(), **AT), prepare=gradient, **one),
    }


def eva() -> dict:
    """A has 8 rows before ranks are shared out, so that the library's randomised factorisation of 16 columns is exact."""
    model, batch, _ = network("llama")
    config = LoraConfig(r=4, lora_alpha=6, init_lora_weights="eva", eva_config=EvaConfig(rho=2.0), target_modules=["q_proj", "v_proj", "o_proj"], **LM)
    wrapped = get_peft_model(model, config)
    initialize_lora_eva_weights(wrapped, [batch], show_progress_bar=False)
    made = {n: p for n, p in wrapped.named_parameters() if "lora_" in n}
    scales = {n: m.scaling["default"] for n, m in wrapped.named_modules() if hasattr(m, "lora_A")}
    return {"eva llama": {"tensors": {n: exact(p) for n, p in made.items()}, "scales": scales}}


def additive() -> dict:
    ia3 = {"feedforward_modules": ["down_proj"], "target_modules": ["k_proj", "v_proj", "down_proj"], **LM}
    fused = {"feedforward_modules": ["mlp.c_proj"], **CONV1D}
    dense = {"feedforward_modules": ["output.dense"], "target_modules": ["key", "value", "output.dense"]}
    return {
        "ia3 llama": case("llama", IA3Config(**ia3)),
        "ia3 gpt2": case("gpt2", IA3Config(**fused)),
        "ia3 bert": case("bert", IA3Config(**dense)),
        "lnTuning llama": case("llama", LNTuningConfig(target_modules=["input_layernorm", "post_attention_layernorm", "norm"], **LM)),
        "lnTuning gpt2": case("gpt2", LNTuningConfig(target_modules=["ln_1", "ln_2", "ln_f"], **LM)),
        "bitfit bert": case("bert", BeftConfig(target_modules=["value"])),
        "lnTuning bert": case("bert", LNTuningConfig(target_modules=["LayerNorm"])),
    }


def prompts() -> dict:
    v = {"num_virtual_tokens": 3}

    def at_cls(wrapped, batch):
        """The library pools its first row, which is the prompt's; here the text's first token, as before."""
        seen = []
        hook = wrapped.base_model.bert.encoder.register_forward_hook(lambda _, __, out: seen.append(out[0]))
        wrapped(**batch)
        hook.remove()
        return wrapped.base_model.classifier(wrapped.base_model.bert.pooler(seen[0][:, 3:]))

    mpt = MultitaskPromptTuningConfig(num_tasks=2, num_ranks=2, prompt_tuning_init="RANDOM", **v, **LM)
    return {
        "promptTuning llama": case("llama", PromptTuningConfig(**v, **LM)),
        "promptTuning gpt2": case("gpt2", PromptTuningConfig(**v, **LM)),
        "promptTuning bert": case("bert", PromptTuningConfig(task_type="SEQ_CLS", **v), answer=at_cls),
        "pTuning mlp llama": case("llama", PromptEncoderConfig(encoder_hidden_size=5, **v, **LM)),
        "pTuning lstm llama": case("llama", PromptEncoderConfig(encoder_reparameterization_type="LSTM", encoder_hidden_size=3, encoder_num_layers=2, **v, **LM)),
        "mpt llama": case("llama", mpt, extra={"task_ids": torch.tensor([1, 0])}),
    }


def prefixes() -> dict:
    v = {"num_virtual_tokens": 3}
    return {
        "prefixTuning llama": case("llama", PrefixTuningConfig(**v, **LM)),
        "prefixTuning gpt2": case("gpt2", PrefixTuningConfig(**v, **LM)),
        "prefixTuning mlp gpt2": case("gpt2", PrefixTuningConfig(prefix_projection=True, encoder_hidden_size=4, **v, **LM)),
    }


def factored() -> dict:
    return {
        "loha llama": case("llama", LoHaConfig(r=2, alpha=3, **AT)),
        "lokr llama": case("llama", LoKrConfig(r=1, alpha=3, decompose_both=True, **AT)),
        "lokr whole llama": case("llama", LoKrConfig(r=5, alpha=3, decompose_factor=2, **AT)),
        "hira llama": case("llama", HiraConfig(r=2, **AT)),
        "hira gpt2": case("gpt2", HiraConfig(r=2, **CONV1D)),
    }


def shared() -> dict:
    random = lambda m: {n: b for n, b in m.named_buffers() if "vera_" in n}
    return {
        "vera llama": case("llama", VeraConfig(r=3, **AT), fixed=random),
        "vblora llama": case("llama", VBLoRAConfig(r=2, num_vectors=6, vector_length=4, topk=2, **AT)),
    }


def rotations() -> dict:
    boft_layer.get_fbd_cuda, boft_layer.FastBlockDiag = (lambda: True), BlockDiagonal
    oft = {"r": 0, "oft_block_size": 4}
    return {
        "oft bert": case("bert", OFTConfig(use_cayley_neumann=False, **oft, **BERT)),
        "oft neumann bert": case("bert", OFTConfig(use_cayley_neumann=True, num_cayley_neumann_terms=5, **oft, **BERT)),
        "oft shared bert": case("bert", OFTConfig(use_cayley_neumann=False, block_share=True, **oft, **BERT)),
        "oft constrained llama": case("llama", OFTConfig(use_cayley_neumann=False, coft=True, eps=0.5, **oft, **AT)),
        "boft bert": case("bert", BOFTConfig(boft_block_size=4, boft_n_butterfly_factor=1, **BERT)),
        "boft butterfly bert": case("bert", BOFTConfig(boft_block_size=4, boft_n_butterfly_factor=3, **BERT)),
        "hra bert": case("bert", HRAConfig(r=3, **BERT)),
        "hra llama": case("llama", HRAConfig(r=2, **AT)),
    }


def places() -> dict:
    indices = lambda m: {f"{n}.shira_indices": x.shira_indices["default"] for n, x in m.named_modules() if hasattr(x, "shira_indices")}
    frequencies = lambda m: {f"{n}.indices": x.indices["default"] for n, x in m.named_modules() if hasattr(x, "fourierft_spectrum")}
    return {
        "shira llama": case("llama", ShiraConfig(r=1, random_seed=7, **AT), fixed=indices),
        "fourierft llama": case("llama", FourierFTConfig(n_frequency=9, scaling=20.0, **AT), fixed=frequencies),
        "fourierft gpt2": case("gpt2", FourierFTConfig(n_frequency=9, scaling=20.0, **CONV1D), fixed=frequencies),
    }


def sums() -> dict:
    return {
        "miss llama": case("llama", MissConfig(r=5, **AT)),  # 5 divides neither input
        "miss mini llama": case("llama", MissConfig(r=4, mini_r=2, init_weights="mini", **AT)),
        "bone llama": case("llama", MissConfig(r=4, init_weights="bat", **AT)),
        "bone bert": case("bert", MissConfig(r=4, init_weights="bat", **BERT)),
    }


def two_adapters(at: dict):
    """The tiny LLaMA with two LoRAs, a and b, of different scales."""
    torch.manual_seed(4)
    model, batch, _ = network("llama")
    wrapped = get_peft_model(model, LoraConfig(r=2, lora_alpha=3, **at), adapter_name="a").eval()
    wrapped.add_adapter("b", LoraConfig(r=2, lora_alpha=1, **at))
    made = {n: p for n, p in wrapped.named_parameters() if "lora_" in n}
    with torch.no_grad():
        for p in made.values():
            p.copy_(round_to_float32(p + 0.3 * torch.randn(p.shape)))
    return wrapped, batch, {n: exact(p) for n, p in made.items()}


def skills() -> dict:
    config = PolyConfig(r=2, n_tasks=3, n_skills=3, n_splits=2, **AT)
    return {"poly llama": case("llama", config, extra={"task_ids": torch.tensor([2, 0])})}


def arithmetic() -> dict:
    """What becomes of two adapters of one layer, with weights of both signs."""
    kinds = {
        "linear": {}, "cat": {}, "svd": {"svd_rank": 3}, "magnitude_prune": {"density": 0.4}, "ties": {"density": 0.6, "majority_sign_method": "total"},
        "ties frequency": {"density": 0.6, "majority_sign_method": "frequency"}, "ties_svd": {"density": 0.5, "svd_rank": 2},
    }
    at = {"target_modules": ["v_proj"], "layers_to_transform": [0], **LM}
    out = {}
    for title, options in kinds.items():
        wrapped, _, tensors = two_adapters(at)
        wrapped.add_weighted_adapter(["a", "b"], [0.7, -1.3], "c", combination_type=title.split(" ")[0], **options)
        layer = wrapped.base_model.model.model.layers[0].self_attn.v_proj
        out[title] = {"tensors": tensors, "A": result(layer.lora_A["c"].weight), "B": result(layer.lora_B["c"].weight), "scale": layer.scaling["c"]}
    return out


def mixed() -> dict:
    """Rows of one batch served by different adapters, and two adapters active at once."""
    wrapped, batch, tensors = two_adapters(AT)
    rows = {"b a": ["b", "a"], "a base": ["a", "__base__"]}
    out = {title: result(wrapped(**batch, adapter_names=names).logits) for title, names in rows.items()}
    wrapped.base_model.set_adapter(["a", "b"])
    return {"tensors": tensors, **out, "both": result(wrapped(**batch).logits)}


GROUPS = {f.__name__.replace("_", "-"): f for f in (lora, dora, lora_optimizers, adalora, starts, eva, additive, prompts, prefixes, factored, shared, rotations, places, sums, skills, arithmetic, mixed)}

if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    double_precision()
    for group in sys.argv[1:] or GROUPS:
        write(f"peft-{group}", {"about": ABOUT, "cases": GROUPS[group]()})
