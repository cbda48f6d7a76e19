"""GPT-2 in CTranslate2: converted from gpt-2-simple's variables to 8-bit integers, which processors multiply fastest.

What CTranslate2 calls ``sampling_topk``, ``sampling_topp``, ``beam_size`` and so on decides what the settings mean. Its
random numbers are seeded per thread, and only threads that start after `ctranslate2.set_random_seed` use the new seed.
So each call opens the model again, which takes a fraction of a second.
"""

import json
from collections import defaultdict
from pathlib import Path
from tempfile import TemporaryDirectory

import ctranslate2
import numpy as np
from ctranslate2.converters.openai_gpt2 import set_decoder
from ctranslate2.specs import TransformerDecoderModelSpec, common_spec

from titlesmith.corpus.tokenizer import END, Tokenizer
from titlesmith.errors import RunError
from titlesmith.generate.backend import Completion
from titlesmith.generate.settings import GenerationSettings, check_context
from titlesmith.models import HYPERPARAMETERS, cpu_count, cpu_name, gpt2_checkpoint
from titlesmith.runs import swapping
from titlesmith.train import Engine

COMPUTE_TYPE = "int8"
ROWS = 128  # texts that are sampled in parallel, at most
CACHE_BYTES = 2**31  # of their keys and values, at most
LOGIT_BYTES = 2**28  # of the logits of `next_token_logprobs`, at most
MEMORY_DISK = Path("/dev/shm")  # where Linux has a file system in memory


def convert_gpt2(weights: dict[str, np.ndarray], hyperparameters: dict, tokenizer: Tokenizer, folder: Path) -> None:
    """Writes a GPT-2 in CTranslate2's format, int8, into an empty folder.

    CTranslate2's own converter sets the special tokens on attributes that its files do not store.

    Parameters
    ----------
    weights
        Float32, by the names of gpt-2-simple's variables without ``model/``; overwritten by the conversion.
    hyperparameters
        As in hparams.json.
    tokenizer
        The vocabulary.
    folder
        Gets ``model.bin``, ``config.json`` and ``vocabulary.json``.
    """
    spec = TransformerDecoderModelSpec.from_config(
        hyperparameters["n_layer"], hyperparameters["n_head"], activation=common_spec.Activation.GELUTanh
    )
    set_decoder(spec.decoder, {f"model/{name}": value for name, value in weights.items()}, "model")
    for name in ("unk_token", "bos_token", "eos_token"):
        setattr(spec.config, name, END)
    spec.register_vocabulary(tokens(tokenizer))
    spec.validate()
    spec.optimize(COMPUTE_TYPE)
    spec.save(str(folder))


def save_ctranslate2(engine: Engine, folder: Path) -> None:
    """Writes the weights of a `GPT2Engine` in CTranslate2's format, in place of an older folder, or not at all."""
    with swapping(folder) as new:
        convert_gpt2(engine.weights(), engine.hyperparameters, engine.tokenizer, new)


def tokens(tokenizer: Tokenizer) -> list[str]:
    """The tokens by id, as CTranslate2 names them."""
    return sorted(tokenizer.vocabulary, key=tokenizer.vocabulary.get)


