"""Export folders: writes a run's model in the format of another program, complete or not at all."""

import shutil
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

from titlesmith.errors import RequestError
from titlesmith.generate.source import CTRANSLATE2
from titlesmith.hints import install_command
from titlesmith.models import hub
from titlesmith.runs import Run
from titlesmith.runs.mirror import check_target, mirror


def ctranslate2(run: Run, folder: Path) -> None:
    """CTranslate2's format in 8-bit integers, the model that ``titlesmith generate`` uses; GPT-2 only."""
    if not (run / CTRANSLATE2).is_dir():
        raise RequestError(f"{run / CTRANSLATE2} does not exist: only GPT-2 and scratch models are in this format")
    shutil.copytree(run / CTRANSLATE2, folder, dirs_exist_ok=True)


def hf(run: Run, folder: Path) -> None:
    """The format of the transformers library and of the Hugging Face hub, with a model card."""
    if missing := [package for package in hub.PACKAGES if not find_spec(package)]:
        raise RequestError(f"export to hf needs {', '.join(missing)}: {install_command('hf')}")
    from titlesmith.export.huggingface import write

    write(run, folder)


FORMATS = {"ctranslate2": ctranslate2, "hf": hf}


def export(run: Run, to: str, out: Path | None = None) -> Path:
    """Writes a run's model in a format of `FORMATS` and returns the folder, by default ``export/FORMAT`` in the run.

    An older export in the folder is replaced; files that titlesmith did not write stay.

    Raises
    ------
    RequestError
        There is no such format, the model cannot be written in it, or ``out`` belongs to something else.
    RunError
        The run has no model, or its files are damaged.
    """
    if to not in FORMATS:
        raise RequestError(f"--to {to!r} does not exist; formats: {', '.join(FORMATS)}")
    run.require("finetune")
    run.verify("finetune")
    out = out or run / "export" / to
    check_target(out, "export")
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as temporary:
        new = Path(temporary) / out.name
        new.mkdir()
        FORMATS[to](run, new)
        mirror(new, out, "export", move=True)
    return out
