"""Exports: a run's model in the form of other programs, beside what it was made of."""

import json
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from titlesmith.corpus import Corpus
from titlesmith.corpus.pretrained import save_alone
from titlesmith.errors import RequestError, RunError
from titlesmith.export import card
from titlesmith.generate.backend import CTRANSLATE2
from titlesmith.models import gpt2_checkpoint, hub
from titlesmith.runs import Run, swapping, write_json
from titlesmith.settings import declared

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedModel

CHECKED = 100  # documents that the exported tokenizer is tried on
MADE_OF = "titlesmith.json"  # in an export: digests of the model's files


def ctranslate2(run: Run, folder: Path) -> None:
    """CTranslate2's form in eight-bit integers, for generating on processors."""
    if not (run / "model" / "checkpoint").exists():
        raise RequestError(f"{run / 'model'} is no GPT-2 of TensorFlow's engine, the only one exported to ctranslate2")
    shutil.copytree(run / CTRANSLATE2, folder)


def hf(run: Run, folder: Path) -> None:
    """The form of the transformers library, in which models are published: weights, tokenizer, settings, model card."""
    if missing := [package for package in hub.PACKAGES if not find_spec(package)]:
        raise RequestError(f"export to hf needs {', '.join(missing)}: pip install 'titlesmith[hf]'")
    from transformers.utils import logging

    logging.disable_progress_bar()
    corpus, settings = Corpus(run), sampling(run)
    model = _standalone(run / "model")
    model.generation_config = _generation(settings, corpus, model.get_input_embeddings().num_embeddings)
    model.save_pretrained(folder)
    for weights in folder.glob("*.safetensors"):  # which safetensors writes for this user alone
        shutil.copymode(folder / "config.json", weights)
    save_alone(corpus.layout, corpus.info["context"], folder)
    _check_ids(corpus, folder)
    if (adapter := run / "model" / hub.ADAPTER).exists():
        (folder / "adapter").mkdir()
        told = json.loads(adapter.read_text("utf-8"))
        base = card.base(run.record("finetune")["settings"]["model"])
        write_json(folder / "adapter" / adapter.name, told | {"base_model_name_or_path": base})
        weights = "adapter_model.safetensors"
        shutil.copyfile(run / "model" / weights, folder / "adapter" / weights)
    (folder / "README.md").write_text(
        card.card(run, corpus, settings, str(model.dtype).removeprefix("torch.")), "utf-8"
    )


def sampling(run: Run) -> dict:
    """The parameters of notebook 04 that a run's texts were made with, or the defaults."""
    defaults = {name: parameter.default for name, parameter in declared("generate").items()}
    return defaults | run.record("generate").get("settings", {})


def _standalone(path: Path) -> "PreTrainedModel":
    if (path / "checkpoint").exists():
        return gpt2_checkpoint.to_transformers(*gpt2_checkpoint.read(path))
    from titlesmith.models.weights import merged

    return merged(path)


def _generation(settings: dict, corpus: Corpus, embeddings: int) -> "GenerationConfig":
    """Settings of sampling in the library's words; ids behind the tokenizer's last are never drawn."""
    from transformers import GenerationConfig

    end, drawn = corpus.tokenizer.eos_id, settings["beams"] == 1
    beyond = list(range(len(corpus.tokenizer), embeddings))
    return GenerationConfig(
        do_sample=drawn,
        **{key: settings[key] for key in ("temperature", "top_k", "top_p") if drawn},
        num_beams=settings["beams"],
        max_new_tokens=settings["max_tokens"],
        min_new_tokens=settings["min_tokens"] or None,
        repetition_penalty=settings["repetition_penalty"],
        no_repeat_ngram_size=settings["no_repeat_ngram"],
        suppress_tokens=beyond or None,
        bos_token_id=end,
        eos_token_id=end,
        pad_token_id=end,
    )


def _check_ids(corpus: Corpus, folder: Path) -> None:
    """Checks that the library reads texts as the model has learned them (RunError)."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    for row in corpus.scan("test").head(CHECKED).collect().iter_rows(named=True):
        text, rest = row["prompt"] or row["completion"], row["completion"] if corpus.has_prompt else ""
        ids = tokenizer(text, *([rest] if rest else []), verbose=False)["input_ids"]
        if ids != corpus.layout.prompt_ids(text, rest):
            raise RunError(
                f"{folder.name}: the transformers library makes other tokens of {text[:60]!r} than the model has "
                "learned; nothing was exported"
            )


FORMATS = {"ctranslate2": ctranslate2, "hf": hf}


def place(run: Run, to: str) -> Path:
    """Where an export lies if nothing else is said."""
    return run / "export" / to


def made_of(run: Run) -> dict[str, str]:
    """Digests of the files of a run's model."""
    outputs = run.record("finetune").get("outputs", {})
    return {name: value for name, value in outputs.items() if name.startswith("model/")}


def export(run: Run, to: str, out: Path | None = None) -> Path:
    """Writes a run's model in another form, whole or not at all, in the place of an older export.

    Parameters
    ----------
    run
        Whose training is done.
    to
        One of `FORMATS`.
    out
        The folder to write; `place` where it is left out, which is where `generate` looks.

    Raises
    ------
    RequestError
        There is no such form, it does not suit the model, or ``out`` holds something else.
    """
    if to not in FORMATS:
        raise RequestError(f"there is no export to {to!r}; there are {', '.join(FORMATS)}")
    run.require("finetune")
    out = out or place(run, to)
    if out.exists() and not (out / MADE_OF).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise RequestError(f"{out} is there and is no export; name another folder with --out")
    with swapping(out) as new:
        FORMATS[to](run, new)
        write_json(new / MADE_OF, {"format": to, "model": made_of(run)})
    return out
