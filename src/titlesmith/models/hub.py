"""Models of the transformers library: ``hf:scratch``, and ``hf:NAME-OR-PATH``, a folder or a name of the hub.

A folder is looked for in the project and below ``models/``; what is none is a name of Hugging Face's hub, and comes
from its cache or its network (``HF_HOME``, ``HF_HUB_OFFLINE`` and the library's other variables apply).
"""

import json
import math
import shutil
from importlib.util import find_spec
from pathlib import Path

from titlesmith.errors import RequestError
from titlesmith.runs.record import root

PREFIX, CONFIG, ADAPTER = "hf:", "config.json", "adapter_config.json"
ADAPTED = ("adapter_model.safetensors", "adapter_model.bin")  # the weights of an adapter, in the new form or the old
NEEDED = ("torch", "transformers", "peft", "safetensors")
TEXTS = ("*.json", "*.txt", "*.model", "*.jinja")  # all that is small: settings and vocabulary
# A LLaMA (`engines.architectures.scratch`) of 4 layers of width 256: 5.2 million parameters with 8,192 tokens
SCRATCH = {"n_ctx": 512, "n_embd": 256, "n_head": 4, "n_layer": 4}
# What architectures call the same thing in config.json
KEYS = {
    "n_vocab": ("vocab_size",),
    "n_ctx": ("max_position_embeddings", "n_positions", "n_ctx", "max_sequence_length", "max_seq_len", "seq_length"),
    "n_embd": ("hidden_size", "n_embd", "d_model"),
    "n_head": ("num_attention_heads", "n_head", "n_heads"),
    "n_layer": ("num_hidden_layers", "n_layer", "n_layers"),
}


def is_hub(name: str) -> bool:
    """Whether a name is one of the transformers library's models."""
    return name.startswith(PREFIX)


def check_installed() -> None:
    """Checks that the libraries are here (RequestError)."""
    if missing := [package for package in NEEDED if not find_spec(package)]:
        raise RequestError(f"model: hf: needs {', '.join(missing)}: pip install 'titlesmith[hf]'")


def check(settings: dict) -> None:
    """Checks what the parameters of the fine-tune stage must fulfil that some models alone have (RequestError)."""
    model, rank, quantize = settings["model"], settings["lora_rank"], settings["quantize"]
    if not is_hub(model):
        for key, off in (("lora_rank", 0), ("quantize", "none")):
            if settings[key] != off:
                raise RequestError(
                    f"finetune.{key}: model {model} trains whole; it is for models hf:NAME. Set it to {off}"
                )
        return
    check_installed()
    if settings["vocabulary"] == "corpus":
        raise RequestError(f"finetune.vocabulary: {model} has a softmax over all tokens alone; set it to auto or full")
    if rank and model == PREFIX + "scratch":
        raise RequestError("finetune.lora_rank: adapters need a model that has learned something; set it to 0")
    if quantize != "none":
        if not rank:
            raise RequestError(
                f"finetune.quantize: weights in {quantize} cannot train; set finetune.lora_rank, to 8 say"
            )
        check_quantize(quantize)


def check_quantize(quantize: str) -> None:
    """Checks that weights can be held in 8 or 4 bits here (RequestError)."""
    if quantize != "none" and not (find_spec("bitsandbytes") and shutil.which("nvidia-smi")):
        lacking = (
            "a GPU of NVIDIA" if find_spec("bitsandbytes") else "bitsandbytes (pip install bitsandbytes) and a GPU"
        )
        raise RequestError(f"finetune.quantize: {quantize} needs {lacking}, which is not here; set it to none")


def place(name: str) -> Path:
    """The folder that a name means: one that is here, or a snapshot in the cache, or where one could be put."""
    source = name.removeprefix(PREFIX)
    for folder in (root() / source, root() / "models" / source):
        if folder.is_dir():
            return folder
    if find_spec("huggingface_hub"):
        from huggingface_hub import try_to_load_from_cache
        from huggingface_hub.errors import HFValidationError

        try:
            found = try_to_load_from_cache(source, CONFIG)
        except HFValidationError:  # a path that is not there
            found = None
        if isinstance(found, str):
            return Path(found).parent
    return root() / "models" / source


def folder(name: str) -> Path:
    """Where a model's files lie, all of them; fetches one of the hub that is not here.

    Raises
    ------
    RequestError
        It is neither here nor can it be fetched; the message says what to put where.
    """
    check_installed()
    path = place(name)
    if not path.exists() or (lacking(path) and not path.is_relative_to(root())):
        path = _snapshot(name, [*TEXTS, "*.safetensors"])
        if "weights" in lacking(path):
            path = _snapshot(name, [*TEXTS, "*.bin"])
    if missing := lacking(path):
        raise RequestError(f"model: {path} lacks {', '.join(missing)}. {_remedy(name)}")
    return path


