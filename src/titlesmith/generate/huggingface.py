"""Texts from a model of the transformers library: its own `generate`, with draws that the seed alone decides."""

from collections import Counter
from collections.abc import Iterator

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
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)


class Drawing(LogitsProcessor):
    """Draws each next id by a number in [0, 1) of its own, so that a text is the same whatever is drawn beside it.

    The id drawn is left as the only one that is possible, and greedy decoding takes it.

    Parameters
    ----------
    numbers
        Shape (rows, most new tokens).
    width
        Ids of the prompts.
    """

    def __init__(self, numbers: np.ndarray, width: int):
        self.numbers, self.width = torch.from_numpy(numbers), width

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Scores (rows, vocabulary) with all but one of each row at minus infinity."""
        reached = torch.cumsum(torch.softmax(scores.double(), -1), -1)
        number = self.numbers[:, input_ids.shape[1] - self.width, None].to(scores.device)
        ids = torch.searchsorted(reached, number * reached[:, -1:], right=True)
        return torch.full_like(scores, -torch.inf).scatter_(1, ids, 0.0)


class Vocabulary(LogitsProcessor):
    """Forbids ids behind the tokenizer's last, with which some models' tables are filled up."""

    def __init__(self, length: int):
        self.length = length

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Scores (rows, vocabulary) with ids behind the last at minus infinity."""
        if scores.shape[1] <= self.length:
            return scores
        return scores.index_fill(1, torch.arange(self.length, scores.shape[1], device=scores.device), -torch.inf)


class Sparing(LogitsProcessor):
    """Another processor that leaves the end of text as it was: the one that opens a document is no repetition."""

    def __init__(self, processor: LogitsProcessor, end: int):
        self.processor, self.end = processor, end

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Scores (rows, vocabulary) of the other processor."""
        changed = self.processor(input_ids, scores)
        return changed.index_copy(1, torch.tensor([self.end], device=scores.device), scores[:, [self.end]])


def left_padded(prompts: list[list[int]], end: int, device: torch.device) -> dict[str, torch.Tensor]:
    """Prompts side by side, their last ids in the last column: ``input_ids`` and ``attention_mask``."""
    width = max(map(len, prompts))
    ids = [[end] * (width - len(prompt)) + prompt for prompt in prompts]
    mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return {"input_ids": torch.tensor(ids, device=device), "attention_mask": torch.tensor(mask, device=device)}


def batches(
    prompts: list[list[int]], settings: dict, most_rows: int, most_ids: int
) -> Iterator[tuple[list[list[int]], list[int], list[list[int]]]]:
    """Rows to be continued side by side, the short ones first: their prompts, the prompts' numbers, their seeds.

    A row's seed is made of its prompt and of how often that came before, so that its text does not depend on others.
    """
    rows, occurrences, beams = [], Counter(), settings["beams"]
    for number, prompt in enumerate(prompts):
        for _ in range(1 if beams > 1 else settings["count"]):
            seed = [*np.atleast_1d(settings["seed"]), occurrences[tuple(prompt)], len(prompt), *prompt]
            occurrences[tuple(prompt)] += 1
            rows.append((prompt, number, seed))
    rows.sort(key=lambda row: len(row[0]))
    while rows:
        some = max(1, min(most_rows, most_ids // (len(rows[0][0]) + settings["max_tokens"])) // beams)
        batch, rows = rows[:some], rows[some:]
        yield tuple(map(list, zip(*batch, strict=True)))


def ended(found: np.ndarray, end: int) -> list[tuple[list[int], bool]]:
    """The ids of each row up to its end of text, and whether there is one."""
    texts = []
    for row in found.tolist():
        length = row.index(end) if end in row else len(row)
        texts.append((row[:length], length < len(row)))
    return texts


def laid_out(prompts: list[list[int]], texts: list[tuple[list[int], bool]], end: int) -> tuple[np.ndarray, np.ndarray]:
    """Prompts with their texts as rows of ids, and which predictions are the texts', as `Engine.losses` takes them."""
    sizes = [len(prompt) + len(ids) + finished for prompt, (ids, finished) in zip(prompts, texts, strict=True)]
    rows = np.full((len(texts), max(*sizes, 2)), end, np.int64)
    learned = np.zeros((len(texts), rows.shape[1] - 1), np.float32)
    for i, (prompt, (ids, _), size) in enumerate(zip(prompts, texts, sizes, strict=True)):
        rows[i, : len(prompt) + len(ids)] = prompt + ids
        learned[i, len(prompt) - 1 : size - 1] = 1
    return rows, learned


def continued(
    model: PreTrainedModel, prompts: list[list[int]], seeds: list[list[int]], settings: dict, end: int, length: int
) -> np.ndarray:
    """Ids behind prompts, with the end of text behind the ones that ended.

    Parameters
    ----------
    model
        What writes.
    prompts
        A row each.
    seeds
        What decides the draws of each row.
    settings
        As `titlesmith.train.loop.SAMPLING` has them; with ``beams``, ``count`` texts of each prompt.
    end, length
        The end of text, and how many ids the tokenizer has.

    Returns
    -------
    numpy.ndarray
        Shape (rows, new tokens), (rows x count, new tokens) with beams.
    """
    most, beams = settings["max_tokens"], settings["beams"]
    given = left_padded(prompts, end, model.device)
    processors: list[LogitsProcessor] = [Vocabulary(length)]
    if settings["repetition_penalty"] != 1:
        processors.append(Sparing(RepetitionPenaltyLogitsProcessor(settings["repetition_penalty"]), end))
    if settings["no_repeat_ngram"]:
        processors.append(Sparing(NoRepeatNGramLogitsProcessor(settings["no_repeat_ngram"]), end))
    if settings["min_tokens"]:
        width = given["input_ids"].shape[1]
        processors.append(MinNewTokensLengthLogitsProcessor(width, settings["min_tokens"], end, device=model.device))
    if beams == 1:
        numbers = np.stack([np.random.default_rng(seed).random(most) for seed in seeds])
        processors.append(TemperatureLogitsWarper(settings["temperature"]))
        if settings["top_k"]:
            processors.append(TopKLogitsWarper(settings["top_k"]))
        if settings["top_p"] < 1:
            processors.append(TopPLogitsWarper(settings["top_p"]))
        processors.append(Drawing(numbers, given["input_ids"].shape[1]))
    config = GenerationConfig(
        max_new_tokens=most,
        num_beams=beams,
        num_return_sequences=settings["count"] if beams > 1 else 1,
        do_sample=False,
        eos_token_id=end,
        pad_token_id=end,
    )
    with torch.no_grad():  # not in inference mode: see `HuggingFaceEngine.losses`
        ids = model.generate(**given, generation_config=config, logits_processor=LogitsProcessorList(processors))
    return ids[:, given["input_ids"].shape[1] :].cpu().numpy()
