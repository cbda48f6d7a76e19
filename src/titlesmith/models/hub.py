"""Models of the transformers library: ``hf:scratch``, and ``hf:NAME[@REVISION]`` or ``hf:PATH``.

A folder is searched in the project and below ``models/``. Any other name is a repository of the Hugging Face hub and
comes from its cache or its network; ``HF_HOME``, ``HF_ENDPOINT``, ``HF_TOKEN`` and ``HF_HUB_OFFLINE`` apply.
"""

import json
import math
import re
from importlib.util import find_spec
from pathlib import Path

from huggingface_hub import errors, snapshot_download, try_to_load_from_cache
from huggingface_hub.constants import HF_HUB_CACHE

from titlesmith.errors import FetchError, RequestError, TitlesmithError
from titlesmith.runs import digest, root

PREFIX, CONFIG, ADAPTER = "hf:", "config.json", "adapter_config.json"
ADAPTER_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
PACKAGES = ("torch", "transformers", "peft", "safetensors")
SMALL_FILES = ("*.json", "*.txt", "*.model", "*.jinja")  # configuration and vocabulary
# A LLaMA of 4 layers of width 256 (`titlesmith.train.architectures.scratch`): 5.2 million parameters with 8,192 tokens
SCRATCH = {"n_ctx": 512, "n_embd": 256, "n_head": 4, "n_layer": 4}
# The names that architectures use in config.json
CONFIG_KEYS = {
    "n_vocab": ("vocab_size",),
    "n_ctx": ("max_position_embeddings", "n_positions", "n_ctx", "max_sequence_length", "max_seq_len", "seq_length"),
    "n_embd": ("hidden_size", "n_embd", "d_model"),
    "n_head": ("num_attention_heads", "n_head", "n_heads"),
    "n_layer": ("num_hidden_layers", "n_layer", "n_layers"),
}


def is_hub(name: str) -> bool:
    """Whether a name is a model of the transformers library."""
    return name.startswith(PREFIX)


def check_installed() -> None:
    """Checks that the libraries are installed (RequestError)."""
    if missing := [package for package in PACKAGES if not find_spec(package)]:
        raise RequestError(f"model: hf: needs {', '.join(missing)}: pip install 'titlesmith[hf]'")


def _source(name: str) -> tuple[str, str | None]:
    """The repository or path of a name, and its revision."""
    source, _, revision = name.removeprefix(PREFIX).partition("@")
    return source, revision or None


def model_path(name: str) -> Path:
    """The folder of a model: an existing one, a snapshot in the hub's cache, or where files could be copied to."""
    source, revision = _source(name)
    for folder in (root() / Path(source).expanduser(), root() / "models" / source):
        if folder.is_dir():
            return folder
    try:
        cached = try_to_load_from_cache(source, CONFIG, revision=revision)
    except errors.HFValidationError:  # a path that does not exist
        cached = None
    return Path(cached).parent if isinstance(cached, str) else root() / "models" / source


def folder(name: str) -> Path:
    """The folder with all files of a model, downloaded from the hub if necessary.

    Raises
    ------
    RequestError
        The model does not exist, is incomplete, or its access is restricted; the message says what to do.
    FetchError
        The hub cannot be reached.
    """
    check_installed()
    path = model_path(name)
    if not path.exists() or (missing_files(path) and not path.is_relative_to(root())):
        path = _snapshot(name, [*SMALL_FILES, "*.safetensors"])
        if "weights" in missing_files(path):
            path = _snapshot(name, [*SMALL_FILES, "*.bin"])
    if missing := missing_files(path):
        raise RequestError(f"model: {path} lacks {', '.join(missing)}. {_remedy(name)}")
    return path


