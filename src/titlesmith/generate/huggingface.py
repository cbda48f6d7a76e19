"""Models of the transformers library: its own `generate`, with a sampler that the seed alone decides."""

import numpy as np
import torch
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    MinNewTokensLengthLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    PreTrainedModel,
    RepetitionPenaltyLogitsProcessor,
)

from titlesmith.corpus.tokenizer import Tokenizer
from titlesmith.generate.backend import Completion
from titlesmith.generate.settings import GenerationSettings, check_context
from titlesmith.models import cpu_name

ROWS, TOKENS = 128, 2**15  # texts that are generated in parallel, and tokens of their prompts and texts, at most
CANDIDATES = 1024  # likeliest tokens that a nucleus is looked for in first


class Vocabulary(LogitsProcessor):
    """Excludes ids after the tokenizer's last, with which some models pad their embeddings."""

    def __init__(self, length: int):
        self._length = length

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Scores (rows, vocabulary) with the ids after the last at minus infinity."""
        padding = torch.arange(self._length, scores.shape[1], device=scores.device)
        return scores.index_fill(1, padding, -torch.inf)


class ExceptEnd(LogitsProcessor):
    """Another processor, but for the end of text: the one that opens a document does not count as a repetition."""

    def __init__(self, processor: LogitsProcessor, end: int):
        self._processor, self._end = processor, end

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Scores (rows, vocabulary) of the other processor."""
        changed = self._processor(input_ids, scores)
        return changed.index_copy(1, torch.tensor([self._end], device=scores.device), scores[:, [self._end]])


