"""The probe: texts that a model writes during training, and how many of them are copies of training texts."""

from titlesmith.corpus import Corpus
from titlesmith.corpus.clean import fold
from titlesmith.generate.settings import GenerationSettings
from titlesmith.generate.source import backend_for
from titlesmith.train import Engine

MAX_TOKENS = 48  # of a text


class Probe:
    """Samples texts from an engine: ``settings["probe"]`` of them, with the prompt of the first validation document."""

    def __init__(self, corpus: Corpus, settings: dict):
        # Hashes, because millions of abstracts do not fit into memory
        batches = corpus.scan("train").select("completion").collect_batches()
        self._known = {hash(fold(text)) for batch in batches for text in batch.to_series()}
        self._layout, self._count, self._seed = corpus.layout, settings["probe"], settings["seed"]
        self._opening = corpus.layout.prompt_ids(corpus.scan("valid").head(1).collect()["prompt"].item())

    def __call__(self, engine: Engine) -> tuple[list[str], float]:
        """Texts, and the share of them that equals a training text, case and white space aside."""
        backend = backend_for(engine)
        max_tokens = min(MAX_TOKENS, backend.context - len(self._opening))
        settings = GenerationSettings(count=self._count, seed=self._seed, max_tokens=max_tokens)
        (completions,) = backend.generate([self._opening], settings)
        texts = [self._layout.decode(completion.ids) for completion in completions]
        return texts, sum(hash(fold(text)) in self._known for text in texts) / len(texts)