def missing_files(path: Path) -> list[str]:
    """The files that a folder lacks to be a model of the transformers library; empty if it is complete."""
    missing = [CONFIG] if not (path / CONFIG).is_file() else []
    if not any((path / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        missing.append("tokenizer.json")
    indices = [path / f"{kind}.index.json" for kind in ("model.safetensors", "pytorch_model.bin")]
    for index in filter(Path.is_file, indices):
        shards = set(json.loads(index.read_text("utf-8"))["weight_map"].values())
        return [*missing, *sorted(shard for shard in shards if not (path / shard).is_file())]
    if not any((path / name).is_file() for name in ("model.safetensors", "pytorch_model.bin")):
        missing.append("weights")
    return missing


def check_adapter(path: Path) -> None:
    """Checks that a folder has the files of an adapter in peft's layout (RequestError)."""
    exists = [(path / ADAPTER).is_file(), any((path / name).is_file() for name in ADAPTER_WEIGHTS)]
    if not all(exists):
        absent = [n for n, there in zip((ADAPTER, " or ".join(ADAPTER_WEIGHTS)), exists, strict=True) if not there]
        raise RequestError(f"adapter: {path} is not an adapter saved by peft: it lacks {' and '.join(absent)}")


def base_of(adapter: Path) -> str:
    """The model that an adapter's configuration names (RequestError if it names none)."""
    path = adapter / ADAPTER
    try:
        name = json.loads(path.read_text("utf-8"))["base_model_name_or_path"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RequestError(f"adapter: {path} names no base model ({error!r}): set it, as hf:NAME") from None
    if not name:
        raise RequestError(f"adapter: {path} names no base model: set it, as hf:NAME")
    return PREFIX + str(name)


def _snapshot(name: str, patterns: list[str]) -> Path:
    """Downloads a repository's files that match the patterns, and verifies the SHA-256 of its large files."""
    source, revision = _source(name)
    try:
        path = Path(snapshot_download(source, revision=revision, allow_patterns=patterns))
        for file in path.iterdir():
            blob = file.resolve()  # the cache names a large file by its SHA-256
            if re.fullmatch("[0-9a-f]{64}", blob.name) and digest(blob) != blob.name:
                blob.unlink()
                file.unlink(missing_ok=True)
                raise FetchError(
                    f"model: {source}/{file.name}: its SHA-256 is not {blob.name}. The file was removed; the same "
                    "command downloads it again"
                )
        return path
    except FetchError:
        raise
    except Exception as error:  # the hub's client lets many kinds through: its own, httpx's, the disk's
        raise hub_error(name, error) from None


def hub_error(name: str, error: Exception) -> TitlesmithError:
    """An error of the hub's client as one that says what happened and what to do."""
    source, revision = _source(name)
    if isinstance(error, errors.GatedRepoError):
        return RequestError(f"model: {name} is gated: accept its terms on its page on the hub, and set HF_TOKEN")
    if isinstance(error, errors.RevisionNotFoundError):
        return RequestError(f"model: {source} has no revision {revision!r}")
    if isinstance(error, errors.RepositoryNotFoundError | errors.HFValidationError):
        return RequestError(f"model: there is no model {source} here or on the hub. {_remedy(name)}")
    if isinstance(error, OSError) and error.errno is not None and not isinstance(error, ConnectionError):
        return FetchError(f"model: {name} was not stored: {error}. Complete files are kept; repeat the command")
    reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return FetchError(f"model: {name} does not exist here, and the hub cannot be reached ({reason}). {_remedy(name)}")


def _remedy(name: str) -> str:
    source, _ = _source(name)
    return (
        f"Copy its files to {root() / 'models' / source}: {CONFIG}, tokenizer.json, tokenizer_config.json and "
        f"model.safetensors (or its shards with their index), or run `hf download {source}` where there is a network "
        f"and copy its cache (HF_HOME)"
    )


def config(name: str) -> dict:
    """The content of a model's config.json, which is downloaded if necessary."""
    path = model_path(name) / CONFIG
    if not path.is_file():
        if path.parent.exists() and path.is_relative_to(root()):
            raise RequestError(f"model: {path.parent} lacks {CONFIG}. {_remedy(name)}")
        check_installed()
        path = _snapshot(name, [*SMALL_FILES]) / CONFIG
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise RequestError(f"{path} is damaged: {error}") from None
    return found | found.get("text_config", {})


def hyperparameters(name: str, vocabulary: int) -> dict:
    """See `titlesmith.models.hyperparameters`; ``parameters`` and ``itemsize`` too where the weights are here."""
    if name == PREFIX + "scratch":
        return SCRATCH | {"n_vocab": vocabulary}
    found = config(name)
    result = {key: next((found[k] for k in names if found.get(k)), None) for key, names in CONFIG_KEYS.items()}
    result["n_ctx"] = result["n_ctx"] or 2048  # for models without a maximum, such as BLOOM
    if stored := num_parameters(model_path(name)):
        dtype = str(found.get("dtype") or found.get("torch_dtype"))
        result |= {"parameters": stored, "itemsize": 2 if "16" in dtype else 4}
    if missing := [CONFIG_KEYS[key][0] for key, value in result.items() if value is None]:
        raise RequestError(f"model: {model_path(name) / CONFIG} is not of a causal language model: no {missing[0]}")
    return result


def num_parameters(path: Path) -> int | None:
    """The number of parameters in a folder's safetensors files; None without any."""
    total = 0
    for file in path.glob("*.safetensors"):
        with file.open("rb") as opened:
            header = json.loads(opened.read(int.from_bytes(opened.read(8), "little")))
        total += sum(math.prod(entry["shape"]) for key, entry in header.items() if key != "__metadata__")
    return total or None


def names() -> list[str]:
    """``hf:scratch``, the models of folders below ``models/``, and the causal models in the hub's cache."""
    below = root() / "models"
    own = [p.parent for pattern in ("*", "*/*") for p in sorted(below.glob(f"{pattern}/{CONFIG}"))]
    found = [f"{PREFIX}{path.relative_to(below)}" for path in own]
    for path in sorted(Path(HF_HUB_CACHE).glob(f"models--*/snapshots/*/{CONFIG}")):
        kinds = json.loads(path.read_text("utf-8")).get("architectures") or []
        if any(kind.endswith(("ForCausalLM", "LMHeadModel")) for kind in kinds):
            found.append(PREFIX + path.parents[2].name.removeprefix("models--").replace("--", "/"))
    return [PREFIX + "scratch", *dict.fromkeys(found)]
