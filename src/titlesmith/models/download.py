"""Downloads of the catalogue's models into ``models/<name>/``."""

import os
import shutil
from pathlib import Path

from filelock import FileLock

from titlesmith.models import gguf, gpt2_checkpoint, hub
from titlesmith.models.catalogue import GPT2, PUBLISHED, RANDOM, folder, model_path
from titlesmith.runs import swapping

ENDPOINT_VARIABLE = "TITLESMITH_MODELS"  # address of a mirror of the hub, for GPT-2 alone
REVISIONS = {  # pinned commits of the hub's repositories
    "82M": "2290a62682d06624634c1f46a6ad5be0f47f38aa",
    "124M": "607a30d783dfa663caf39e06633721c8d4cfcd7e",
    "355M": "6dcaa7a952f72f9298047fd5137cd6e4f05f41da",
    "774M": "32b71b12589c2f8d625668d2335a01cac3249519",
    "1558M": "15ea56dee5df4983c59b2538573817e1667135e2",
}
WEIGHTS_SHA256 = {
    "82M": "e1ff18884359fe8beb795a5f414feb85a6ce3d929ad019c0d958c039d2b94a1b",
    "124M": "248dfc3911869ec493c76e65bf2fcf7f615828b0254c12b473182f0f81d3a707",
    "1558M": "0f8b28eb05a8075f48b61b6f35332978c74fc7763fa9fb4051a1c30511736a6a",
}


def fetch(name: str) -> Path | None:
    """The folder of a model, downloaded if it is missing; None for a model with random weights.

    RequestError if there is no such model, or its folder is incomplete. FetchError if a server cannot be reached, or a
    file is damaged; complete files are kept for the next attempt.
    """
    if name in ("", *RANDOM):
        return None
    if name in PUBLISHED:
        path = model_path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f".{name}.lock")):  # a second process waits, and then finds the model
            if not path.is_dir():
                _download(name, path)
    return folder(name)


def _download(name: str, path: Path) -> None:
    """Downloads a model and converts it."""
    downloads = path.with_name(f".{name}.download")  # kept after an interruption, so that the client resumes
    if name == gguf.SMOLLM2:
        hub.check_installed()
        source = gguf.download_smollm2(downloads)
        with swapping(path) as new:
            gguf.convert(source, new)
    else:
        endpoint, repository = os.environ.get(ENDPOINT_VARIABLE) or None, PUBLISHED[name][0]
        print(f"downloading {name} from {endpoint or 'the Hugging Face hub'}: {repository}")
        source = hub.download(
            f"{hub.PREFIX}{repository}@{REVISIONS[name]}",
            [*gpt2_checkpoint.FILES],
            f"`{ENDPOINT_VARIABLE}` or `HF_ENDPOINT` set a mirror",
            WEIGHTS_SHA256.get(name, ""),
            cache_dir=downloads,
            endpoint=endpoint,
        )
        with swapping(path) as new:
            gpt2_checkpoint.convert(source, new, GPT2[name])
    shutil.rmtree(downloads)
