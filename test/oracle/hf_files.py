"""Adapters as files of Hugging Face PEFT, both ways.

    hf_files.py write          writes fixtures/hf-files/<case>/ with save_pretrained, and what the library answers with each (logits.json)
    hf_files.py read FOLDER    for each FOLDER/<case>/: loads it with from_pretrained and writes to FOLDER/logits.json its logits, and whether save_pretrained
                               gives the same weights file again, byte for byte

By hand, outside the repository's own toolchain, after nn.py (the networks are those of nn-*.json); see hf_peft.py for the environment, with
scikit-learn besides (AdaMSS). Write with
PYTHONHASHSEED=0: the library writes sets as lists, in whatever order they have in that run. Files are
float32 as the library makes them; logits are computed in double precision from what was read back from the files.
"""

import contextlib
import json
import logging
import pathlib
import shutil
import sys
import tempfile
import warnings

import torch
from peft import (
    AdaLoraConfig, AdamssConfig, AdaptionPromptConfig, BeftConfig, BOFTConfig, C3AConfig, CartridgeConfig, CPTConfig, DeftConfig, DeloraConfig, FourierFTConfig, FrodConfig, GloraConfig, GraloraConfig, HiraConfig,
    HRAConfig, IA3Config, LilyConfig, LNTuningConfig, LoHaConfig, LoKrConfig, LoraConfig, MissConfig, MultitaskPromptTuningConfig, OFTConfig, OSFConfig,
    PeanutConfig, PeftModel, PolyConfig, PrefixTuningConfig, PromptEncoderConfig, PromptTuningConfig, PveraConfig, RandLoraConfig, RoadConfig, ShiraConfig,
    SupertuningConfig, TinyLoraConfig, TrainableTokensConfig, UniLoraConfig, VBLoRAConfig, VeraConfig, WaveFTConfig, get_peft_model,
)
from peft.tuners.adamss.layer import AdamssLayer
from peft.tuners.lora.config import BdLoraConfig, KasaConfig, MontecloraConfig, VeloraConfig

from transformers import RobertaConfig, RobertaForTokenClassification

from fixture import FOLDER, result
from hf_peft import ABOUT, AT, BERT, CONV1D, LM, double_precision, network, trained

FILES = FOLDER / "hf-files"
WEIGHTS = "adapter_model.safetensors"
LORA = {"r": 2, "lora_alpha": 3}
CLS = {**BERT, "task_type": "SEQ_CLS"}

