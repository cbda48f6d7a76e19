"""Models of the transformers library: ``smollm2``, ``hf:scratch``, and ``hf:NAME[@REVISION]`` or ``hf:PATH``.

A path, of a folder or a GGUF file, is searched in the project and below ``models/``. Any other name is a repository of
the Hugging Face hub and comes from its cache or its network; ``HF_HOME``, ``HF_ENDPOINT``, ``HF_TOKEN`` and
``HF_HUB_OFFLINE`` apply.
"""

import json
import math
import os
import re
from importlib.util import find_spec
from pathlib import Path
from pickle import UnpicklingError

from huggingface_hub import errors, snapshot_download, try_to_load_from_cache
from huggingface_hub.constants import HF_HUB_CACHE
from safetensors import safe_open

from titlesmith.errors import FetchError, RequestError
from titlesmith.hints import install_command
from titlesmith.models import gguf
from titlesmith.runs import digest, root

PREFIX, CONFIG, ADAPTER = "hf:", "config.json", "adapter_config.json"
WRONG_NAME = (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.HFValidationError)  # gated too
PACKAGES = ("torch", "transformers", "peft", "safetensors")
SMALL_FILES = ["*.json", "*.txt", "*.model", "*.jinja"]  # configuration and vocabulary
# A LLaMA of 4 layers of width 256 (`titlesmith.train.architectures.scratch`): 5.2 million parameters with 8,192 tokens
SCRATCH = {"n_ctx": 512, "n_embd": 256, "n_head": 4, "n_layer": 4}
# The names that transformers has for the hyperparameters of all architectures
CONFIG_KEYS = {
    "n_vocab": "vocab_size",
    "n_embd": "hidden_size",
    "n_head": "num_attention_heads",
    "n_layer": "num_hidden_layers",
}


def is_hub(name: str) -> bool:
    """Whether a name is a model of the transformers library."""
    return name.startswith(PREFIX) or name == gguf.SMOLLM2


def check_installed() -> None:
    """Checks that the libraries are installed (RequestError)."""
    if missing := [package for package in PACKAGES if not find_spec(package)]:
        raise RequestError(f"model: smollm2 and hf: need {', '.join(missing)}: {install_command('hf')}")


def split_name(name: str) -> tuple[str, str | None]:
    """The repository or path of a name, and its revision."""
    source, _, revision = name.removeprefix(PREFIX).partition("@")
    return source, revision or None


def _find_local(name: str) -> Path | None:
    """The folder of a name in the project or below ``models/``; that of a GGUF file is its conversion."""
    source = name.removeprefix(PREFIX)
    paths = [root() / os.path.expanduser(source)] if name.startswith(PREFIX) else []  # noqa: PTH111 (never raises)
    for path in (*paths, root() / "models" / source):
        if path.is_dir() or (path.suffix == ".gguf" and path.is_file()):
            file = gguf.find(path)
            return gguf.converted(file) if file else path
    return None


def model_path(name: str) -> Path:
    """The folder of a model: an existing one, a snapshot in the hub's cache, or where files could be copied to."""
    if path := _find_local(name):
        return path
    source, revision = split_name(name)
    try:
        cached = try_to_load_from_cache(source, CONFIG, revision=revision)
    except errors.HFValidationError:  # a path that does not exist
        cached = None
    return Path(cached).parent if isinstance(cached, str) else root() / "models" / name.removeprefix(PREFIX)


def folder(name: str) -> Path:
    """The folder with all files of a model, downloaded if necessary; raises as `download` does."""
    check_installed()
    path = model_path(name)
    if missing_files(path) and name.startswith(PREFIX) and not _find_local(name):
        path = download(name, [*SMALL_FILES, "*.safetensors"], _remedy(name))
        if not any(path.glob("*.safetensors")):
            path = download(name, [*SMALL_FILES, "*.bin"], _remedy(name))
    if missing := missing_files(path):
        raise RequestError(f"model: {path} lacks {', '.join(missing)}. {_remedy(name)}")
    return path