def lacking(path: Path) -> list[str]:
    """What a folder lacks to be a model of the transformers library; empty where it is whole."""
    found = [CONFIG] if not (path / CONFIG).is_file() else []
    if not any((path / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        found.append("tokenizer.json")
    indices = [path / f"{kind}.index.json" for kind in ("model.safetensors", "pytorch_model.bin")]
    for index in filter(Path.is_file, indices):
        shards = set(json.loads(index.read_text("utf-8"))["weight_map"].values())
        return [*found, *sorted(shard for shard in shards if not (path / shard).is_file())]
    if not any((path / name).is_file() for name in ("model.safetensors", "pytorch_model.bin")):
        found.append("weights")
    return found


def check_adapter(path: Path) -> None:
    """Checks that a folder has the files of an adapter in peft's layout (RequestError)."""
    has = [(path / ADAPTER).is_file(), any((path / name).is_file() for name in ADAPTED)]
    if not all(has):
        absent = [name for name, there in zip((ADAPTER, " or ".join(ADAPTED)), has, strict=True) if not there]
        raise RequestError(f"adapter: {path} is no adapter as peft saves it: it lacks {' and '.join(absent)}")


def base_of(adapter: Path) -> str:
    """The model that an adapter's settings name (RequestError where they name none)."""
    path = adapter / ADAPTER
    try:
        name = json.loads(path.read_text("utf-8"))["base_model_name_or_path"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RequestError(f"adapter: {path} names no model ({error!r}): give the model too, as hf:NAME") from None
    if not name:
        raise RequestError(f"adapter: {path} names no model: give the model too, as hf:NAME")
    return PREFIX + str(name)


def _snapshot(name: str, patterns: list[str]) -> Path:
    from huggingface_hub import snapshot_download

    source = name.removeprefix(PREFIX)
    # Whatever stands between here and the hub: no network, no such model, one that asks for a login, no name at all
    try:
        return Path(snapshot_download(source, allow_patterns=patterns))
    except Exception as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split(chr(10))[0].split())}"
        raise RequestError(
            f"model: {name} is not here, and the hub did not give it ({reason}). {_remedy(name)}"
        ) from None


def _remedy(name: str) -> str:
    source = name.removeprefix(PREFIX)
    return (
        f"Put its files into {root() / 'models' / source}: {CONFIG}, tokenizer.json, tokenizer_config.json and "
        f"model.safetensors (or its shards with their index), or run `hf download {source}` where there is a network "
        f"and copy the cache (HF_HOME)"
    )


def config(name: str) -> dict:
    """The content of a model's config.json, which alone is fetched where the model is not here."""
    path = place(name) / CONFIG
    if not path.is_file():
        if place(name).exists() and place(name).is_relative_to(root()):
            raise RequestError(f"model: {path.parent} lacks {CONFIG}. {_remedy(name)}")
        check_installed()
        path = _snapshot(name, [*TEXTS]) / CONFIG
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise RequestError(f"{path} is damaged: {error}") from None
    return found | found.get("text_config", {})


def hyperparameters(name: str, vocabulary: int) -> dict:
    """See `titlesmith.models.hyperparameters`."""
    if name == PREFIX + "scratch":
        return SCRATCH | {"n_vocab": vocabulary}
    found = config(name)
    result = {key: next((found[k] for k in names if found.get(k)), None) for key, names in KEYS.items()}
    result["n_ctx"] = result["n_ctx"] or 2048  # of models whose positions have no end, such as BLOOM's
    if stored := parameters(place(name)):
        kind = str(found.get("dtype") or found.get("torch_dtype"))
        result |= {"parameters": stored, "itemsize": 2 if "16" in kind else 4}
    if missing := [KEYS[key][0] for key, value in result.items() if value is None]:
        raise RequestError(f"model: {place(name) / CONFIG} is of no causal language model: it has no {missing[0]}")
    return result


def parameters(path: Path) -> int | None:
    """How many numbers the safetensors files of a folder hold; None where it has none."""
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
    if find_spec("huggingface_hub"):
        from huggingface_hub.constants import HF_HUB_CACHE

        for path in sorted(Path(HF_HUB_CACHE).glob(f"models--*/snapshots/*/{CONFIG}")):
            kinds = json.loads(path.read_text("utf-8")).get("architectures") or []
            if any(kind.endswith(("ForCausalLM", "LMHeadModel")) for kind in kinds):
                found.append(PREFIX + path.parents[2].name.removeprefix("models--").replace("--", "/"))
    return [PREFIX + "scratch", *dict.fromkeys(found)]