CASES = {
    "lora-llama": lambda: LoraConfig(**LORA, **AT),
    "lora-gpt2": lambda: LoraConfig(**LORA, **CONV1D),
    "lora-bert": lambda: LoraConfig(**LORA, **CLS),
    "lora-patterns-llama": lambda: LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj", "v_proj", "up_proj"], rank_pattern={"layers.1.self_attn.q_proj": 3, "^model.layers.0.mlp.up_proj": 1}, alpha_pattern={"v_proj": 7}, **LM),
    "lora-layers-llama": lambda: LoraConfig(r=1, target_modules=["q_proj", "o_proj"], layers_to_transform=[1], layers_pattern="layers", **LM),
    "lora-regex-llama": lambda: LoraConfig(r=1, target_modules=r".*\.(?P<idx>\d+)\.(self_attn\.[qk]|mlp\.gate)_proj", exclude_modules=["layers.0.mlp.gate_proj"], **LM),
    "lora-all-linear-llama": lambda: LoraConfig(r=1, target_modules="all-linear", **LM),
    "lora-bias-gpt2": lambda: LoraConfig(r=1, target_modules=["c_attn"], bias="lora_only", fan_in_fan_out=True, **LM),
    "lora-bias-all-bert": lambda: LoraConfig(r=1, target_modules=["query"], bias="all", task_type="SEQ_CLS"),
    "lora-saved-llama": lambda: LoraConfig(r=1, target_modules=["v_proj"], modules_to_save=["lm_head", "layers.1.input_layernorm"], **LM),
    "lora-embeddings-llama": lambda: LoraConfig(r=1, target_modules=["v_proj"], **LM),
    "lora-embeddings-gpt2": lambda: LoraConfig(r=1, target_modules=["c_attn"], fan_in_fan_out=True, **LM),
    "lora-wte-gpt2": lambda: LoraConfig(r=1, target_modules=["c_attn"], modules_to_save=["wte"], fan_in_fan_out=True, **LM),
    "lora-half-llama": lambda: LoraConfig(r=2, target_modules=["v_proj"], **LM),
    "lora-roberta": lambda: LoraConfig(**LORA, target_modules=["query", "output.dense"], task_type="TOKEN_CLS"),
    "dora-roberta": lambda: LoraConfig(**LORA, use_dora=True, target_modules=["key", "intermediate.dense"], task_type="TOKEN_CLS"),
    "ia3-roberta": lambda: IA3Config(target_modules=["key", "value", "output.dense"], feedforward_modules=["output.dense"], task_type="TOKEN_CLS"),
    "rslora-llama": lambda: LoraConfig(r=4, lora_alpha=3, use_rslora=True, lora_dropout=0.25, init_lora_weights="gaussian", **AT),
    "dora-llama": lambda: LoraConfig(**LORA, use_dora=True, **AT),
    "dora-gpt2": lambda: LoraConfig(**LORA, use_dora=True, **CONV1D),
    "pissa-llama": lambda: LoraConfig(**LORA, init_lora_weights="pissa", **AT),
    "olora-llama": lambda: LoraConfig(**LORA, init_lora_weights="olora", **AT),
    "adalora-llama": lambda: AdaLoraConfig(init_r=3, target_r=2, lora_alpha=3, total_step=10, tinit=1, tfinal=2, deltaT=1, **AT),
    "adalora-gpt2": lambda: AdaLoraConfig(init_r=3, target_r=2, lora_alpha=3, total_step=10, **CONV1D),
    "adalora-cut-llama": lambda: AdaLoraConfig(init_r=4, target_r=2, lora_alpha=3, total_step=3, tinit=0, tfinal=1, **AT),  # trained to its budget
    "ia3-llama": lambda: IA3Config(target_modules=["k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"], **LM),
    "ia3-gpt2": lambda: IA3Config(target_modules=["c_attn", "mlp.c_proj"], feedforward_modules=["mlp.c_proj"], fan_in_fan_out=True, **LM),
    "ia3-bert": lambda: IA3Config(target_modules=["key", "value", "output.dense"], feedforward_modules=["output.dense"], task_type="SEQ_CLS"),
    "ln-llama": lambda: LNTuningConfig(target_modules=["input_layernorm", "post_attention_layernorm", "norm"], **LM),
    "ln-gpt2": lambda: LNTuningConfig(target_modules=["ln_1", "ln_f"], **LM),
    "ln-bert": lambda: LNTuningConfig(target_modules=["LayerNorm"], task_type="SEQ_CLS"),
    "beft-bert": lambda: BeftConfig(target_modules=["value"], task_type="SEQ_CLS"),
    "vera-llama": lambda: VeraConfig(r=3, **AT),
    "vera-gpt2": lambda: VeraConfig(r=3, **CONV1D),
    "vblora-llama": lambda: VBLoRAConfig(r=2, num_vectors=6, vector_length=4, topk=2, **AT),
    "vblora-gpt2": lambda: VBLoRAConfig(r=2, num_vectors=6, vector_length=8, topk=3, **CONV1D),
    "vblora-topk-llama": lambda: VBLoRAConfig(r=2, num_vectors=6, vector_length=4, topk=3, save_only_topk_weights=True, **AT),
    "vblora-many-llama": lambda: VBLoRAConfig(r=1, num_vectors=257, vector_length=8, save_only_topk_weights=True, target_modules=["v_proj"], **LM),
    "loha-llama": lambda: LoHaConfig(r=2, alpha=3, rank_pattern={"down_proj": 1}, **AT),
    "loha-bert": lambda: LoHaConfig(r=2, alpha=3, **CLS),
    "lokr-llama": lambda: LoKrConfig(r=1, alpha=3, decompose_both=True, **AT),
    "lokr-whole-llama": lambda: LoKrConfig(r=5, alpha=3, decompose_factor=2, **AT),
    "lokr-lycoris-bert": lambda: LoKrConfig(r=2, alpha=4, init_weights="lycoris", **CLS),
    "hira-llama": lambda: HiraConfig(r=2, **AT),
    "hira-gpt2": lambda: HiraConfig(r=2, **CONV1D),
    "poly-llama": lambda: PolyConfig(r=2, n_tasks=3, n_skills=3, n_splits=2, **AT),
    "miss-llama": lambda: MissConfig(r=5, **AT),
    "miss-mini-llama": lambda: MissConfig(r=4, mini_r=2, init_weights="mini", **AT),
    "bone-llama": lambda: MissConfig(r=4, init_weights="bat", **AT),
    "bone-bert": lambda: MissConfig(r=4, init_weights="bat", **CLS),
    "oft-bert": lambda: OFTConfig(r=0, oft_block_size=4, use_cayley_neumann=False, **CLS),
    "oft-neumann-llama": lambda: OFTConfig(r=4, oft_block_size=0, num_cayley_neumann_terms=6, **AT),
    "oft-shared-bert": lambda: OFTConfig(r=0, oft_block_size=8, use_cayley_neumann=False, block_share=True, **CLS),
    "oft-constrained-llama": lambda: OFTConfig(r=0, oft_block_size=4, use_cayley_neumann=False, coft=True, eps=0.5, **AT),
    "oft-moved-llama": lambda: OFTConfig(r=0, oft_block_size=7, use_cayley_neumann=False, **AT),  # 7 divides no input: 8 is taken
    "boft-bert": lambda: BOFTConfig(boft_block_size=4, **CLS),
    "boft-number-llama": lambda: BOFTConfig(boft_block_size=0, boft_block_num=4, **AT),
    "hra-llama": lambda: HRAConfig(r=2, **AT),
    "hra-bert": lambda: HRAConfig(r=3, **CLS),
    "shira-llama": lambda: ShiraConfig(r=1, random_seed=7, **AT),
    "fourierft-llama": lambda: FourierFTConfig(n_frequency=9, scaling=20.0, n_frequency_pattern={"down_proj": 5}, **AT),
    "fourierft-gpt2": lambda: FourierFTConfig(n_frequency=9, scaling=20.0, random_loc_seed=42, **CONV1D),
    "prompt-llama": lambda: PromptTuningConfig(num_virtual_tokens=3, **LM),
    "prompt-gpt2": lambda: PromptTuningConfig(num_virtual_tokens=3, **LM),
    "ptuning-llama": lambda: PromptEncoderConfig(num_virtual_tokens=3, encoder_hidden_size=5, **LM),
    "ptuning-lstm-gpt2": lambda: PromptEncoderConfig(num_virtual_tokens=3, encoder_reparameterization_type="LSTM", encoder_hidden_size=3, **LM),
    "prefix-llama": lambda: PrefixTuningConfig(num_virtual_tokens=3, **LM),
    "prefix-gpt2": lambda: PrefixTuningConfig(num_virtual_tokens=3, **LM),
    "prefix-mlp-gpt2": lambda: PrefixTuningConfig(num_virtual_tokens=3, prefix_projection=True, encoder_hidden_size=4, **LM),
    "mpt-llama": lambda: MultitaskPromptTuningConfig(num_virtual_tokens=3, num_tasks=2, num_ranks=2, prompt_tuning_init="RANDOM", **LM),
    "adaption-llama": lambda: AdaptionPromptConfig(adapter_len=3, adapter_layers=1, **LM),
    "adaption-gpt2": lambda: AdaptionPromptConfig(adapter_len=3, adapter_layers=2, **LM),
    "mica-llama": lambda: LoraConfig(**LORA, init_lora_weights="mica", **AT),
    "orthogonal-llama": lambda: LoraConfig(**LORA, init_lora_weights="orthogonal", **AT),
    "kasa-llama": lambda: LoraConfig(**LORA, kasa_config=KasaConfig(beta=0.01), **AT),
    "bdlora-llama": lambda: LoraConfig(**LORA, use_bdlora=BdLoraConfig(target_modules_bd_a=["down_proj"], target_modules_bd_b=["v_proj"], nblocks=2), **AT),
    "vera-seed-llama": lambda: VeraConfig(r=3, projection_prng_key=11, save_projection=False, **AT),
    "pvera-llama": lambda: PveraConfig(r=3, **AT),
    "pvera-seed-gpt2": lambda: PveraConfig(r=3, save_projection=False, **CONV1D),
    "randlora-llama": lambda: RandLoraConfig(r=3, randlora_alpha=6, **AT),
    "randlora-sparse-gpt2": lambda: RandLoraConfig(r=5, randlora_alpha=6, very_sparse=True, **CONV1D),
    "unilora-llama": lambda: UniLoraConfig(r=2, theta_d_length=7, save_indices=True, **AT),
    "unilora-gpt2": lambda: UniLoraConfig(r=2, theta_d_length=7, save_indices=True, **CONV1D),
    "unilora-seed-llama": lambda: UniLoraConfig(r=2, theta_d_length=27, **AT),
    "tinylora-llama": lambda: TinyLoraConfig(r=2, u=5, **AT),
    "tinylora-tied-gpt2": lambda: TinyLoraConfig(r=2, u=5, weight_tying=0.5, init_weights="uniform", **CONV1D),
    "c3a-llama": lambda: C3AConfig(block_size=4, block_size_pattern={"down_proj": 8}, **AT),
    "gralora-llama": lambda: GraloraConfig(r=4, alpha=3, gralora_k=2, hybrid_r=1, **AT),
    "gralora-gpt2": lambda: GraloraConfig(r=4, alpha=3, gralora_k=2, **CONV1D),
    "delora-llama": lambda: DeloraConfig(r=2, delora_lambda=2, rank_pattern={"down_proj": 3}, lambda_pattern={"v_proj": 5}, **AT),
    "road-bert": lambda: RoadConfig(group_size=8, **CLS),
    "road-two-bert": lambda: RoadConfig(variant="road_2", group_size=8, **CLS),
    "road-four-llama": lambda: RoadConfig(variant="road_4", group_size=4, **AT),
    "deft-llama": lambda: DeftConfig(r=2, alpha=3, **AT),
    "deft-para-gpt2": lambda: DeftConfig(r=2, para=True, **CONV1D),
    "peanut-llama": lambda: PeanutConfig(r=3, depth=2, scaling=0.5, **AT),
    "glora-bert": lambda: GloraConfig(r=2, **CLS),
    "glora-vector-llama": lambda: GloraConfig(r=2, config_A_B="vector", config_C="none", config_D_E="vector", **AT),
    "waveft-llama": lambda: WaveFTConfig(n_frequency=9, scaling=4.0, n_frequency_pattern={"down_proj": 5}, **AT),
    "waveft-plain-gpt2": lambda: WaveFTConfig(n_frequency=9, scaling=4.0, use_idwt=False, random_loc_seed=3, **CONV1D),
    "supertuning-llama": lambda: SupertuningConfig(sparsity=0.9, **AT),
    "supertuning-order-bert": lambda: SupertuningConfig(sparsity=0.9, select_top=False, save_precomputed_indices=False, **CLS),
    "osf-llama": lambda: OSFConfig(effective_rank=5, **AT),
    "lily-llama": lambda: LilyConfig(r=2, stride_A=2, num_B=2, scaling=2.0, **AT),
    "velora-llama": lambda: LoraConfig(**LORA, velora_config=VeloraConfig(num_groups=4), **AT),
    "velora-random-llama": lambda: LoraConfig(**LORA, velora_config=VeloraConfig(num_groups=4, init_type="random"), **AT),
    "monteclora-llama": lambda: LoraConfig(**LORA, monteclora_config=MontecloraConfig(num_samples=3), **AT),
    "alora-llama": lambda: LoraConfig(**LORA, alora_invocation_tokens=[int(network("llama")[1]["input_ids"][0, 1])], **AT),
    "frod-llama": lambda: FrodConfig(sparse_rate=0.02, progressbar=False, **AT),
    "adamss-llama": lambda: AdamssConfig(r=4, num_subspaces=3, subspace_rank=2, **AT),
    "adamss-seed-bert": lambda: AdamssConfig(r=5, num_subspaces=4, subspace_rank=2, use_dynamic_rank=True, svd_threshold=0.3, random_seed=7, **CLS),
    "adamss-budget-llama": lambda: AdamssConfig(r=6, num_subspaces=2, use_asa=True, asa_target_subspaces=3, init_warmup=1, final_warmup=9, mask_interval=2, **AT),
    "tokens-llama": lambda: TrainableTokensConfig(token_indices=[3, 5, 1], **LM),
    "tokens-gpt2": lambda: TrainableTokensConfig(token_indices=[2, 7], target_modules=["wte"], **LM),
    "cartridge-llama": lambda: CartridgeConfig(num_virtual_tokens=3, **LM),
    "cartridge-gpt2": lambda: CartridgeConfig(num_virtual_tokens=3, num_frozen_tokens=0, **LM),
    "cpt-llama": lambda: CPTConfig(num_virtual_tokens=4, cpt_token_ids=[1, 5, 2, 7], cpt_mask=[1] * 4, cpt_tokens_type_mask=[1, 2, 3, 4], **LM),
    "lora-words-llama": lambda: LoraConfig(**LORA, target_modules=["v_proj", "embed_tokens"], rank_pattern={"embed_tokens": 3}, **LM),
    "lora-words-gpt2": lambda: LoraConfig(**LORA, target_modules=["c_attn", "wte", "wpe"], fan_in_fan_out=True, **LM),  # the head keeps the table
    "lora-words-bert": lambda: LoraConfig(**LORA, use_rslora=True, target_modules=["query", "word_embeddings", "token_type_embeddings"], task_type="SEQ_CLS"),
    "lora-words-roberta": lambda: LoraConfig(**LORA, target_modules=["query", "word_embeddings", "position_embeddings"], task_type="TOKEN_CLS"),
    "lora-words-embeddings-gpt2": lambda: LoraConfig(**LORA, target_modules=["c_attn", "wte"], fan_in_fan_out=True, **LM),
    "words-llama": lambda: LoraConfig(**LORA, target_modules=".*embed_tokens", **LM),
    "lora-tokens-llama": lambda: LoraConfig(**LORA, trainable_token_indices=[3, 5, 1], **AT),
    "lora-tokens-gpt2": lambda: LoraConfig(**LORA, trainable_token_indices={"wte": [3, 5], "lm_head": [3, 5]}, **CONV1D),
    "lora-tokens-bert": lambda: LoraConfig(**LORA, trainable_token_indices=[3, 5], **CLS),
    "lora-tokens-head-llama": lambda: LoraConfig(**LORA, trainable_token_indices={"embed_tokens": [3, 5], "lm_head": [1]}, **AT),
    "lora-tokens-embeddings-gpt2": lambda: LoraConfig(**LORA, trainable_token_indices=[2, 7], **CONV1D),
    "dora-tokens-gpt2": lambda: LoraConfig(**LORA, use_dora=True, target_modules=["c_attn"], trainable_token_indices={"wpe": [1]}, fan_in_fan_out=True, **LM),
    "supra-llama": lambda: SupertuningConfig(sparsity=0.9, r=2, lora_alpha=3, **AT),
    "supra-bert": lambda: SupertuningConfig(sparsity=0.9, r=2, save_precomputed_indices=False, **CLS),
    "deft-qr-llama": lambda: DeftConfig(r=3, alpha=2, decomposition_method="qr", **AT),
    "deft-qr-gpt2": lambda: DeftConfig(r=2, para=True, decomposition_method="qr", **CONV1D),
    # a task without a type: the model's class is written instead
    "lora-untyped-llama": lambda: LoraConfig(r=1, target_modules={"v_proj", "k_proj"}),
}