def missing_files(path: Path) -> list[str]:
    """The files that a folder lacks to be a model of the transformers library; empty if it is complete."""
    missing = [] if (path / CONFIG).is_file() else [CONFIG]
    if not any((path / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        missing.append("tokenizer.json")
    for weights in (path / "model.safetensors", path / "pytorch_model.bin"):
        index = weights.with_name(f"{weights.name}.index.json")
        if index.is_file():
            shards = set(json.loads(index.read_text("utf-8"))["weight_map"].values())
            return [*missing, *sorted(shard for shard in shards if not (path / shard).is_file())]
        if weights.is_file():
            return missing
    return [*missing, "weights"]


def adapter_base(adapter: Path, base: str = "") -> str:
    """The model of an adapter saved by peft: ``base``, or the one that its configuration names (RequestError)."""
    path = adapter / ADAPTER
    try:
        named = json.loads(path.read_text("utf-8")).get("base_model_name_or_path")
    except (OSError, ValueError, AttributeError) as error:
        raise RequestError(f"adapter: {adapter} is not an adapter saved by peft: {error}") from None
    if not any(adapter.glob("adapter_model.*")):
        raise RequestError(f"adapter: {adapter} lacks adapter_model.safetensors or adapter_model.bin")
    if not base and not named:
        raise RequestError(f"adapter: {path} has no base_model_name_or_path: set --base hf:NAME")
    return base or (named if named == gguf.SMOLLM2 else f"{PREFIX}{named}")


def download(name: str, patterns: list[str], remedy: str, sha256: str = "", **where: object) -> Path:
    """Downloads the files of a repository that match the patterns, and returns their folder.

    Large files are compared with the SHA-256 that the hub states, weights with ``sha256``. ``where`` is for
    `huggingface_hub.snapshot_download`. RequestError if the model does not exist, or its access is restricted.
    FetchError, which ends with ``remedy``, if the hub cannot be reached, or a file is damaged; complete files are kept.
    """
    source, revision = split_name(name)
    if source.startswith(("/", "~", ".")):
        raise RequestError(f"model: {source} is neither a folder nor a .gguf file")
    try:
        path = Path(snapshot_download(source, revision=revision, allow_patterns=patterns, **where))
    except Exception as error:  # the hub's client raises many kinds: its own, httpx's, the disk's
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        if isinstance(error, errors.GatedRepoError):
            remedy = "It is gated: accept its terms on its page on the hub, and set HF_TOKEN"
        kind = RequestError if isinstance(error, WRONG_NAME) else FetchError
        raise kind(f"model: {name} does not exist here, and cannot be downloaded ({reason}). {remedy}") from None
    for file in path.iterdir():
        blob = file.resolve()  # the cache names a large file by its SHA-256
        stated = blob.name if re.fullmatch("[0-9a-f]{64}", blob.name) else ""
        expected = sha256 if sha256 and file.suffix == ".safetensors" else stated
        if expected and digest(blob) != expected:
            blob.unlink()
            file.unlink(missing_ok=True)
            raise FetchError(
                f"model: {source}/{file.name}: its SHA-256 is not {expected}. The file was removed; the same command "
                "downloads it again"
            )
    return path


def _remedy(name: str) -> str:
    if name == gguf.SMOLLM2:
        return gguf.download_remedy(name)
    path = root() / "models" / name.removeprefix(PREFIX)
    return f"Copy its files to {path}: {CONFIG}, tokenizer.json, tokenizer_config.json and model.safetensors"


def hyperparameters(name: str, vocabulary: int) -> dict:
    """See `titlesmith.models.hyperparameters`; ``parameters`` and ``itemsize`` too where the weights are here."""
    if name == PREFIX + "scratch":
        return SCRATCH | {"n_vocab": vocabulary}
    if name == gguf.SMOLLM2:
        return gguf.SHAPE
    check_installed()
    path = model_path(name)
    if not (path / CONFIG).is_file() and not _find_local(name):
        path = download(name, SMALL_FILES, _remedy(name))
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=False)
        text = config.get_text_config()
        result = {key: getattr(text, attribute) for key, attribute in CONFIG_KEYS.items()}
    except Exception as error:  # transformers raises many kinds for damaged files
        raise RequestError(f"model: {path / CONFIG} cannot be read: {explain(error)}") from None
    # Models without a maximum, such as BLOOM
    result["n_ctx"] = getattr(text, "max_position_embeddings", None) or 2048
    if stored := num_parameters(path):
        result |= {"parameters": stored, "itemsize": 2 if "16" in str(config.dtype) else 4}
    return result


def explain(error: Exception) -> str:
    """What is wrong with a model's files, without the advice to run their code, which titlesmith never does."""
    reason = " ".join(str(error).split())
    if "trust_remote_code" in reason:
        return "it needs Python code from its repository, which titlesmith does not run: choose another model"
    if isinstance(error, UnpicklingError) or "weights_only" in reason:
        return "it is damaged, or holds objects other than tensors, which could run code when they are read"
    return f"{type(error).__name__}: {reason[:300]}"


def num_parameters(path: Path) -> int | None:
    """The number of parameters in a folder's safetensors files; None without any."""
    total = 0
    for file in path.glob("*.safetensors"):
        with safe_open(file, "numpy") as opened:
            total += sum(math.prod(opened.get_slice(key).get_shape()) for key in opened.keys())  # noqa: SIM118
    return total or None


def names() -> list[str]:
    """``hf:scratch``, the models of folders below ``models/``, and the causal models in the hub's cache."""
    below = root() / "models"
    own = [p.parent for pattern in ("*", "*/*") for p in sorted(below.glob(f"{pattern}/{CONFIG}"))]
    result = [f"{PREFIX}{path.relative_to(below)}" for path in own if path != below / gguf.SMOLLM2]
    for path in sorted(Path(HF_HUB_CACHE).glob(f"models--*/snapshots/*/{CONFIG}")):
        kinds = json.loads(path.read_text("utf-8")).get("architectures") or []
        if any(kind.endswith(("ForCausalLM", "LMHeadModel")) for kind in kinds):
            result.append(PREFIX + path.parents[2].name.removeprefix("models--").replace("--", "/"))
    return [PREFIX + "scratch", *dict.fromkeys(result)]
