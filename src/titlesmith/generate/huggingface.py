"""Models of the transformers library: its own `generate`, with a sampler that the seed alone decides."""

from concurrent.futures import CancelledError

import numpy as np
import torch
import transformers
from transformers.utils import ModelOutput

from titlesmith.corpus.tokenizer import Tokenizer
from titlesmith.generate.backend import Completion, GenerationSettings, Listener
from titlesmith.models import cpu_name

MAX_ROWS = 128  # texts that are generated in parallel
MAX_BYTES = 2**32  # of their keys and values, and of the logits of a beam search
CANDIDATES = 1024  # likeliest tokens among which a nucleus is searched first


class Penalties(transformers.LogitsProcessor):
    """The penalties and exclusions of the settings, for prompts that are padded to ``width`` tokens.

    The end of text is not penalized as a repetition, because one opens each document.
    """

    def __init__(self, settings: GenerationSettings, tokenizer: Tokenizer, width: int):
        self._end, self._vocabulary, self._min_width = tokenizer.eos_id, len(tokenizer), width + settings.min_tokens
        self._processors = transformers.LogitsProcessorList()
        if settings.repetition_penalty != 1:
            self._processors.append(transformers.RepetitionPenaltyLogitsProcessor(settings.repetition_penalty))
        if settings.no_repeat_ngram:
            self._processors.append(transformers.NoRepeatNGramLogitsProcessor(settings.no_repeat_ngram))

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """The changed scores, shape (rows, vocabulary)."""
        changed = self._processors(input_ids, scores.clone())
        changed[:, self._end] = scores[:, self._end] if input_ids.shape[1] >= self._min_width else -torch.inf
        changed[:, self._vocabulary :] = -torch.inf  # some models pad their embeddings with ids after the last token
        return changed