def net(title: str):
    """The network that the last part of a title names: those of hf_peft.py, or the tiny RoBERTa of nn-roberta.json."""
    name = title.split("-")[-1]
    if name != "roberta":
        return network(name)
    base = json.loads((FOLDER / "nn-roberta.json").read_text())
    sizes = dict(vocab_size=13, hidden_size=16, num_hidden_layers=2, num_attention_heads=4, intermediate_size=24, num_labels=3)
    model = RobertaForTokenClassification(RobertaConfig(max_position_embeddings=14, type_vocab_size=1, pad_token_id=1, layer_norm_eps=1e-5, attn_implementation="eager", **sizes))
    model.load_state_dict({n: torch.tensor(w["data"]).reshape(w["shape"]) for n, w in base["weights"].items()}, strict=False)
    return model.double().eval(), {"input_ids": torch.tensor(base["ids"]), "attention_mask": torch.tensor(base["mask"])}, base


def move(wrapped: torch.nn.Module) -> None:
    g = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for p in trained(wrapped).values():
            p.add_(0.3 * torch.randn(p.shape, generator=g))


def to_budget(wrapped: torch.nn.Module) -> None:
    """Three steps, after which AdaLoRA has dropped triplets for good."""
    _, batch, _ = network("llama")
    optimizer = torch.optim.AdamW(trained(wrapped).values(), lr=0.01)
    for step in range(1, 4):
        wrapped(**batch, labels=batch["input_ids"]).loss.backward()
        optimizer.step()
        wrapped.base_model.update_and_allocate(step)
        optimizer.zero_grad()


