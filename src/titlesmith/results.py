"""What the stages return to a notebook: results that show tables, and that the functions of `titlesmith.plots` draw."""

from dataclasses import dataclass

import polars as pl
from IPython.display import HTML

from titlesmith.corpus import Corpus
from titlesmith.evaluate import report
from titlesmith.generate import texts
from titlesmith.harvest import Papers
from titlesmith.tables import table


@dataclass(frozen=True)
class Harvested:
    """The papers of a harvest."""

    papers: Papers  #: The table of papers, on disk.
    seed: int  #: Decides which papers `sample` shows.
    label: str  #: What was harvested, for titles of figures.

    def scan(self) -> pl.LazyFrame:
        """The table of papers, to read the rows and columns that are needed."""
        return self.papers.scan()

    def sample(self, count: int = 8) -> HTML:
        """A table of random papers, oldest first."""
        names = {"id": "id", "published": "published", "primary_category": "category", "title": "title"}
        return table(self.papers.sample(count, self.seed).to_dicts(), names)

    def counts(self) -> HTML:
        """A table of the rows that were read, filtered, repeated and kept."""
        names = {"read": "rows read", "outside": "outside the filters", "repeated": "with a repeated id"}
        return table([self.papers.counts], names | {"beyond": "beyond max_results", "kept": "papers kept"})

    def faults(self) -> HTML:
        """A table of the rows that are not papers, by reason."""
        return table([{"reason": reason} | fault for reason, fault in self.papers.faults.items()])


@dataclass(frozen=True)
class Built:
    """A corpus, as the corpus stage built it."""

    corpus: Corpus  #: Its documents.
    label: str  #: What was harvested, for titles of figures.

    def splits(self) -> HTML:
        """A table of documents, tokens and dates of each split."""
        return table(self.corpus.counts)

    def categories(self, count: int = 10) -> HTML:
        """A table of the most frequent categories."""
        return table(self.corpus.categories[:count])

    def dropped(self) -> HTML:
        """A table of the papers that were dropped, by reason, with examples."""
        return table([row for row in self.corpus.dropped if row["papers"]])

    def show_tokens(self, count: int = 60) -> None:
        """Prints the first tokens of the first training document."""
        ids = self.corpus.documents("train")[0][:count]
        print(*(self.corpus.tokenizer.decode([token]) for token in ids), sep=" | ")


@dataclass(frozen=True)
class History:
    """A training that has stopped."""

    rows: list[dict]  #: The rows of ``history.csv``, one for each step.
    loss_floor: float  #: The setting, in nats a token; 0 for none.
    memorization_floor: float  #: Loss in nats a token of a model that knows all training documents, not their order.
    kept_step: int  #: The step whose weights were kept, 0 while there is none.
    stop_reason: str  #: Why training stopped.
    first_samples: list[dict]  #: The first text of each sample that was generated during training.
    label: str  #: What was trained on, for titles of figures.
    stopped: str = ""  #: After an interrupt, how far the training came and how to resume it.

    def __str__(self) -> str:
        if self.stopped:
            return self.stopped[0].upper() + self.stopped[1:]
        measured = {row["step"]: row["valid_loss"] for row in self.rows if row["valid_loss"] is not None}
        loss, why = measured.get(self.kept_step), "the last step"
        if loss is not None and loss == min(measured.values()):
            why = f"the step with the lowest validation loss, {loss:.2f} nats a token"
        return f"Training stopped because {self.stop_reason}. Kept: the weights of step {self.kept_step}, {why}."

    def samples(self) -> HTML:
        """A table of the first text of each sample."""
        return table(self.first_samples)


@dataclass(frozen=True)
class Texts:
    """The generated texts."""

    rows: list[dict]  #: The rows of ``texts.jsonl``.
    name: str  #: Of the run; names the CSV file that readers of the book can download.

    def table(self) -> HTML:
        """A table of the texts, each with its nearest training text."""
        return table(self.rows, texts.columns(self.rows), f"{self.name}-texts.csv")


@dataclass(frozen=True)
class Evaluation:
    """Measurements of a model and of its texts."""

    metrics: dict  #: The content of ``metrics.json``.
    model: str  #: The model that was fine-tuned.
    rows: list[dict]  #: The rows of ``texts.jsonl``.
    held_out: list[str]  #: Texts by people, as many as were generated if the test split has that many.
    label: str  #: What was trained on, for titles of figures.
    people: str = "by people"  #: Who wrote the held-out texts.

    def perplexity(self) -> HTML:
        """A table of the perplexity of each split, with the number of documents that were measured."""
        counts = self.metrics["perplexity_documents"].items()
        names = {"model": "model"} | {name: f"{name} ({count:,} documents)" for name, count in counts}
        names |= {"test, bits per byte": "test, bits per byte"}
        return table(report.perplexities(self.metrics, self.model), names)

    def before_after(self) -> HTML:
        """A table of the model before training and after, measured on the same validation documents."""
        return table(report.before_after(self.metrics))

    def texts_before_after(self) -> HTML:
        """A table of texts that the model generated before training and after, side by side."""
        return table(report.texts_before_after(self.metrics))

    def distribution(self) -> HTML:
        """A table of the classifier's accuracy and of the reference model's bits per byte, next to texts by people."""
        return self._compare(report.DISTRIBUTION)

    def abstracts(self) -> HTML:
        """A table of the title's terms that abstracts use and of LaTeX that parses, next to texts by people."""
        return self._compare(report.ABSTRACTS)

    def published(self) -> HTML:
        """A table of stemmed ROUGE, next to values of published models on other test sets."""
        return table(report.published(self.metrics))

    def style(self) -> HTML:
        """A table of lengths, distinct words and self-BLEU, next to texts by people."""
        return self._compare(report.STYLE)

    def faults(self) -> HTML:
        """A table of copies and artifacts, next to texts by people."""
        return self._compare(report.FAULTS)

    def nearest(self, count: int = 10) -> HTML:
        """A table of the generated texts that are most similar to a training text."""
        rows = sorted(self.rows, key=lambda row: -row["nearest_similarity"])[:count]
        names = {"text": "generated text", "nearest": "nearest training text", "nearest_similarity": "similarity"}
        return table(rows, names)

    def overlap(self) -> HTML:
        """A table of the overlap with the real texts of the same papers."""
        return self._compare(report.PROMPTED)

    def new_words(self) -> HTML:
        """A table of the prompts' words that no training text has, and how many texts use them."""
        names = {"word": "new word", "prompts": "prompts with it", "generated": "generated texts with it"}
        names |= {"texts": "of", "people": "real texts with it"}
        return table(self.metrics.get("future", {}).get("examples", []), names)

    def _compare(self, names: tuple[str, ...]) -> HTML:
        return table(report.comparison(self.metrics, names, self.people), empty=report.why_missing(self.metrics, names))
