"""Reads {folder, ids, mask, types} from stdin, one JSON object a line, and answers with the logits that transformers computes from it.

Started by test/oracle/merged.ts, which needs a Python with torch and transformers (TINYPEFT_PYTHON, or python3).
"""

import json
import sys
import warnings

import torch
import transformers
from transformers import AutoConfig

warnings.filterwarnings("ignore")
transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
print(json.dumps({"torch": torch.__version__, "transformers": transformers.__version__}), flush=True)
for line in sys.stdin:
    ask = json.loads(line)
    # the class that config.json names: nothing is newly initialised, nothing is left over
    kind = getattr(transformers, AutoConfig.from_pretrained(ask["folder"]).architectures[0])
    model, info = kind.from_pretrained(ask["folder"], dtype=torch.float32, output_loading_info=True)
    strays = {k: sorted(v) for k, v in info.items() if k in ("missing_keys", "unexpected_keys", "mismatched_keys") and v}
    types = {} if ask["types"] is None else {"token_type_ids": torch.tensor(ask["types"])}
    with torch.no_grad():
        out = model.eval().double()(input_ids=torch.tensor(ask["ids"]), attention_mask=torch.tensor(ask["mask"]), **types)
    y = out.logits if "logits" in out else out.last_hidden_state
    parameters = sum(p.numel() for p in model.parameters())
    print(json.dumps({"kind": kind.__name__, "strays": strays, "parameters": parameters, "shape": list(y.shape), "data": y.reshape(-1).tolist()}), flush=True)