def write_case(title: str) -> None:
    torch.manual_seed(3)
    model, _, _ = net(title)
    wrapped = get_peft_model(model.float(), CASES[title]()).eval()
    move(wrapped)
    if title == "adalora-cut-llama":
        to_budget(wrapped)
    if "constrained" in title:  # it is brought into its bounds when it runs
        wrapped(**network("llama")[1])
    folder = FILES / title
    if "half" in title:
        wrapped.to(torch.bfloat16)
    wrapped.save_pretrained(folder, save_embedding_layers=True if "embeddings" in title else "auto")
    (folder / "README.md").unlink()


@contextlib.contextmanager
def precisely():
    """Double precision for a run: files cannot be read meanwhile, because float32 is not float32 then."""
    single, to_single = torch.float32, torch.Tensor.float
    double_precision()
    try:
        yield
    finally:
        torch.float32, torch.Tensor.float = single, to_single
        torch.set_default_dtype(torch.float32)


def logits(title: str, folder: pathlib.Path) -> dict:
    model, batch, _ = net(title)
    wrapped = PeftModel.from_pretrained(model.float(), folder)
    with tempfile.TemporaryDirectory() as again:
        wrapped.save_pretrained(again)
        same = (pathlib.Path(again) / WEIGHTS).read_bytes() == (folder / WEIGHTS).read_bytes()
    wrapped = wrapped.double().eval()
    for layer in wrapped.modules():
        if isinstance(layer, AdamssLayer):  # it keeps the type it was made with
            layer.dtype = torch.float64
    extra = {"task_ids": torch.tensor([1, 0])} if "POLY" in str(wrapped.active_peft_config.peft_type) or "MULTITASK" in str(wrapped.active_peft_config.peft_type) else {}
    with torch.no_grad(), precisely():
        out = wrapped(**batch, **extra).logits
    answer = out[:, -batch["input_ids"].shape[1] :] if out.dim() == 3 and "roberta" not in title else out
    return result(answer) | {"again": same}


def read(folder: pathlib.Path) -> None:
    """What the library answers with each adapter in a folder, or what it says when it cannot."""
    answers = {}
    for path in sorted(p for p in folder.iterdir() if p.is_dir()):
        try:
            answers[path.name] = logits(path.name, path)
        except Exception as e:
            answers[path.name] = {"error": f"{type(e).__name__}: {e}"}
    (folder / "logits.json").write_text(json.dumps({"about": {**ABOUT, "script": "test/oracle/hf_files.py"}, "logits": answers}, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    if sys.argv[1] == "write":
        for title in sys.argv[2:] or CASES:
            shutil.rmtree(FILES / title, ignore_errors=True)
            write_case(title)
        read(FILES)
        bad = {t: a["error"] for t, a in json.loads((FILES / "logits.json").read_text())["logits"].items() if "error" in a}
        if bad:
            sys.exit(f"the library cannot read its own files: {bad}")
    else:
        read(pathlib.Path(sys.argv[2]))
