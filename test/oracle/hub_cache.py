"""Reads {repo, files, offline} from stdin, one JSON object a line, and answers with the paths that huggingface_hub gives (null: no such file).

Started by test/oracle/hubCache.long.test.ts with HF_ENDPOINT and HF_HUB_CACHE in the environment.
"""

import json
import sys

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

for line in sys.stdin:
    ask = json.loads(line)
    paths = {}
    for name in ask["files"]:
        try:
            paths[name] = hf_hub_download(ask["repo"], name, local_files_only=ask["offline"])
        except LocalEntryNotFoundError as e:
            paths[name] = f"not found locally: {type(e.__cause__).__name__}"
        except EntryNotFoundError:
            paths[name] = None
    print(json.dumps(paths), flush=True)