class Sampler(LogitsProcessor):
    """Samples the next token of each row, after other processors: by temperature, top-k, then top-p.

    It leaves the sampled token as the only possible one, which greedy decoding then takes.

    Parameters
    ----------
    processors
        Change the scores first.
    settings
        ``temperature``, ``top_k``, ``top_p``.
    seed
        Of the random numbers, one per row and step.

    Attributes
    ----------
    logprobs
        Log-probability of the sampled token under the model itself, shape (rows,), for each step.
    """

    def __init__(self, processors: list[LogitsProcessor], settings: GenerationSettings, seed: int):
        self._processors, self._settings = LogitsProcessorList(processors), settings
        self._random, self.logprobs = torch.Generator().manual_seed(seed), []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Scores (rows, vocabulary), all but one of each row at minus infinity."""
        numbers = torch.rand(len(scores), 1, generator=self._random, dtype=torch.float64).to(scores.device)
        chosen = self._choose(self._processors(input_ids, scores).double() / self._settings.temperature, numbers)
        self.logprobs.append(scores.gather(1, chosen)[:, 0] - scores.logsumexp(1))
        return torch.full_like(scores, -torch.inf).scatter_(1, chosen, 0.0)

    def _choose(self, logits: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        """The ids at ``numbers`` (rows, 1) in [0, 1) of the distribution that is left, shape (rows, 1)."""
        top_k, top_p, size = self._settings.top_k, self._settings.top_p, logits.shape[1]
        if not top_k and top_p == 1:
            cumulative, ids = logits.softmax(1).cumsum(1), None
        else:
            # The likeliest tokens, best first; without top_k, as many as hold the nucleus: a large vocabulary is not
            # sorted for it
            values, ids = logits.topk(min(top_k or CANDIDATES, size))
            total = (values if top_k else logits).logsumexp(1, keepdim=True)
            if not top_k and (values - total).exp().sum(1).min() < top_p:
                values, ids = logits.topk(size)
            probabilities = (values - total).exp()
            before = probabilities.cumsum(1) - probabilities
            cumulative = probabilities.masked_fill(before >= top_p, 0).cumsum(1)
        chosen = torch.searchsorted(cumulative, numbers * cumulative[:, -1:], right=True)
        return chosen if ids is None else ids.gather(1, chosen)


class TransformersBackend:
    """A causal model of the transformers library; see `titlesmith.generate.backend.Backend`.

    Parameters
    ----------
    model
        The model, with or without adapters.
    tokenizer
        Its vocabulary.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: Tokenizer):
        gpu, config = torch.cuda.is_available(), model.config.get_text_config()
        if gpu and not getattr(model, "is_quantized", False):
            model.to("cuda")
        model.generation_config = GenerationConfig()  # the publisher's settings would apply otherwise
        self._model, self.tokenizer, self._tokens = model, tokenizer, TOKENS
        self.context = getattr(config, "max_position_embeddings", None) or 2048
        self.device = f"{torch.cuda.get_device_name() if gpu else cpu_name()}, {model.dtype} (transformers)"
        if gpu:  # keys and values take an eighth of its memory at most
            each = 2 * config.num_hidden_layers * config.hidden_size * model.dtype.itemsize
            self._tokens = torch.cuda.get_device_properties(0).total_memory // 8 // each

    @torch.compiler.set_stance("force_eager")
    def generate(self, prompts: list[list[int]], settings: GenerationSettings) -> list[list[Completion]]:
        """See `Backend.generate`."""
        check_context(max(map(len, prompts), default=1), settings.max_tokens, self.context)
        rng = np.random.default_rng(settings.seeds)
        completions: list[list[Completion]] = [[] for _ in prompts]
        # A row per text, or per prompt where beams find several; short prompts first, so that little is padded
        copies = settings.count if settings.beams == 1 else 1
        order = np.repeat(np.argsort([len(prompt) for prompt in prompts], kind="stable"), copies).tolist()
        while order:
            tokens = len(prompts[order[0]]) + settings.max_tokens
            rows = max(1, min(ROWS, self._tokens // tokens) // settings.beams)
            some, order = order[:rows], order[rows:]
            given, seed = [prompts[i] for i in some], int(rng.integers(2**31))
            found = self._search(given, settings) if settings.beams > 1 else self._sample(given, settings, seed)
            for i, new in zip(some, found, strict=True):
                completions[i] += new
        return completions

    def _sample(self, prompts: list[list[int]], settings: GenerationSettings, seed: int) -> list[list[Completion]]:
        """A completion of each prompt."""
        sampler = Sampler(self._processors(prompts, settings), settings, seed)
        rows = self._generate(prompts, [sampler], settings.max_tokens).tolist()
        logprobs = torch.stack(sampler.logprobs, 1).float().cpu().numpy()
        completions = []
        for row, own in zip(rows, logprobs, strict=True):
            ids, finished = self._cut(row)
            completions.append([Completion(ids, float(own[: len(ids) + finished].mean()), finished)])
        return completions

    def _search(self, prompts: list[list[int]], settings: GenerationSettings) -> list[list[Completion]]:
        """The best completions of each prompt by beam search."""
        beams = {"num_beams": settings.beams, "num_return_sequences": settings.count}
        rows = self._generate(prompts, self._processors(prompts, settings), settings.max_tokens, **beams).tolist()
        completions: list[list[Completion]] = [[] for _ in prompts]
        for number, row in enumerate(rows):
            ids, finished = self._cut(row)
            which = number // settings.count
            ended = ids + [self.tokenizer.eos_id] * finished
            completions[which].append(Completion(ids, self._mean_logprob(prompts[which], ended), finished))
        return completions

    def _processors(self, prompts: list[list[int]], settings: GenerationSettings) -> list[LogitsProcessor]:
        """What changes the model's scores before a token is chosen."""
        end, processors = self.tokenizer.eos_id, [Vocabulary(len(self.tokenizer))]
        if settings.repetition_penalty != 1:
            processors.append(ExceptEnd(RepetitionPenaltyLogitsProcessor(settings.repetition_penalty), end))
        if settings.no_repeat_ngram:
            processors.append(ExceptEnd(NoRepeatNGramLogitsProcessor(settings.no_repeat_ngram), end))
        if settings.min_tokens:
            width, device = max(map(len, prompts)), self._model.device
            processors.append(MinNewTokensLengthLogitsProcessor(width, settings.min_tokens, end, device=device))
        return processors

    def _generate(
        self, prompts: list[list[int]], processors: list[LogitsProcessor], max_tokens: int, **options: int
    ) -> torch.Tensor:
        """New ids after each prompt, filled up with the end of text, shape (rows, tokens)."""
        end, width = self.tokenizer.eos_id, max(map(len, prompts))
        ids = torch.tensor([[end] * (width - len(prompt)) + prompt for prompt in prompts], device=self._model.device)
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        common = {"do_sample": False, "eos_token_id": end, "pad_token_id": end, "max_new_tokens": max_tokens}
        training = self._model.training
        self._model.eval()
        with torch.no_grad():  # in inference mode, weights that are sharded over processes could not be trained later
            found = self._model.generate(
                input_ids=ids,
                attention_mask=mask.to(ids.device),
                generation_config=GenerationConfig(**common, **options),
                logits_processor=LogitsProcessorList(processors),
            )
        self._model.train(training)
        return found[:, width:]

    def _cut(self, row: list[int]) -> tuple[list[int], bool]:
        """The ids before the end of text, and whether there is one."""
        finished = self.tokenizer.eos_id in row
        return row[: row.index(self.tokenizer.eos_id)] if finished else row, finished

    def _mean_logprob(self, prompt: list[int], text: list[int]) -> float:
        """The mean log-probability of the ids of a text."""
        ids = torch.tensor([[*prompt, *text]], device=self._model.device)
        with torch.no_grad():
            logits = self._model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1].float()
        return float(logits.log_softmax(1).gather(1, ids[0, len(prompt) :, None]).mean())

    @torch.compiler.set_stance("force_eager")
    def next_token_logprobs(self, prompts: list[list[int]]) -> np.ndarray:
        """See `Backend.next_token_logprobs`."""
        check_context(max(map(len, prompts), default=1), 0, self.context)
        logprobs = np.empty((len(prompts), len(self.tokenizer)), np.float32)
        for first in range(0, len(prompts), ROWS):
            last = LastLogits()
            self._generate(prompts[first : first + ROWS], [last], 1)
            logprobs[first : first + ROWS] = last.logits.log_softmax(1)[:, : len(self.tokenizer)].float().cpu()
        return logprobs


class LastLogits(LogitsProcessor):
    """Keeps the model's own scores of the latest token, as ``logits``, shape (rows, vocabulary)."""

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """The scores unchanged."""
        self.logits = scores
        return scores