class CTranslate2Backend:
    """A GPT-2 that generates through CTranslate2; see `titlesmith.generate.backend.Backend`.

    Parameters
    ----------
    files
        The model in CTranslate2's format: contents by file name.
    hyperparameters
        As in hparams.json.
    tokenizer
        The vocabulary.
    name
        Where the files are from, for messages.
    """

    def __init__(self, files: dict[str, bytes], hyperparameters: dict, tokenizer: Tokenizer, name: str = "the model"):
        self._files, self._name, self.tokenizer = files, name, tokenizer
        self._tokens = tokens(tokenizer)
        self.context = hyperparameters["n_ctx"]
        self._token_bytes = 8 * hyperparameters["n_layer"] * hyperparameters["n_embd"]  # keys and values of a token
        self._device, self.device = "cpu", f"{cpu_name()}, 8-bit integers (CTranslate2)"
        if ctranslate2.get_cuda_device_count():
            try:
                ctranslate2.Generator(name, "cuda", compute_type=COMPUTE_TYPE, files=files)
                self._device, self.device = "cuda", "the GPU, 8-bit integers (CTranslate2)"
            except RuntimeError as error:  # no CUDA libraries that fit, or no memory left
                self.device += f"; not on the GPU: {str(error).splitlines()[0]}"

    @classmethod
    def open(cls, model: Path, folder: Path) -> "CTranslate2Backend":
        """Reads a model that `save_ctranslate2` wrote, or converts the checkpoint where that folder is missing.

        Parameters
        ----------
        model
            Folder of the checkpoint in gpt-2-simple's layout.
        folder
            Folder of the model in CTranslate2's format.
        """
        tokenizer = Tokenizer.load(model)
        if folder.is_dir():
            hyperparameters = json.loads((model / HYPERPARAMETERS).read_text("utf-8"))
            files = {file.name: file.read_bytes() for file in folder.iterdir() if file.suffix in (".bin", ".json")}
            return cls(files, hyperparameters, tokenizer, str(folder))
        weights, hyperparameters = gpt2_checkpoint.read(model)
        return cls.of_weights(weights, hyperparameters, tokenizer)

    @classmethod
    def of_engine(cls, engine: Engine) -> "CTranslate2Backend":
        """The model of a `GPT2Engine` as it is now."""
        return cls.of_weights(engine.weights(), engine.hyperparameters, engine.tokenizer)

    @classmethod
    def of_weights(cls, weights: dict, hyperparameters: dict, tokenizer: Tokenizer) -> "CTranslate2Backend":
        """A GPT-2 by the names of gpt-2-simple's variables, with or without ``model/``; the arrays are overwritten."""
        weights = {name.removeprefix("model/"): value for name, value in weights.items()}
        with TemporaryDirectory(dir=MEMORY_DISK if MEMORY_DISK.is_dir() else None) as folder:
            convert_gpt2(weights, hyperparameters, tokenizer, Path(folder))
            files = {file.name: file.read_bytes() for file in Path(folder).iterdir()}
        return cls(files, hyperparameters, tokenizer)

    def _open(self, seed: int = 0) -> ctranslate2.Generator:
        """The model in new threads, whose random numbers begin at ``seed``."""
        ctranslate2.set_random_seed(seed)
        try:
            return ctranslate2.Generator(
                self._name, self._device, compute_type=COMPUTE_TYPE, intra_threads=cpu_count(), files=self._files
            )
        except RuntimeError as error:
            raise RunError(
                f"{self._name} cannot be opened ({error}). Remove it: the model is converted again from the checkpoint"
            ) from None

    def generate(self, prompts: list[list[int]], settings: GenerationSettings) -> list[list[Completion]]:
        """See `Backend.generate`."""
        longest = max(map(len, prompts), default=1)
        check_context(longest, settings.max_tokens, self.context)
        rng = np.random.default_rng(settings.seeds)
        generator = self._open(int(rng.integers(2**31)))
        rows = max(1, min(ROWS, CACHE_BYTES // (self._token_bytes * (longest + settings.max_tokens))))
        # A job is a prompt with its indices in the list. Equal prompts that are longer than their texts are one job,
        # so that they are read once
        jobs: dict[tuple, list[int]] = defaultdict(list)
        for i, prompt in enumerate(prompts):
            jobs[tuple(prompt), i if len(prompt) <= settings.max_tokens else -1].append(i)
        # Jobs with equally many texts share batches, but CTranslate2 reads one by one what the prompts of a batch are
        # longer than the shortest, so long prompts only share them with prompts of their length. Next to a prompt of
        # one token, it returns the rest of longer prompts as generated text
        batches: dict[tuple[int, int], list[tuple]] = defaultdict(list)
        for job, indices in jobs.items():
            length = len(job[0])
            group = length if length > settings.max_tokens or _counts_prompt(settings) else min(length, 2)
            size = settings.count * len(indices) if settings.is_sampled else min(settings.count, settings.beams)
            for first in range(0, size, rows):
                batches[group, min(rows, size - first)].append(job)
        # Completions of a job come best first; samples are shuffled
        completions: dict[tuple, list[Completion]] = {job: [] for job in jobs}
        for (_, size), some in batches.items():
            for job, new in zip(some, self._batch(generator, some, size, rows, settings), strict=True):
                order = rng.permutation(size) if settings.is_sampled else range(size)
                completions[job] += [new[i] for i in order]
        # Each index gets separate samples, but the same results of a search
        results: dict[int, list[Completion]] = {}
        for job, indices in jobs.items():
            for number, i in enumerate(indices):
                first = number * settings.count if settings.is_sampled else 0
                results[i] = completions[job][first : first + settings.count]
                if not settings.is_sampled and settings.beams == 1:  # the likeliest text is one
                    results[i] *= settings.count
        return [results[i] for i in range(len(prompts))]

    def _batch(
        self, generator: ctranslate2.Generator, jobs: list[tuple], size: int, rows: int, settings: GenerationSettings
    ) -> list[list[Completion]]:
        """``size`` completions of each job's prompt."""
        prompts = [list(prompt) for prompt, _ in jobs]
        # Where tokens of the prompt count as repeated, they are part of the result, all but the first
        skipped = len(prompts[0]) - 1 if _counts_prompt(settings) else 0
        results = generator.generate_batch(
            self._named(prompts),
            max_batch_size=max(1, rows // (size * settings.beams)),
            beam_size=settings.beams,
            num_hypotheses=size,
            sampling_temperature=settings.temperature,
            sampling_topk=1 if settings.beams > 1 else settings.top_k,
            sampling_topp=1 if settings.beams > 1 else settings.top_p,
            repetition_penalty=settings.repetition_penalty,
            no_repeat_ngram_size=settings.no_repeat_ngram,
            max_length=skipped + settings.max_tokens,
            min_length=skipped + settings.min_tokens if settings.min_tokens else 0,
            include_prompt_in_result=_counts_prompt(settings),
            end_token=[self.tokenizer.eos_id],
            return_end_token=True,
            return_scores=True,
        )
        completions = []
        for prompt, result in zip(prompts, results, strict=True):
            texts = [ids[skipped:] for ids in result.sequences_ids]
            scores = result.scores  # mean log-probabilities, but after penalties and exclusions
            if settings.min_tokens or _counts_prompt(settings):
                scores = self._mean_logprobs(generator, prompt, texts)
            completions.append([self._completion(ids, score) for ids, score in zip(texts, scores, strict=True)])
        return completions

    def _completion(self, ids: list[int], score: float) -> Completion:
        finished = ids[-1] == self.tokenizer.eos_id
        return Completion(ids[: len(ids) - finished], float(score), finished)

    def _mean_logprobs(
        self, generator: ctranslate2.Generator, prompt: list[int], texts: list[list[int]]
    ) -> list[float]:
        """The mean log-probability of the ids of each text after the prompt."""
        rows = self._named([[*prompt, *ids] for ids in texts])
        results = generator.score_batch(rows, max_batch_size=16, max_input_length=0)
        return [float(np.mean(result.log_probs[-len(ids) :])) for result, ids in zip(results, texts, strict=True)]

    def _named(self, rows: list[list[int]]) -> list[list[str]]:
        return [[self._tokens[i] for i in row] for row in rows]

    def next_token_logprobs(self, prompts: list[list[int]]) -> np.ndarray:
        """See `Backend.next_token_logprobs`."""
        longest = max(map(len, prompts), default=1)
        check_context(longest, 0, self.context)
        generator, logprobs = self._open(), np.empty((len(prompts), len(self.tokenizer)), np.float32)
        some = max(1, LOGIT_BYTES // (4 * longest * len(self.tokenizer)))
        for first in range(0, len(prompts), some):
            rows = prompts[first : first + some]
            every = generator.forward_batch(rows, return_log_probs=True).to_device(ctranslate2.Device.cpu)
            last = [len(row) - 1 for row in rows]
            logprobs[first : first + some] = np.array(every)[np.arange(len(rows)), last]
        return logprobs


def _counts_prompt(settings: GenerationSettings) -> bool:
    """Whether tokens of the prompt count as there already."""
    return settings.repetition_penalty != 1 or settings.no_repeat_ngram > 0
