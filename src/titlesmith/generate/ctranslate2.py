"""GPT-2 in CTranslate2, with weights of 8-bit integers, which processors multiply fastest."""

from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from tempfile import TemporaryDirectory

import ctranslate2
import numpy as np

from titlesmith.corpus.tokenizer import END, Tokenizer
from titlesmith.generate.backend import Completion, GenerationSettings, Listener
from titlesmith.models import cpu_count, cpu_name

COMPUTE_TYPE = "int8"
MAX_ROWS = 128  # texts that are sampled in parallel
MAX_CACHE_BYTES = 2**31  # of their keys and values


def convert_gpt2(weights: dict[str, np.ndarray], hyperparameters: dict, tokenizer: Tokenizer, folder: Path) -> None:
    """Writes a GPT-2 in CTranslate2's format, int8, into an empty folder.

    ``weights`` are float32 arrays by the names of gpt-2-simple's variables, with or without ``model/``; they are
    overwritten.
    """
    from ctranslate2.converters.openai_gpt2 import set_decoder  # imports torch and transformers if they are installed
    from ctranslate2.specs import TransformerDecoderModelSpec, common_spec

    num_layers, num_heads = hyperparameters["n_layer"], hyperparameters["n_head"]
    gelu = common_spec.Activation.GELUTanh
    spec = TransformerDecoderModelSpec.from_config(num_layers, num_heads, activation=gelu)
    set_decoder(spec.decoder, {f"model/{name.removeprefix('model/')}": w for name, w in weights.items()}, "model")
    for name in ("unk_token", "bos_token", "eos_token"):  # CTranslate2's own converter does not store them
        setattr(spec.config, name, END)
    spec.register_vocabulary(_tokens(tokenizer))
    spec.validate()
    spec.optimize(COMPUTE_TYPE)
    spec.save(str(folder))


def _tokens(tokenizer: Tokenizer) -> list[str]:
    """The tokens by id, as CTranslate2 names them."""
    return sorted(tokenizer.vocabulary, key=tokenizer.vocabulary.get)


