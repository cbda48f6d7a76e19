"""The future: whether a model that is given a word that is newer than its training texts takes it up."""

import re
from collections import defaultdict

import numpy as np

from titlesmith.corpus import Corpus
from titlesmith.evaluate.figures import Figure, MissingError, ratio

WORD = re.compile(r"[^\W\d_][\w'-]*\w")  # begins with a letter, so that numbers are none; two characters at least
EXAMPLES = 20


def words(text: str) -> set[str]:
    """The different words of a text, case folded, punctuation aside."""
    return set(WORD.findall(text.casefold()))


def newer(corpus: Corpus, prompts: dict[str, str]) -> dict[str, set[str]]:
    """The words of each paper's prompt that no training document has, neither in its prompt nor in its completion.

    Parameters
    ----------
    corpus
        Its train split is read in batches.
    prompts
        Prompts by paper.
    """
    found = {paper: words(prompt) for paper, prompt in prompts.items()}
    unknown = set().union(*found.values())
    for batch in corpus.scan("train").select("prompt", "completion").collect_batches():
        for column in batch:
            for text in column:
                unknown.difference_update(WORD.findall(text.casefold()))
    return {paper: of & unknown for paper, of in found.items()}


def use(new: dict[str, set[str]], texts: dict[str, list[str]], seed: int) -> Figure:
    """How often a new word of a prompt stands in a text that was written for the prompt.

    Parameters
    ----------
    new
        New words of each paper's prompt.
    texts
        The texts for each paper's prompt.
    seed
        Of the bootstrap over papers.

    Returns
    -------
    Figure
        The share among all pairs of a new word and a text.

    Raises
    ------
    MissingError
        No prompt has a new word.
    """
    if not any(new.values()):
        raise MissingError("no prompt has a word that is newer than the training texts")
    pairs = np.array([len(new[paper]) * len(of) for paper, of in texts.items()])
    used = np.array([sum(len(new[paper] & words(text)) for text in of) for paper, of in texts.items()])
    return ratio(used, pairs, seed)


def examples(new: dict[str, set[str]], texts: dict[str, list[str]], real: dict[str, str]) -> list[dict]:
    """New words, those of the most prompts first: in how many prompts, in how many generated and real texts."""
    rows: dict[str, dict] = defaultdict(lambda: {"prompts": 0, "generated": 0, "texts": 0, "people": 0})
    for paper, of in new.items():
        written, people = [words(text) for text in texts[paper]], words(real[paper])
        for word in of:
            row = rows[word]
            row["prompts"] += 1
            row["people"] += word in people
            row["generated"] += sum(word in text for text in written)
            row["texts"] += len(written)
    ranked = sorted(rows.items(), key=lambda item: (-item[1]["prompts"], -item[1]["people"], item[0]))
    return [{"word": word} | row for word, row in ranked[:EXAMPLES]]
