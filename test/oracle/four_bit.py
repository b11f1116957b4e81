"""Reads {folder, again, ids, mask, types} from stdin, one JSON object a line: opens the folder with transformers and bitsandbytes, answers with logits, and writes
the tensors it holds then to the file `again`.

Started by test/oracle/fourBit.long.test.ts, which needs a Python with torch, transformers, accelerate and bitsandbytes (TINYPEFT_PYTHON, or python3).
"""

import json
import sys
import warnings

import bitsandbytes
import torch
import transformers
from safetensors.torch import save_file
from transformers import AutoConfig

warnings.filterwarnings("ignore")
transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()


def unpacked(m: bitsandbytes.nn.Linear4bit) -> torch.Tensor:
    """The weight by the format, in double precision: runs of `blocksize` numbers share a scale, whatever the rows."""
    q, s = m.weight.data.reshape(-1), m.weight.quant_state
    codes = torch.stack([q >> 4, q & 15], 1).reshape(-1).long()
    scales = s.absmax.double()
    if s.nested:
        inner = s.state2
        scales = inner.code.double()[s.absmax.long()] * inner.absmax.double().repeat_interleave(inner.blocksize)[: s.absmax.numel()] + s.offset.double()
    return (s.code.double()[codes] * scales.repeat_interleave(s.blocksize))[: s.shape.numel()].reshape(s.shape)


def answer(model: torch.nn.Module, ask: dict) -> list:
    types = {} if ask["types"] is None else {"token_type_ids": torch.tensor(ask["types"])}
    with torch.no_grad():
        out = model(input_ids=torch.tensor(ask["ids"]), attention_mask=torch.tensor(ask["mask"]), **types)
    y = out.logits if "logits" in out else out.last_hidden_state
    return {"shape": list(y.shape), "data": y.double().reshape(-1).tolist()}


print(json.dumps({"torch": torch.__version__, "transformers": transformers.__version__, "bitsandbytes": bitsandbytes.__version__}), flush=True)
for line in sys.stdin:
    ask = json.loads(line)
    kind = getattr(transformers, AutoConfig.from_pretrained(ask["folder"]).architectures[0])
    model, info = kind.from_pretrained(ask["folder"], dtype=torch.float32, device_map="cpu", output_loading_info=True)
    model.eval()
    strays = {k: sorted(v) for k, v in info.items() if k in ("missing_keys", "unexpected_keys", "mismatched_keys") and v}
    packed = {name: m for name, m in model.named_modules() if isinstance(m, bitsandbytes.nn.Linear4bit)}
    # save_pretrained of a model opened in four bits fails in transformers 5.24 (Bnb4bitDeserialize has no way back): its own tensors, as bitsandbytes names them
    once = {k: v.contiguous() for k, v in model.state_dict().items() if k != "lm_head.weight" or not model.config.tie_word_embeddings}
    save_file(once, ask["again"], metadata={"format": "pt"})
    # the same network in double precision, its weights by the format
    config = AutoConfig.from_pretrained(ask["folder"])
    del config.quantization_config
    plain = kind(config).double().eval()
    state = {k: v for k, v in model.state_dict().items() if k in plain.state_dict() and k.rsplit(".", 1)[0] not in packed}
    for name, m in packed.items():
        w = unpacked(m)
        turned = isinstance(plain.get_submodule(name), transformers.pytorch_utils.Conv1D)
        state[name + ".weight"] = w.T if turned else w
        if m.bias is not None:
            state[name + ".bias"] = m.bias
    for m in packed.values():
        m.train()  # for these layers alone: else some processors take a path of bfloat16, which lays the codes out anew in place
    own = answer(model, ask)  # with the package's own kernels
    lost = plain.load_state_dict(state, strict=False)
    plain.tie_weights()
    print(
        json.dumps({
            "kind": kind.__name__,
            "strays": strays,
            "lost": [k for k in lost.missing_keys if k != "lm_head.weight" or not config.tie_word_embeddings],
            "fourBits": bool(getattr(model, "is_loaded_in_4bit", False)),
            "packed": sorted(packed),
            "types": sorted({m.weight.quant_state.quant_type for m in packed.values()}),
            "nested": sorted({m.weight.quant_state.nested for m in packed.values()}),
            "own": own,
            "format": answer(plain, ask),
        }),
        flush=True,
    )