class CTranslate2Backend:
    """A GPT-2 that generates through CTranslate2; see `titlesmith.generate.backend.Backend`.

    ``folder`` has the model in CTranslate2's format, ``hyperparameters`` are those of hparams.json.
    """

    def __init__(self, folder: Path, hyperparameters: dict, tokenizer: Tokenizer):
        self._folder, self.tokenizer, self._tokens = str(folder), tokenizer, _tokens(tokenizer)
        self.context = hyperparameters["n_ctx"]
        self._token_bytes = 8 * hyperparameters["n_layer"] * hyperparameters["n_embd"]  # keys and values of a token
        self._device, self.device = "cpu", f"{cpu_name()}, 8-bit integers (CTranslate2)"
        if ctranslate2.get_cuda_device_count():
            try:
                ctranslate2.Generator(self._folder, "cuda", compute_type=COMPUTE_TYPE)
                self._device, self.device = "cuda", "the GPU, 8-bit integers (CTranslate2)"
            except RuntimeError as error:  # CUDA's libraries are missing or do not fit, or its memory is full
                self.device += f"; not on the GPU: {str(error).splitlines()[0]}"

    @classmethod
    def of_weights(cls, weights: dict, hyperparameters: dict, tokenizer: Tokenizer) -> "CTranslate2Backend":
        """A model from the arguments of `convert_gpt2`, in a temporary folder that is deleted with the back end."""
        temporary = TemporaryDirectory(prefix="titlesmith-")
        convert_gpt2(weights, hyperparameters, tokenizer, Path(temporary.name))
        backend = cls(Path(temporary.name), hyperparameters, tokenizer)
        backend._temporary = temporary
        return backend

    def _open(self, seed: int = 0) -> ctranslate2.Generator:
        """The model in new threads: CTranslate2 seeds the random numbers of a thread when it starts."""
        ctranslate2.set_random_seed(seed)
        return ctranslate2.Generator(self._folder, self._device, compute_type=COMPUTE_TYPE, intra_threads=cpu_count())

    def generate(
        self, prompts: list[list[int]], settings: GenerationSettings, listener: Listener | None = None
    ) -> list[list[Completion]]:
        """See `Backend.generate`."""
        rng = np.random.default_rng(settings.seed)
        generator = self._open(int(rng.integers(2**31)))
        is_told = listener and settings.is_sampled and not settings.counts_prompt
        completions: list[list[Completion]] = [[] for _ in prompts]
        for batch in self._batches(prompts, settings):
            (rows, owners), ended = zip(*batch, strict=True), []

            # An exception in this function would end the process: CTranslate2 calls it in another thread
            def tell(step: ctranslate2.GenerationStepResult, owners: tuple = owners, ended: list = ended) -> bool:
                if listener(owners[step.batch_id][step.hypothesis_id or 0], step.token_id):
                    ended.append(True)
                return bool(ended)

            # Where tokens of the prompt count as repeated, they are part of the result, all but the first
            skipped = len(rows[0]) - 1 if settings.counts_prompt else 0
            results = generator.generate_batch(
                self._named(rows),
                beam_size=settings.beams,
                num_hypotheses=len(owners[0]),
                sampling_temperature=settings.temperature,
                sampling_topk=1 if settings.beams > 1 else settings.top_k,
                sampling_topp=1 if settings.beams > 1 else settings.top_p,
                repetition_penalty=settings.repetition_penalty,
                no_repeat_ngram_size=settings.no_repeat_ngram,
                max_length=skipped + settings.max_tokens,
                min_length=skipped + settings.min_tokens if settings.min_tokens else 0,
                include_prompt_in_result=settings.counts_prompt,
                end_token=[self.tokenizer.eos_id],
                return_end_token=True,
                return_scores=True,
                callback=tell if is_told else None,
            )
            if ended:
                raise CancelledError
            for prompt, numbers, result in zip(rows, owners, results, strict=True):
                texts = [ids[skipped:] for ids in result.sequences_ids]
                scores = result.scores  # mean log-probabilities, but after penalties and exclusions
                if settings.min_tokens or settings.counts_prompt:
                    read = self._named([[*prompt, *ids] for ids in texts])
                    logprobs = [row.log_probs for row in generator.score_batch(read, max_batch_size=16)]
                    scores = [np.mean(row[-len(ids) :]) for row, ids in zip(logprobs, texts, strict=True)]
                # The results of a prompt come best first; samples are shuffled
                order = rng.permutation(len(texts)) if settings.is_sampled else range(len(texts))
                for i, which in zip(numbers, order, strict=True):
                    completions[i].append(Completion.of(texts[which], scores[which], self.tokenizer.eos_id))
        return completions

    def _batches(
        self, prompts: list[list[int]], settings: GenerationSettings
    ) -> Iterator[list[tuple[list[int], list[int]]]]:
        """Batches of prompts, each with an index for each of its texts, that of the text in ``prompts``.

        Texts of equal prompts that are longer than their texts are sampled together, so that the prompt is read once.
        Prompts with equally many texts share batches. But CTranslate2 reads one by one what prompts are longer than the
        shortest, so long ones only share them with prompts of their length; next to a prompt of one token, it returns
        the rest of longer prompts as generated text.
        """
        tokens = max(map(len, prompts), default=1) + settings.max_tokens
        max_rows = max(1, min(MAX_ROWS, MAX_CACHE_BYTES // (self._token_bytes * tokens)))
        owners: dict[tuple, list[int]] = defaultdict(list)
        for i, prompt in enumerate(prompts):
            is_shared = settings.is_sampled and len(prompt) > settings.max_tokens
            owners[tuple(prompt), -1 if is_shared else i] += [i] * settings.count
        batches: dict[tuple[int, int], list[tuple]] = defaultdict(list)
        for (prompt, _), numbers in owners.items():
            is_grouped = len(prompt) > settings.max_tokens or settings.counts_prompt
            for first in range(0, len(numbers), max_rows):
                some = numbers[first : first + max_rows]
                batches[len(prompt) if is_grouped else min(len(prompt), 2), len(some)].append((list(prompt), some))
        for (_, count), batch in batches.items():
            size = max(1, max_rows // max(count, settings.beams))
            yield from (batch[first : first + size] for first in range(0, len(batch), size))

    def _named(self, rows: list[list[int]]) -> list[list[str]]:
        return [[self._tokens[i] for i in row] for row in rows]

    def next_token_logprobs(self, prompts: list[list[int]]) -> np.ndarray:
        """See `Backend.next_token_logprobs`."""
        generator, rows = self._open(), []
        for prompt in prompts:  # separately: CTranslate2 returns the log-probabilities of all tokens
            logprobs = generator.forward_batch([prompt], return_log_probs=True)
            rows.append(np.array(logprobs.to_device(ctranslate2.Device.cpu))[0, -1])
        return np.array(rows)
