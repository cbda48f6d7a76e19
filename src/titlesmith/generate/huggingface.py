"""Models of the transformers library: its own `generate`, with a sampler that the seed alone decides."""

from collections.abc import Callable

import numpy as np
import torch
import transformers
from transformers.utils import ModelOutput

from titlesmith.corpus.tokenizer import Tokenizer
from titlesmith.generate.backend import Completion, Listener, StoppedError
from titlesmith.generate.settings import GenerationSettings
from titlesmith.models import cpu_name

MAX_ROWS, MAX_TOKENS = 128, 2**15  # texts that are generated in parallel, and tokens of their prompts and texts
CANDIDATES = 1024  # likeliest tokens among which a nucleus is searched first


class ExceptEnd(transformers.LogitsProcessor):
    """Another processor, without effect on the end of text: the one that opens a document is not a repetition."""

    def __init__(self, processor: transformers.LogitsProcessor, end: int):
        self._processor, self._end = processor, end

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Scores (rows, vocabulary) of the other processor."""
        changed = self._processor(input_ids, scores)
        return changed.index_copy(1, torch.tensor([self._end], device=scores.device), scores[:, [self._end]])


class Sampler(transformers.LogitsProcessor):
    """Samples the next token of each row, after other processors: by temperature, top-k, then top-p.

    It makes the sampled token the only possible one, which greedy decoding then chooses. ``logprobs`` gets the
    log-probabilities of the sampled tokens under the model itself, shape (rows,), at each step, and ``tell`` their ids;
    if it returns True, it is a StoppedError.
    """

    def __init__(
        self,
        processors: list[transformers.LogitsProcessor],
        settings: GenerationSettings,
        seed: int,
        tell: Callable[[list[int]], bool] | None = None,
    ):
        self._processors, self._settings, self._tell = transformers.LogitsProcessorList(processors), settings, tell
        self._random, self.logprobs = torch.Generator().manual_seed(seed), []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Scores (rows, vocabulary), all but one of each row at minus infinity."""
        numbers = torch.rand(len(scores), 1, generator=self._random, dtype=torch.float64).to(scores.device)
        chosen = self._choose(self._processors(input_ids, scores).double() / self._settings.temperature, numbers)
        if self._tell and self._tell(chosen[:, 0].tolist()):
            raise StoppedError
        self.logprobs.append(scores.gather(1, chosen)[:, 0] - scores.logsumexp(1))
        return torch.full_like(scores, -torch.inf).scatter_(1, chosen, 0.0)

    def _choose(self, logits: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        """The ids, shape (rows, 1), at ``numbers`` in [0, 1) of the truncated cumulative distribution."""
        top_k, top_p, size = self._settings.top_k, self._settings.top_p, logits.shape[1]
        if not top_k and top_p == 1:
            cumulative, ids = logits.softmax(1).cumsum(1), None
        else:
            # The likeliest tokens, best first. Without top_k, as many as contain the nucleus, so that a large
            # vocabulary is rarely sorted
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
    """A causal model of transformers, with or without adapters; see `titlesmith.generate.backend.Backend`."""

    def __init__(self, model: transformers.PreTrainedModel, tokenizer: Tokenizer):
        gpu, config = torch.cuda.is_available(), model.config.get_text_config()
        if gpu and not getattr(model, "is_quantized", False):
            model.to("cuda")
        model.generation_config = transformers.GenerationConfig()  # the publisher's settings would apply otherwise
        self._model, self.tokenizer, self._max_tokens = model, tokenizer, MAX_TOKENS
        self.context = getattr(config, "max_position_embeddings", None) or 2048
        self.device = f"{torch.cuda.get_device_name() if gpu else cpu_name()}, {model.dtype} (transformers)"
        if gpu:  # keys and values take at most an eighth of its memory
            token_bytes = 2 * config.num_hidden_layers * config.hidden_size * model.dtype.itemsize
            self._max_tokens = torch.cuda.get_device_properties(0).total_memory // 8 // token_bytes

    @torch.compiler.set_stance("force_eager")
    def generate(
        self, prompts: list[list[int]], settings: GenerationSettings, listener: Listener | None = None
    ) -> list[list[Completion]]:
        """See `Backend.generate`."""
        rng = np.random.default_rng(settings.seed)
        completions: list[list[Completion]] = [[] for _ in prompts]
        # A row per text, or per prompt in a beam search; short prompts first, so that little is padded
        copies = settings.count if settings.beams == 1 else 1
        order = np.repeat(np.argsort([len(prompt) for prompt in prompts], kind="stable"), copies).tolist()
        while order:
            tokens = len(prompts[order[0]]) + settings.max_tokens
            size = max(1, min(MAX_ROWS, self._max_tokens // tokens) // settings.beams)
            batch, order = order[:size], order[size:]
            rows, seed = [prompts[i] for i in batch], int(rng.integers(2**31))

            def tell(ids: list[int], batch: list[int] = batch) -> bool:
                return any(listener(i, token) for i, token in zip(batch, ids, strict=True))

            if settings.beams > 1:
                completed = self._search(rows, settings)
            else:
                sampler = Sampler(self._processors(rows, settings), settings, seed, tell if listener else None)
                sequences = self._generate(rows, [sampler], settings.max_tokens).sequences.tolist()
                logprobs = torch.stack(sampler.logprobs, 1).tolist()
                completed = [[self._completion(*pair)] for pair in zip(sequences, logprobs, strict=True)]
            for i, new in zip(batch, completed, strict=True):
                completions[i] += new
        return completions

    def _search(self, prompts: list[list[int]], settings: GenerationSettings) -> list[list[Completion]]:
        """The best completions of each prompt by beam search."""
        beams = {"num_beams": settings.beams, "num_return_sequences": settings.count}
        output = self._generate(prompts, self._processors(prompts, settings), settings.max_tokens, **beams)
        completions, width = [], output.sequences.shape[1]
        for prompt, texts in zip(prompts, output.sequences.split(settings.count), strict=True):
            # The scores of the search are those after penalties, so the model reads the texts again
            ids = torch.cat([torch.tensor([prompt], device=texts.device).expand(len(texts), -1), texts], 1)
            with torch.no_grad():
                logits = self._model(input_ids=ids, logits_to_keep=width + 1).logits[:, :-1]
            logprobs = logits.float().log_softmax(-1).gather(2, texts[:, :, None])[:, :, 0]
            completions.append(
                [self._completion(*pair) for pair in zip(texts.tolist(), logprobs.tolist(), strict=True)]
            )
        return completions

    def _completion(self, row: list[int], logprobs: list[float]) -> Completion:
        """The completion in a row of ids that is filled up with the end of text, by their log-probabilities."""
        end = self.tokenizer.eos_id
        size = row.index(end) + 1 if end in row else len(row)
        return Completion.of(row, sum(logprobs[:size]) / size, end)

    def _processors(self, prompts: list[list[int]], settings: GenerationSettings) -> list[transformers.LogitsProcessor]:
        """The processors that change the model's scores before a token is chosen."""
        end, device = self.tokenizer.eos_id, self._model.device
        # Some models pad their embeddings with ids after the tokenizer's last
        padding = range(len(self.tokenizer), self._model.config.get_text_config().vocab_size)
        processors = [transformers.SuppressTokensLogitsProcessor([*padding], device)] if padding else []
        if settings.repetition_penalty != 1:
            penalty = transformers.RepetitionPenaltyLogitsProcessor(settings.repetition_penalty)
            processors.append(ExceptEnd(penalty, end))
        if settings.no_repeat_ngram:
            processors.append(ExceptEnd(transformers.NoRepeatNGramLogitsProcessor(settings.no_repeat_ngram), end))
        if settings.min_tokens:
            longest, size = max(map(len, prompts)), settings.min_tokens
            processors.append(transformers.MinNewTokensLengthLogitsProcessor(longest, size, end, device))
        return processors

    def _generate(self, prompts: list[list[int]], processors: list, max_tokens: int, **options: int) -> ModelOutput:
        """Output of transformers. ``sequences`` are the new ids, filled up with the end of text, (rows, tokens)."""
        end, width = self.tokenizer.eos_id, max(map(len, prompts))
        ids = torch.tensor([[end] * (width - len(prompt)) + prompt for prompt in prompts], device=self._model.device)
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        common = {"do_sample": False, "eos_token_id": end, "pad_token_id": end, "max_new_tokens": max_tokens}
        training = self._model.training
        self._model.eval()
        with torch.no_grad():  # in inference mode, weights that are sharded over processes could not be trained later
            output = self._model.generate(
                input_ids=ids,
                attention_mask=mask.to(ids.device),
                generation_config=transformers.GenerationConfig(**common, **options, return_dict_in_generate=True),
                logits_processor=transformers.LogitsProcessorList(processors),
            )
        self._model.train(training)
        output.sequences = output.sequences[:, width:]
        return output

    @torch.compiler.set_stance("force_eager")
    def next_token_logprobs(self, prompts: list[list[int]]) -> np.ndarray:
        """See `Backend.next_token_logprobs`."""
        logprobs, size = np.empty((len(prompts), len(self.tokenizer)), np.float32), len(self.tokenizer)
        for first in range(0, len(prompts), MAX_ROWS):
            (logits,) = self._generate(prompts[first : first + MAX_ROWS], [], 1, output_logits=True).logits
            logprobs[first : first + MAX_ROWS] = logits.log_softmax(1)[:, :size].float().cpu()
        return logprobs
