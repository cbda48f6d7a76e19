"""Exports: a run's model in the form of other programs, beside what it was made of."""

import json
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

from titlesmith.errors import RequestError
from titlesmith.run import Run, write_json

MADE_OF = "titlesmith.json"  # in an export: digests of the model's files


def ctranslate2(run: Run, folder: Path) -> None:
    """CTranslate2's form in eight-bit integers, for generating on processors."""
    if not find_spec("ctranslate2"):
        raise RequestError("export to ctranslate2 needs it: pip install 'titlesmith[ctranslate2]'")
    if not (run / "model" / "checkpoint").exists():
        raise RequestError(f"{run / 'model'} is no GPT-2 of TensorFlow's engine, the only one exported to ctranslate2")
    from titlesmith.engines.ctranslate2 import GPT2Converter

    GPT2Converter(run / "model").convert(str(folder), quantization="int8", force=True)


FORMATS = {"ctranslate2": ctranslate2}


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
    out.parent.mkdir(parents=True, exist_ok=True)
    new, old = out.with_name(f".{out.name}.partial"), out.with_name(f".{out.name}.old")
    for folder in (new, old):
        shutil.rmtree(folder, ignore_errors=True)
    try:
        FORMATS[to](run, new)
        write_json(new / MADE_OF, {"format": to, "model": made_of(run)})
        if out.exists():
            out.replace(old)
        new.replace(out)
    finally:
        for folder in (new, old):
            shutil.rmtree(folder, ignore_errors=True)
    return out


def fresh(run: Run, to: str) -> Path | None:
    """The export of the model that a run has now; None where there is none, or one of an older model, which is told."""
    folder = place(run, to)
    if not (folder / MADE_OF).is_file():
        return None
    if json.loads((folder / MADE_OF).read_text("utf-8"))["model"] == made_of(run):
        return folder
    again = f"titlesmith export {run.name} --to {to}"
    print(f"{folder} is of an older model and is not used; {again} makes it anew", file=sys.stderr)
    return None
