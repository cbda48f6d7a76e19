"""Texts from a model in eight-bit integers, which processors multiply faster: CTranslate2.

It draws texts with temperature, top-k, and a least and a largest length, exactly as the engine defines them. Beams,
repetition penalty, n-grams that may not repeat and top-p mean something else in CTranslate2 (when a search stops, what
counts as seen, what is cut before what), and fall back to the real engine, as do losses and training.
"""

import json
import os
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import ctranslate2
import numpy as np
from ctranslate2.converters import Converter
from ctranslate2.converters.openai_gpt2 import set_decoder
from ctranslate2.specs import TransformerDecoderModelSpec, common_spec

from titlesmith.corpus.tokenizer import END, Tokenizer
from titlesmith.errors import RunError
from titlesmith.models import HYPERPARAMETERS, gpt2_checkpoint
from titlesmith.train.loop import SAMPLING, Draw, Engine, sampling

ROWS = 128  # texts that are drawn side by side, at most
MEMORY = 2**31  # bytes that their keys and values may take
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
        weights, shape = gpt2_checkpoint.read(self._path)
        spec = TransformerDecoderModelSpec.from_config(
            shape["n_layer"], shape["n_head"], activation=common_spec.Activation.GELUTanh
        )
        set_decoder(spec.decoder, weights, "model")
        for name in ("unk_token", "bos_token", "eos_token"):
            setattr(spec.config, name, END)
        spec.register_vocabulary(_tokens(Tokenizer.load(self._path)))
        return spec


@cache
def _tell(path: Path) -> None:
    print(
        f"drawing from the export to CTranslate2 in 8-bit integers; remove {path} to use the full weights",
        file=sys.stderr,
    )


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
        shape = json.loads((model / HYPERPARAMETERS).read_text("utf-8"))
        self.context, self._token = shape["n_ctx"], 8 * shape["n_layer"] * shape["n_embd"]  # of keys and values
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
        try:
            return ctranslate2.Generator(str(self._path), compute_type="int8", intra_threads=cores, files=self._weights)
        except RuntimeError as error:
            raise RunError(
                f"{self._path} is damaged ({error}): remove it, or make it anew: titlesmith export RUN --to ctranslate2"
            ) from None

    def generate(self, prompts: list[list[int]], settings: dict) -> list[list[Draw]]:
        """See `Engine.generate`; seed, prompts and their counts together decide what is drawn.

        That texts come from the export is told on standard error, once a process.
        """
        settings = sampling(prompts, settings, self.context)
        if any(settings[key] != SAMPLING[key] for key in OWN):
            return self.__getattr__("generate")(prompts, settings)
        _tell(self._path)
        random = np.random.default_rng([*np.atleast_1d(settings["seed"])])
        ctranslate2.set_random_seed(int(random.integers(2**31)))
        generator, results = self._open(), [[] for _ in prompts]
        longest = max(map(len, prompts), default=0) + settings["max_tokens"]
        rows = max(1, min(ROWS, MEMORY // (self._token * longest)))
        count = 1 if settings["top_k"] == 1 else settings["count"]  # the likeliest text is one
        # Beside a prompt of one id, it takes what longer ones go on with for text
        kinds = [[i for i, prompt in enumerate(prompts) if (len(prompt) > 1) == more] for more in (False, True)]
        for first in range(0, count, rows):
            copies = min(rows, count - first)
            for chosen in filter(None, kinds):
                found = self._draws(generator, [prompts[i] for i in chosen], copies, rows // copies, settings)
                for i, draws in zip(chosen, found, strict=True):
                    results[i] += [draws[j] for j in random.permutation(copies)]  # they come best first
        return [draws * (settings["count"] // count) for draws in results]

    def _draws(self, generator, prompts: list[list[int]], copies: int, batch: int, settings: dict) -> list[list[Draw]]:
        found = generator.generate_batch(
            [[self._names[i] for i in prompt] for prompt in prompts],
            max_batch_size=batch,
            num_hypotheses=copies,  # a prompt is read once for all of its texts
            sampling_temperature=settings["temperature"],
            sampling_topk=settings["top_k"],
            max_length=settings["max_tokens"],
            min_length=settings["min_tokens"],
            include_prompt_in_result=False,
            return_end_token=True,
            end_token=[self.tokenizer.eos_id],
            return_scores=True,  # the mean log-probability of ids and end, untempered, over the whole vocabulary
        )
        draws = []
        for prompt, result in zip(prompts, found, strict=True):
            texts, scores = result.sequences_ids, result.scores
            if settings["min_tokens"]:  # but without the end where it is forbidden
                rows = self.scores([[*prompt, *ids] for ids in texts], generator)
                scores = [own[-len(ids) :].mean() for own, ids in zip(rows, texts, strict=True)]
            draws.append(list(map(self._draw, texts, scores)))
        return draws

    def _draw(self, ids: list[int], score: float) -> Draw:
        finished = ids[-1] == self.tokenizer.eos_id
        return Draw(ids[: len(ids) - finished], float(score), finished)

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