class Sampler(transformers.LogitsProcessor):
    """Samples the next token of each row, after the penalties: by temperature, top-k, then top-p.

    It makes the sampled token the only possible one, which greedy decoding then chooses. ``logprobs`` gets the
    log-probabilities of the sampled tokens under the model itself, shape (rows,), at each step, and ``tell`` the row
    and the id of each.
    """

    def __init__(self, penalties: Penalties, settings: GenerationSettings, seed: int, tell: Listener | None = None):
        self._penalties, self._settings, self._tell = penalties, settings, tell
        self._random, self.logprobs = torch.Generator().manual_seed(seed), []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Scores (rows, vocabulary), all but one of each row at minus infinity."""
        numbers = torch.rand(len(scores), 1, generator=self._random, dtype=torch.float64).to(scores.device)
        chosen = self._choose(self._penalties(input_ids, scores).double() / self._settings.temperature, numbers)
        if self._tell and any(self._tell(row, token) for row, token in enumerate(chosen[:, 0].tolist())):
            raise CancelledError
        self.logprobs.append(scores.gather(1, chosen)[:, 0] - scores.logsumexp(1))
        return torch.full_like(scores, -torch.inf).scatter_(1, chosen, 0.0)

    def _choose(self, logits: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        """The ids, shape (rows, 1), at ``numbers`` in [0, 1) of the truncated cumulative distribution."""
        top_k, top_p, size = self._settings.top_k, self._settings.top_p, logits.shape[1]
        if not top_k and top_p == 1:  # all tokens, in any order
            probabilities, ids = logits.softmax(1), torch.arange(size, device=logits.device).expand_as(logits)
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
        return ids.gather(1, torch.searchsorted(cumulative, numbers * cumulative[:, -1:], right=True))


class TransformersBackend:
    """A causal model of transformers, with or without adapters; see `titlesmith.generate.backend.Backend`."""

    def __init__(self, model: transformers.PreTrainedModel, tokenizer: Tokenizer):
        gpu, config = torch.cuda.is_available(), model.config.get_text_config()
        if gpu and not getattr(model, "is_quantized", False):
            model.to("cuda")
        model.generation_config = transformers.GenerationConfig()  # the publisher's settings would apply otherwise
        self._model, self.tokenizer = model, tokenizer
        self._cache_bytes = 2 * config.num_hidden_layers * config.hidden_size * model.dtype.itemsize  # of a token
        self._logit_bytes = 4 * config.vocab_size
        self.context = getattr(config, "max_position_embeddings", None) or 2048
        self.device = f"{torch.cuda.get_device_name() if gpu else cpu_name()}, {model.dtype} (transformers)"

    @torch.compiler.set_stance("force_eager")
    def generate(
        self, prompts: list[list[int]], settings: GenerationSettings, listener: Listener | None = None
    ) -> list[list[Completion]]:
        """See `Backend.generate`."""
        is_search, end, rng = settings.beams > 1, self.tokenizer.eos_id, np.random.default_rng(settings.seed)
        completions: list[list[Completion]] = [[] for _ in prompts]
        # A row per text, or per prompt in a beam search; short prompts first, so that little is padded
        order = np.argsort(list(map(len, prompts)), kind="stable").repeat(1 if is_search else settings.count)
        row_bytes = self._cache_bytes * (max(map(len, prompts)) + settings.max_tokens)
        row_bytes += is_search * 3 * self._logit_bytes * settings.max_tokens  # with their copies when they are scored
        size = max(1, min(MAX_ROWS, MAX_BYTES // row_bytes) // settings.beams)
        for batch in np.split(order, range(size, len(order), size)):
            owners, rows = batch.repeat(settings.count if is_search else 1).tolist(), [prompts[i] for i in batch]
            penalties = Penalties(settings, self.tokenizer, max(map(len, rows)))
            if is_search:
                beams = {"num_beams": settings.beams, "num_return_sequences": settings.count, "output_logits": True}
                output = self._generate(rows, [penalties], settings.max_tokens, **beams)
                # The model's own log-probabilities; the scores of the search are those after penalties
                chosen = output.sequences, output.logits, output.beam_indices
                logprobs = self._model.compute_transition_scores(*chosen, normalize_logits=True)
            else:
                tell = listener and (lambda row, token, owners=owners: listener(owners[row], token))
                sampler = Sampler(penalties, settings, int(rng.integers(2**31)), tell)
                output = self._generate(rows, [sampler], settings.max_tokens)
                logprobs = torch.stack(sampler.logprobs, 1)
            # The ids of a text are filled up with the end of text
            for i, ids, nats in zip(owners, output.sequences.tolist(), logprobs.tolist(), strict=True):
                size = ids.index(end) + 1 if end in ids else len(ids)
                completions[i].append(Completion.of(ids, sum(nats[:size]) / size, end))
        return completions

    def _generate(self, prompts: list[list[int]], processors: list, max_tokens: int, **options: int) -> ModelOutput:
        """Output of transformers. ``sequences`` are the new ids, filled up with the end of text, (rows, tokens)."""
        end, width = self.tokenizer.eos_id, max(map(len, prompts))
        ids = torch.tensor([[end] * (width - len(prompt)) + prompt for prompt in prompts], device=self._model.device)
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        common = {"do_sample": False, "eos_token_id": end, "pad_token_id": end, "max_new_tokens": max_tokens}
        with torch.no_grad():  # in inference mode, weights that are sharded over processes could not be trained later
            output = self._model.eval().generate(
                input_ids=ids,
                attention_mask=mask.to(ids.device),
                generation_config=transformers.GenerationConfig(**common, **options, return_dict_in_generate=True),
                logits_processor=transformers.LogitsProcessorList(processors),
            )
        output.sequences = output.sequences[:, width:]
        return output

    @torch.compiler.set_stance("force_eager")
    def next_token_logprobs(self, prompts: list[list[int]]) -> np.ndarray:
        """See `Backend.next_token_logprobs`."""
        logits = [self._generate([prompt], [], 1, output_logits=True).logits[0] for prompt in prompts]
        return torch.cat(logits).log_softmax(1)[:, : len(self.tokenizer)].float().cpu().numpy()
