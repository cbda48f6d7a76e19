"""Texts from a model in eight-bit integers, which processors multiply faster: CTranslate2.

It draws texts with temperature, top-k, and a least and a largest length, exactly as the engine defines them. Beams,
repetition penalty, n-grams that may not repeat and top-p mean something else in CTranslate2 (when a search stops, what
counts as seen, what is cut before what), and fall back to the real engine, as do losses and training.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path

import ctranslate2
import numpy as np
from ctranslate2.converters import Converter
from ctranslate2.converters.openai_gpt2 import set_decoder
from ctranslate2.specs import TransformerDecoderModelSpec, common_spec

from titlesmith.corpus.tokens import END, Tokenizer
from titlesmith.engines.base import SAMPLING, Draw, Engine, sampling
from titlesmith.models import HYPERPARAMETERS, convert

ROWS = 128  # texts that are drawn side by side
OWN = ("top_p", "repetition_penalty", "no_repeat_ngram", "beams")  # what only the real engine does


class GPT2Converter(Converter):
    """Converts a checkpoint in gpt-2-simple's layout.

    CTranslate2's own converter sets the special tokens where its files do not keep them.

    Parameters
    ----------
    path
        The checkpoint's folder.
    """

    def __init__(self, path: Path):
        self._path = path

    def _load(self) -> TransformerDecoderModelSpec:
        weights, shape = convert.read(self._path)
        spec = TransformerDecoderModelSpec.from_config(
            shape["n_layer"], shape["n_head"], activation=common_spec.Activation.GELUTanh
        )
        set_decoder(spec.decoder, weights, "model")
        for name in ("unk_token", "bos_token", "eos_token"):
            setattr(spec.config, name, END)
        spec.register_vocabulary(_tokens(Tokenizer.load(self._path)))
        return spec


def _tokens(tokenizer: Tokenizer) -> list[str]:
    return sorted(tokenizer.vocabulary, key=tokenizer.vocabulary.get)


class Exported:
    """A model of which texts come from its export, and all else from the real engine, loaded when asked for.

    Parameters
    ----------
    path
        Folder of the export.
    model
        Folder of the checkpoint that it was made of.
    load
        Loads the real engine.
    """

    def __init__(self, path: Path, model: Path, load: Callable[[], Engine]):
        self._path, self._load, self._real = path, load, None
        self.tokenizer = Tokenizer.load(model)
        self.context = json.loads((model / HYPERPARAMETERS).read_text("utf-8"))["n_ctx"]
        self._names = _tokens(self.tokenizer)
        self._weights = {file.name: file.read_bytes() for file in path.iterdir() if file.suffix in (".bin", ".json")}

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        self.__dict__["_real"] = self._real or self._load()
        return getattr(self._real, name)

    def _open(self) -> ctranslate2.Generator:
        """The model in threads of its own, because a seed counts for threads that are not there yet."""
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        return ctranslate2.Generator(str(self._path), compute_type="int8", intra_threads=cores, files=self._weights)

    def generate(self, prompts: list[list[int]], settings: dict) -> list[list[Draw]]:
        """See `Engine.generate`; seed, prompts and their counts together decide what is drawn."""
        settings = sampling(prompts, settings, self.context)
        if any(settings[key] != SAMPLING[key] for key in OWN):
            return self.__getattr__("generate")(prompts, settings)
        seed = np.random.SeedSequence([*np.atleast_1d(settings["seed"])]).generate_state(1)[0] >> 1
        ctranslate2.set_random_seed(int(seed))
        generator, count = self._open(), settings["count"]
        starts = [[self._names[i] for i in prompt] for prompt in prompts for _ in range(count)]
        found = generator.generate_batch(
            starts,
            max_batch_size=ROWS,
            sampling_temperature=settings["temperature"],
            sampling_topk=settings["top_k"],
            max_length=settings["max_tokens"],
            min_length=settings["min_tokens"],
            include_prompt_in_result=False,
            return_end_token=True,
            end_token=[self.tokenizer.end],
        )
        texts = [result.sequences_ids[0] for result in found]
        # Its own scores are not the model's behind a prompt of several ids, nor where the end is forbidden
        scores = self._scores(generator, prompts, texts, count)
        scores = [own[-len(ids) :].mean() for own, ids in zip(scores, texts, strict=True)]
        draws = [self._draw(*row) for row in zip(texts, scores, strict=True)]
        return [draws[i * count : (i + 1) * count] for i in range(len(prompts))]

    def _draw(self, ids: list[int], score: float) -> Draw:
        finished = ids[-1] == self.tokenizer.end
        return Draw(ids[: len(ids) - finished], float(score), finished)

    def _scores(self, generator, prompts: list[list[int]], texts: list[list[int]], count: int) -> list[np.ndarray]:
        return self.scores([[*prompts[i // count], *ids] for i, ids in enumerate(texts)], generator)

    def scores(self, rows: list[list[int]], generator: ctranslate2.Generator | None = None) -> list[np.ndarray]:
        """Log-probabilities of the ids of each row but its first."""
        rows = [[self._names[i] for i in ids] for ids in rows]
        found = (generator or self._open()).score_batch(rows, max_batch_size=16, max_input_length=0)
        return [np.array(result.log_probs) for result in found]

    def next(self, prompts: list[list[int]]) -> np.ndarray:
        """See `Engine.next`."""
        sampling(prompts, {"count": 1, "max_tokens": 0}, self.context)
        generator, found = self._open(), np.empty((len(prompts), len(self.tokenizer)), np.float32)
        for first in range(0, len(prompts), 16):
            some = prompts[first : first + 16]
            every = np.array(generator.forward_batch(some, return_log_probs=True))
            found[first : first + 16] = every[np.arange(len(some)), [len(prompt) - 1 for prompt in some]]
        return found
