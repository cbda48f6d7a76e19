"""The model in the reader's browser: a run's GPT-2, its tokenizer and hashes of its training titles as one script.

``book/_static/gpt2.js`` reads the script. It holds one string in base64: deflated bytes, which are a header in JSON and
the arrays that it lists. A script that matches `SCRIPT` is only data, also one from somebody else's publication.
"""

import base64
import json
import re
import unicodedata
import zlib
from pathlib import Path

import numpy as np

from titlesmith import models
from titlesmith.book import write
from titlesmith.book.report import Report
from titlesmith.corpus import Corpus, DocumentFormat
from titlesmith.corpus.template import template
from titlesmith.errors import DAMAGE
from titlesmith.models import base, gpt2_checkpoint, hub

FILE = "model.js"  # in the record of a run
VERSION = 2  # of the format
MAX_PARAMETERS = 20_000_000  # of a byte each
MAX_MODELS = 20  # runs of a book that get a box, the newest: a book of a thousand models would be gigabytes
SCRIPT = re.compile(rb'window\.titlesmithModel="[\w+/=]*";/\*([0-9a-f ]+)\*/\n', re.ASCII)


def write_scripts(reports: list[Report], folder: Path) -> dict[str, Path]:
    """The scripts of the newest runs that can have one, written into ``folder/<run>/`` where needed."""
    chosen, paths = list(filter(can_write, reports))[:MAX_MODELS], {}
    for report in reports:
        path = folder / report.name / FILE
        if report in chosen and write_script(report, path):
            paths[report.name] = path
        else:
            path.unlink(missing_ok=True)
    return paths


def can_write(report: Report) -> bool:
    """Whether a run's model is small enough for a page and completes texts without a prompt."""
    model, record = report.training["settings"]["model"], report.record("corpus")["settings"]
    if hub.is_hub(model) or template(record["template"]).prompt:
        return False
    try:
        count = models.num_parameters(models.hyperparameters(model, record.get("vocabulary", 0)))
    except DAMAGE:  # a folder that is not here any more
        return False
    return count <= MAX_PARAMETERS


def write_script(report: Report, path: Path) -> bool:
    """Writes the script of a run's model, unless it is there; returns False if there are no weights."""
    current = f"{VERSION} {report.record('generate')['fingerprint']}"
    for source in (path, report / FILE):
        match = SCRIPT.fullmatch(content := source.read_bytes()) if source.is_file() else None
        if match and match[1].decode() == current:
            write(path, content)
            return True
    try:
        weights, shape = gpt2_checkpoint.read(report / "model")
        corpus, settings = Corpus(report), report.record("generate")["settings"]
        titles = corpus.scan("train").select("completion").collect().to_series().to_list()
        write(path, pack(weights, shape, corpus, titles, settings, current))
    except DAMAGE:  # an earlier publication has no weights
        return False
    return True


def pack(
    weights: dict[str, np.ndarray], shape: dict, format: DocumentFormat, titles: list[str], settings: dict, mark: str
) -> bytes:
    """The script of a GPT-2 as `gpt2_checkpoint.read` returns it; ``settings`` are the parameters of notebook 04.

    Copies of the training ``titles`` are marked. ``mark`` says later whether the script is up to date.
    """
    arrays = base.quantize({name: weights[name] for name in models.shapes(shape)})
    arrays = {name: a if a.dtype == np.int8 else a.astype(np.float32) for name, a in arrays.items()}
    arrays["titles"] = hash_titles(titles)
    ordered = sorted(arrays.items(), key=lambda item: -item[1].itemsize)  # floats first, so that they are aligned
    tokenizer, layout = format.tokenizer, format.layout
    header = json.dumps({
        "shape": shape,
        "tokens": sorted(tokenizer.vocabulary, key=tokenizer.vocabulary.get),
        "merges": [" ".join(pair) for pair in tokenizer.merges],
        "eos": tokenizer.eos_id,
        "start": [tokenizer.eos_id, *layout.start],
        "stop": layout.markers[2],
        "lowercase": format.lowercase,
        **{key: settings[key] for key in ("top_k", "top_p", "max_tokens")},
        "layout": [(name, str(array.dtype), array.size) for name, array in ordered],
    }).encode()  # fmt: skip
    header += b" " * (-len(header) % 4)
    size = np.array([len(header)], np.uint32).tobytes()
    packed = zlib.compress(size + header + b"".join(array.tobytes() for _, array in ordered), 9)
    return b'window.titlesmithModel="%b";/*%b*/\n' % (base64.b64encode(packed), mark.encode())


def hash_titles(titles: list[str]) -> np.ndarray:
    """CRC-32 of n titles, case and white space folded; another title has one of them with probability n / 2**32."""
    folded = {" ".join(unicodedata.normalize("NFC", title).lower().split()) for title in titles}
    return np.unique(np.array([zlib.crc32(title.encode()) for title in folded], np.uint32))
