"""Reference model: how well a model that neither trained on nor generated the texts predicts them."""

from functools import partial

import numpy as np

from titlesmith import models
from titlesmith.corpus.building import choose_opening
from titlesmith.corpus.documents import Documents
from titlesmith.corpus.tokenizer import Tokenizer
from titlesmith.errors import RequestError, shorten
from titlesmith.evaluate.losses import bits_per_byte, utf8_bytes
from titlesmith.evaluate.measurement import Measurement, MissingError
from titlesmith.models import hub
from titlesmith.train import Engine

SAMPLE = 32  # texts by people that choose the token before a text


def check(settings: dict, model: str) -> None:
    """Checks that ``reference_model`` is a model of transformers other than ``model`` (RequestError)."""
    if name := settings["reference_model"]:
        if name in (model, "hf:scratch") or not hub.is_hub(name):
            why = "is the model that is fine-tuned" if name == model else "is not hf:NAME-OR-PATH, smollm2 or empty"
            raise RequestError(f"evaluate.reference_model: {shorten(name)} {why}; name another")
        hub.hyperparameters(name, 0)


def open_reference(name: str, people: list[str]) -> Engine | None:
    """The reference model; None if ``name`` is empty. Texts begin after the end of text that suits people's best."""
    if not name:
        return None
    hub.check_installed()
    from titlesmith.train.huggingface import HuggingFaceEngine

    measure = partial(models.measure_openings, name)
    tokenizer, _ = choose_opening(Tokenizer.load(hub.folder(name)), people[:SAMPLE], measure)
    engine = HuggingFaceEngine.open(name)
    engine.tokenizer = tokenizer
    return engine


def reference_bits_per_byte(engine: Engine | None, texts: list[str], seed: int) -> Measurement:
    """Bits per byte of texts under a reference model: below people's, they are too predictable, above less coherent.

    Of a text that is longer than the model's context, the beginning is measured.
    """
    if engine is None:
        raise MissingError("no reference_model is set")
    tokenizer, start = engine.tokenizer, list(engine.tokenizer.bos_ids)
    texts = [text.encode("utf-8", "replace").decode() for text in texts]
    room = engine.context - len(start) - 1
    ids = [own[:room] for own in tokenizer.encode_batch(texts)]
    sizes = utf8_bytes(
        [text if len(own) < room else tokenizer.decode(own) for text, own in zip(texts, ids, strict=True)]
    )
    # What begins and what ends a text does not count
    targets = np.array([(len(start), len(start) + len(own)) for own in ids], np.int64).reshape(-1, 2)
    nats, _ = engine.document_losses(Documents.of([start + own for own in ids], targets, tokenizer))
    return bits_per_byte(nats, sizes, seed)
