"""Snapshots: a model before and after training, measured alike on the same validation documents."""

from titlesmith.corpus import Corpus
from titlesmith.corpus.budget import SHARES, affordable, evenly_spread, tokens_read
from titlesmith.evaluate.held_out import documents_at
from titlesmith.evaluate.losses import measure_losses
from titlesmith.evaluate.rouge import add_rouge
from titlesmith.generate import GenerationSettings, backend_for
from titlesmith.train import Engine

TEXTS = 10
MIN_TOKENS, MAX_TOKENS = 8, 256  # minimum room for a text, and its maximum length


def snapshot_documents(corpus: Corpus, settings: dict) -> int:
    """How many validation documents to measure before and after a training with the parameters of notebook 03."""
    planned = settings["epochs"] * len(corpus.documents("train").ids) or tokens_read(settings, settings["steps"])
    return len(affordable(corpus, "valid", SHARES["snapshot"] * planned))


def snapshot(engine: Engine, corpus: Corpus, documents: int, seed: int) -> dict:
    """Measures a model on ``documents`` validation documents, and samples `TEXTS` texts with default settings.

    If documents have prompts, texts complete those of some, and ROUGE compares them with the ``real`` texts of these.
    """
    chosen = evenly_spread(len(corpus.documents("valid")), documents)
    measurements = measure_losses(engine, corpus, "valid", chosen, seed)
    texts, real = _sample(engine, corpus, seed)
    if real:
        add_rouge(measurements, [(str(i), *pair) for i, pair in enumerate(zip(real, texts, strict=True))], seed)
    return {"documents": len(chosen), **measurements.to_dict(), "texts": texts, "real": real}


def _sample(engine: Engine, corpus: Corpus, seed: int) -> tuple[list[str], list[str]]:
    """Sampled texts, and the real texts of the documents whose prompts they complete."""
    backend, layout = backend_for(engine), corpus.layout
    rows = documents_at(corpus, "valid", evenly_spread(len(corpus.documents("valid")), TEXTS))
    # Texts may be as long as the longest real one; a prompt that leaves no room for a text is skipped
    longest = max(len(layout.completion_tokenizer.encode(text)) for text in rows["completion"])
    pairs = [(layout.prompt_ids(prompt), real) for prompt, real in zip(rows["prompt"], rows["completion"], strict=True)]
    pairs = [(ids, real) for ids, real in pairs if len(ids) + MIN_TOKENS <= backend.context]
    if not pairs:
        return [], []
    count, pairs = (1, pairs) if corpus.has_prompt else (TEXTS, pairs[:1])
    room = backend.context - max(len(ids) for ids, _ in pairs)
    sampling = GenerationSettings(count=count, seed=seed, max_tokens=min(room, max(MIN_TOKENS, longest), MAX_TOKENS))
    completions = backend.generate([ids for ids, _ in pairs], sampling)
    texts = [layout.decode(completion.ids) for of in completions for completion in of]
    return texts, [real for _, real in pairs] if corpus.has_prompt else []
