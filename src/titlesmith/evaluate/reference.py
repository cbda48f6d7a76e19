"""Reference model: how well a model that neither trained on nor generated the texts predicts them."""

import numpy as np

from titlesmith.corpus.pretrained import PretrainedTokenizer
from titlesmith.errors import RequestError, shorten
from titlesmith.evaluate.bits_per_byte import bits_per_byte, utf8_bytes
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


class Texts:
    """Texts as `Engine.document_losses` reads documents; ``sizes`` are the bytes of each that fit into the context."""

    def __init__(self, texts: list[str], engine: Engine):
        self.tokenizer, self._start = engine.tokenizer, list(engine.tokenizer.bos_ids)
        texts = [text.encode("utf-8", "replace").decode() for text in texts]
        room = engine.context - len(self._start) - 1
        ids = [own[:room] for own in self.tokenizer.encode_batch(texts)]
        self._documents = [np.array([*self._start, *own, self.tokenizer.eos_id], np.int32) for own in ids]
        self.starts = np.cumsum([0, *map(len, self._documents)])
        fit = (text if len(own) < room else self.tokenizer.decode(own) for text, own in zip(texts, ids, strict=True))
        self.sizes = utf8_bytes(list(fit))

    def __len__(self) -> int:
        return len(self._documents)

    def __getitem__(self, i: int) -> np.ndarray:
        return self._documents[i]

    def loss_mask(self, document: np.ndarray) -> np.ndarray:
        """Ones for the ids of the text; what begins and what ends it does not count."""
        mask = np.ones(len(document), np.float32)
        mask[: len(self._start)] = mask[-1] = 0
        return mask


def reference_bits_per_byte(engine: Engine | None, texts: list[str], seed: int) -> Measurement:
    """Bits per byte of texts under a reference model: below people's, they are too predictable, above less coherent."""
    if engine is None:
        raise MissingError("no reference_model is set")
    documents = Texts(texts, engine)
    nats, _ = engine.document_losses(documents)
    return bits_per_byte(nats, documents.sizes, seed)


def open_reference(name: str, people: list[str]) -> Engine | None:
    """The reference model; None if ``name`` is empty. Texts begin after the end of text that suits people's best."""
    if not name:
        return None
    hub.check_installed()
    from titlesmith.train.huggingface import HuggingFaceEngine

    engine = HuggingFaceEngine.open(name)
    openings, start = engine.tokenizer.openings, engine.tokenizer.bos_ids
    tokenizers = [engine.tokenizer.with_end(end) for end, own in openings if own == start]

    def nats(tokenizer: PretrainedTokenizer) -> float:
        """Loss of some texts by people: chats end in another token than the documents of the pretraining."""
        engine.tokenizer = tokenizer
        return engine.document_losses(Texts(people[:SAMPLE], engine))[0].sum()

    engine.tokenizer = min(tokenizers, key=nats)
    return engine
