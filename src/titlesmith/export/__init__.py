"""Exports: a run's model as a folder in the format of another program, complete or not at all."""

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

from titlesmith.errors import RequestError
from titlesmith.generate.source import CTRANSLATE2
from titlesmith.models import hub
from titlesmith.runs import Run
from titlesmith.runs.mirror import check_target, mirror


def export(run: Run, to: str, out: Path | None = None) -> Path:
    """Writes a run's model in a format and returns the folder, by default ``export/FORMAT`` in the run.

    ``to`` is ``hf``, for the transformers library and the Hugging Face hub, with a model card; or ``ctranslate2``, with
    8-bit integers, the model that ``titlesmith generate`` uses. An older export in the folder is replaced; files that
    titlesmith did not write stay. RequestError: the model cannot be written in this format, or ``out`` belongs to
    something else. RunError: the run has no model, or its files are damaged.
    """
    run.require("finetune")
    if to == "hf":
        hub.check_installed()
    elif not (run / CTRANSLATE2).is_dir():
        raise RequestError(f"{run / CTRANSLATE2} does not exist: only GPT-2 and scratch models are in this format")
    for stage in ("finetune", "evaluate"):
        run.verify(stage)
    out = out or run / "export" / to
    check_target(out, "export")
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as temporary:
        new = Path(temporary) / out.name
        if to == "hf":
            from titlesmith.export.huggingface import write

            write(run, new)
        else:
            shutil.copytree(run / CTRANSLATE2, new)
        mirror(new, out, "export", move=True)
    return out
